"""Claim: `import vitkit` costs under 50 ms over bare Python, and `vitkit --help` answers in under 300 ms (medians).

python benchmarks/start_up.py [--rounds 20]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    command = Path(sys.executable).with_name("vitkit")
    calls = {
        "bare": [sys.executable, "-c", "pass"],
        "import": [sys.executable, "-c", "import vitkit"],
        "help": [str(command), "--help"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(options.rounds + 2):
        for name, call in calls.items():
            start = time.perf_counter()
            subprocess.run(call, check=True, stdout=subprocess.DEVNULL)
            if number >= 2:  # the first two fill the caches
                seconds[name].append(time.perf_counter() - start)
    bare, imported, helped = (1000 * statistics.median(seconds[name]) for name in calls)
    print(f"bare Python {bare:.0f} ms; import vitkit {imported - bare:.1f} ms more; vitkit --help {helped:.0f} ms")


if __name__ == "__main__":
    main()
