"""`python -m bench`: runs the benchmarks, prints a table, writes bench/results.json."""

import json
from pathlib import Path

from bench import cleanup, growth, imports, metering, turn


def main() -> None:
    """Every benchmark, with progress."""
    results = metering.run() + growth.run() + cleanup.run() + imports.run() + turn.run()
    print(f"\n{'what':<62} {'ours':>10} {'baseline':>10} {'ratio':>7}")
    for row in results:
        print(f"{row['what']:<62} {row['ours']:>10.1f} {row['baseline']:>10.1f} {row['ratio']:>7.2f}")
    path = Path(__file__).with_name("results.json")
    path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
