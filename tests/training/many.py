"""One process of the training in sliced.py, as test_processes.py starts it. python many.py FOLDER OPTIONS-IN-JSON"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from training.sliced import train
from vitkit.data.slices import Slices
from vitkit.training.processes import Processes, joined
from vitkit.training.state import Progress


def main(folder: Path, options: dict[str, Any]) -> None:
    torch.set_num_threads(1)

    def on_step(progress: Progress, row: dict[str, float]) -> None:
        if progress.step == options.get("killed_after") and processes.rank == options.get("killed"):
            os.kill(os.getpid(), signal.SIGKILL)

    with joined():
        processes = Processes.here(sharded=options.get("sharded", False))
        slices = Slices(processes.rank, processes.count, options.get("accumulate", 1))
        train(folder, slices=slices, dtype=getattr(torch, options["dtype"]), processes=processes, on_step=on_step)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
