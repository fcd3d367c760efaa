"""`python -m bench [part ...]` runs the named benchmarks or all, prints a table, and updates bench/results.json and
docs/performance.md with its charts.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import breakdown, charts, cleanup, coldstart, growth, imports, metering, peers, readers, scale, turn

PARTS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "metering": metering.run,
    "growth": growth.run,
    "cleanup": cleanup.run,
    "imports": imports.run,
    "coldstart": coldstart.run,
    "turn": turn.run,
    "breakdown": breakdown.run,
    "readers": readers.run,
    "scale": scale.run,
    "peers": peers.run,
}
ON_DEMAND = {"peers"}  # `make bench-peers` installs the other side first
RESULTS = Path(__file__).with_name("results.json")


def main() -> None:
    """Runs the named parts, or all. The stored results of other parts stay in the file."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Ratios to baselines measured in the same run."
    )
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)}; default: all but peers")
    named: list[str] = parser.parse_args().parts
    if unknown := set(named) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
    parts = named or [part for part in PARTS if part not in ON_DEMAND]
    results: dict[str, list[dict[str, Any]]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for part in parts:
        results[part] = PARTS[part]()
        # Written after each part, because a later one may take long or fail. "before" is never measured again.
        order = [name for name in (*PARTS, "before") if name in results]
        RESULTS.write_text(json.dumps({name: results[name] for name in order}, indent=2) + "\n")
        charts.write(results)
    print(f"\n{'what':<96} {'ours':>10} {'baseline':>10} {'ratio':>7}")
    for part in parts:
        for row in results[part]:
            print(f"{row['what']:<96} {row['ours']:>10.1f} {row['baseline']:>10.1f} {row['ratio']:>7.2f}")


if __name__ == "__main__":
    main()
