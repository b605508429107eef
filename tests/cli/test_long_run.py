"""The benchmark of long runs, short: kills at random moments while `vitkit classify` writes."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "long_run.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_every_picture_comes_out_once_and_in_order_through_three_kills() -> None:
    options = ["--pictures", "2000", "--kills", "3", "--commit-every", "0.05", "--form", "parquet"]
    done = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2,000 pictures through 3 kills, every one once and in order" in done.stdout
