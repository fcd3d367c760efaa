"""The vault's share of a cold start: the time of its import against the import of its cipher alone.

Each measurement is a new process that times the import itself. Rounds are interleaved; the medians are compared.
"""

import statistics
import subprocess
import sys
from typing import Any

from infra.local.postgres import ROOT

ROUNDS = 31
IMPORTS = {
    "baseline": "from cryptography.hazmat.primitives.ciphers.aead import AESGCM",
    "ours": "import functions.common.vault",
}


def measure(statement: str) -> float:
    """The milliseconds of the import in a new process."""
    code = (
        "from time import perf_counter\n"
        f"started = perf_counter()\n{statement}\n"
        "print((perf_counter() - started) * 1000)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout)


def run() -> list[dict[str, Any]]:
    """Measures the medians of interleaved rounds, after one round that fills the caches."""
    times: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for number in range(ROUNDS + 1):
        for name, statement in IMPORTS.items():
            took = measure(statement)
            if number > 0:
                times[name].append(took)
    print(f"imports: {ROUNDS} rounds", flush=True)
    ours, baseline = statistics.median(times["ours"]), statistics.median(times["baseline"])
    return [
        {
            "what": "importing the vault in ms, against its cipher",
            "ratio": ours / baseline,
            "ours": ours,
            "baseline": baseline,
        }
    ]
