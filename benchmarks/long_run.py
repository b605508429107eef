"""Claim: 100,000 pictures in flat memory (at most 50 MB above the first 1,000), through three kills, each exactly once.

A folder of links to 50 small photos of noise, every 1,000th file cut off; a tiny random model; `vitkit classify` in a
process of its own, which is killed (SIGKILL) at random moments and each time called again with --resume. Checked at the
end: every picture has its rows once, in order, the cut-off ones have their error there and on stderr, exit code 1.
Memory is the resident set of the last process, the one that isn't killed. On Linux.

    python benchmarks/long_run.py [--pictures 100000] [--kills 3] [--form csv|jsonl|parquet|npz] [--seed 0]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

import vitkit

DISTINCT = 50
LIMIT_MB = 50
FIRST = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--form", choices=("csv", "jsonl", "parquet", "npz"), default="csv")
    parser.add_argument("--commit-every", type=float, default=1.0, help="Seconds between writes, for short runs.")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        names, broken = make_pictures(folder / "pictures", options.pictures)
        make_model(folder / "model")
        output = folder / f"out.{options.form}"
        said = ""
        start = time.monotonic()
        for number in range(options.kills + 1):
            # Kills in the first half, so that the last process has enough to show whether its memory grows.
            share = rng.uniform(number, number + 1) / (2 * options.kills) if number < options.kills else 2.0
            code, errors, memory = run(folder, output, options.commit_every, round(share * options.pictures), rng)
            said += errors
        seconds = time.monotonic() - start
        assert code == 1, said
        found = list(written(output))
        assert [picture for picture, _ in found] == names, "a picture is missing, twice or out of order"
        assert [picture for picture, error in found if error] == broken
        assert all(picture in said for picture in broken)
    print(f"{options.form}: {options.pictures:,} pictures through {options.kills} kills, every one once and in order")
    print(f"{len(broken)} unreadable ones named; {options.pictures / seconds:.0f} pictures/s, start-ups included")
    print(f"resident after {FIRST:,}: {memory[0]:.0f} MB; most after that: {max(memory):.0f} MB")
    assert max(memory) - memory[0] <= LIMIT_MB


def make_pictures(folder: Path, count: int) -> tuple[list[str], list[str]]:
    """The paths of the pictures in order, and of those that can't be read."""
    rng = np.random.default_rng(0)
    (folder / "of").mkdir(parents=True)
    (folder.parent / "photos").mkdir()
    files = []
    for number in range(DISTINCT):
        noise = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        files.append(folder.parent / "photos" / f"{number}.jpg")
        noise.resize((64, 48), Image.Resampling.BICUBIC).save(files[-1])
    cut = folder.parent / "photos" / "cut.jpg"
    cut.write_bytes(files[0].read_bytes()[:200])
    paths = [folder / "of" / f"{number:07}.jpg" for number in range(count)]
    for number, path in enumerate(paths, start=1):
        os.link(files[number % DISTINCT] if number % FIRST else cut, path)
    return [str(path) for path in paths], [str(path) for path in paths[FIRST - 1 :: FIRST]]


def make_model(folder: Path) -> None:
    model = vitkit.VisionTransformer(
        image_size=32, patch_size=16, num_classes=10, embed_dim=32, depth=1, num_heads=2, mlp_dim=64
    )
    half = (0.5, 0.5, 0.5)
    preprocess = vitkit.Preprocess(
        size=(32, 32), resize="squash", crop="none", interpolation="bicubic", mean=half, std=half
    )
    model.save_pretrained(folder, preprocess=preprocess)


def run(
    folder: Path, output: Path, commit_every_s: float, kill_at: int, rng: random.Random
) -> tuple[int, str, list[float]]:
    """(exit code, stderr, resident MB from the first 1,000 pictures on) of one call, killed soon after that many."""
    verb = ["embed"] if output.suffix == ".npz" else ["classify", "--top", "2"]
    program = (
        "import sys; from vitkit import cli, part; "
        f"part.COMMIT_EVERY_S = part.COMMIT_LATEST_S = {commit_every_s}; sys.exit(cli.main())"
    )
    arguments = [*verb, str(folder / "pictures"), "-m", str(folder / "model"), "-o", str(output), "--resume"]
    state = Path(f"{output}.part") / "state.json"
    begun_at = done_in(state)
    memory: list[float] = []
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments], stdout=subprocess.DEVNULL, stderr=errors
        )
        while process.poll() is None:
            done = done_in(state)
            if done >= kill_at:
                time.sleep(rng.uniform(0, 2 * commit_every_s))
                process.kill()
            if done - begun_at >= FIRST:
                memory.append(resident_mb(process.pid))
            time.sleep(0.02)
        errors.seek(0)
        return process.returncode, errors.read().decode(), memory or [0.0]


def done_in(state: Path) -> int:
    try:
        return int(json.loads(state.read_text())["pictures"])
    except FileNotFoundError:
        return 0


def resident_mb(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def written(output: Path) -> Iterator[tuple[str, str]]:
    """(picture, error) of each picture in the file."""
    if output.suffix == ".npz":
        with np.load(output) as arrays:
            yield from zip(arrays["pictures"].tolist(), arrays["errors"].tolist(), strict=True)
    elif output.suffix == ".jsonl":
        with open(output, encoding="utf-8") as lines:
            yield from ((row["picture"], row.get("error", "")) for row in map(json.loads, lines))
    elif output.suffix == ".csv":
        with open(output, encoding="utf-8", newline="") as lines:
            yield from ((row["picture"], row["error"]) for row in csv.DictReader(lines) if row["rank"] in ("", "1"))
    else:
        import pyarrow.parquet as parquet

        for row in parquet.read_table(output, columns=["picture", "rank", "error"]).to_pylist():
            if row["rank"] in (None, 1):
                yield row["picture"], row["error"] or ""


if __name__ == "__main__":
    main()
