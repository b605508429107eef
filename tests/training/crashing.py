"""A small training with everything on that a resume must get right, and ways to kill it. Run by test_resume.py.

    python crashing.py whole FOLDER            trains to the end (or until a signal)
    python crashing.py random FOLDER KILLS     forks it again and again, each time killed at a random moment
    python crashing.py inject FOLDER           forks it, killed just before or after a write, fsync or replace

Forking after the imports makes a kill cost milliseconds. One thread, so that the fork is safe.
"""

import math
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitkit import Preprocess, VisionTransformer
from vitkit.data.augment import AUGMENTS, Augmentation
from vitkit.data.loader import Loader
from vitkit.data.mix import MixSpec
from vitkit.data.store import MemoryStore
from vitkit.errors import Interrupted
from vitkit.training import state
from vitkit.training.loop import fit
from vitkit.training.objective import Classification
from vitkit.training.spec import TrainSpec

STEPS_PER_EPOCH, EPOCHS = 5, 14
SPEC = TrainSpec(epochs=EPOCHS, batch_size=8, save_every_s=1e-6, evaluate_every=2, ema_decay=0.9)


def train(folder: Path) -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    labels = rng.integers(0, 4, 40)
    half = (0.5, 0.5, 0.5)
    preprocess = Preprocess(size=(16, 16), resize="none", crop="none", interpolation="bicubic", mean=half, std=half)
    torch.manual_seed(1)
    model = VisionTransformer(
        image_size=16,
        patch_size=8,
        num_classes=4,
        embed_dim=16,
        depth=2,
        num_heads=2,
        mlp_dim=32,
        dropout=0.1,
        drop_path=0.2,
    )
    loader = Loader(
        MemoryStore(pixels),
        labels,
        4,
        preprocess,
        batch_size=8,
        seed=3,
        shuffle=True,
        drop_last=True,
        augment=[Augmentation(AUGMENTS["photos"], (16, 16), (16, 16))],
        mix=MixSpec(mixup=0.4, cutmix=1.0),
    )
    assert loader.steps_per_epoch == STEPS_PER_EPOCH
    held_out = Loader(MemoryStore(pixels), labels, 4, preprocess, batch_size=16)
    try:
        fit(
            model,
            Classification(label_smoothing=0.1),
            loader,
            held_out,
            SPEC,
            folder,
            device=torch.device("cpu"),
            dtype=torch.bfloat16,
        )
    except Interrupted as stopped:
        sys.exit(128 + stopped.signum)


def fork(folder: Path, before: Callable[[], None] = lambda: None) -> int:
    child = os.fork()
    if child == 0:
        before()
        train(folder)
        os._exit(0)
    return child


def newest(folder: Path) -> int:
    return max((int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*")), default=0)


def kill_at_random(folder: Path, kills: int) -> None:
    """Kills `kills` times, each at a random moment of a step, after the training got one or two steps further."""
    chance = random.Random(0)
    for _ in range(kills):
        start, first = newest(folder), math.inf
        wanted = start + chance.randint(1, 2)
        child = fork(folder)
        while (reached := newest(folder)) < wanted:
            if reached > start:
                first = min(first, time.monotonic())
            time.sleep(0.001)
        step_s = max(time.monotonic() - first, 0.01)  # of this machine: fast ones must not reach the end
        time.sleep(chance.uniform(0, step_s))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "the training ended before it was killed: give it more steps"
    print(f"{kills} kills, the last after step {newest(folder)}")


def kill_inside(folder: Path) -> None:
    """Kills at the nth call of what makes a checkpoint durable, just before it, or just after it."""
    chance = random.Random(1)
    places: list[tuple[Any, str]] = [(os, "replace"), (os, "fsync"), (state, "save_file"), (Path, "write_bytes")]
    kills = 0
    for owner, name in places:
        for after in (False, True, False, True, False, True):
            countdown = chance.randint(2, 7)

            def arm(owner: Any = owner, name: str = name, after: bool = after, countdown: int = countdown) -> None:
                real, left = getattr(owner, name), [countdown]

                def deadly(*arguments: Any, **options: Any) -> Any:
                    left[0] -= 1
                    if left[0] == 0 and not after:
                        os.kill(os.getpid(), signal.SIGKILL)
                    result = real(*arguments, **options)
                    if left[0] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return result

                setattr(owner, name, deadly)

            _, status = os.waitpid(fork(folder, arm), 0)
            assert os.WIFSIGNALED(status), f"{name} was called less than {countdown} times"
            kills += 1
    print(f"{kills} kills, the last after step {newest(folder)}")


if __name__ == "__main__":
    mode, place = sys.argv[1], Path(sys.argv[2])
    if mode == "whole":
        train(place)
    elif mode == "random":
        kill_at_random(place, int(sys.argv[3]))
    else:
        kill_inside(place)
