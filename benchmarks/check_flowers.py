"""How many swapped labels and changed copies `vitkit check` finds among real pictures.

    python benchmarks/check_flowers.py FOLDER --model MODEL [--fine-tune] [--image-size SIZE] [--seeds FIRST:END]

FOLDER holds class folders. Labels: 40 are swapped, drawn by each seed, and counted among the first 100 suspects; the
folder's own wrong labels stand there too. With --fine-tune each seed is a training of its own. Copies: 500 pictures are
cropped by up to a tenth a side, resized to 0.4 to 1.3 times and compressed by JPEG of quality 30 to 80, and counted
where hash and pixels take them for the same.
"""

from __future__ import annotations

import argparse
import io
import time
from dataclasses import replace
from functools import partial

import numpy as np
from PIL import Image

import vitkit
from vitkit.api.label_training import learn_labels
from vitkit.data.doctor.duplicates import BITS_APART, CORRELATION, correlate, hash_pictures
from vitkit.data.doctor.labels import check_labels
from vitkit.data.doctor.pictures import THUMBNAIL, look, visible_pixels
from vitkit.data.doctor.survey import survey

SWAPPED, FIRST, COPIES = 40, 100, 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--model", required=True)
    parser.add_argument("--fine-tune", action="store_true")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--seeds", default="0:10")
    given = parser.parse_args()
    found = survey(given.folder)
    samples, seen = found.samples, look(found.samples)
    count, num_classes = len(samples), samples.num_classes
    features, learn = None, None
    if given.fine_tune:
        learn = partial(learn_labels, model=given.model, image_size=given.image_size)
    else:
        features = vitkit.load(given.model, image_size=given.image_size).embed(samples.pictures)
    hits = []
    for seed in range(*map(int, given.seeds.split(":"))):
        start = time.perf_counter()
        rng = np.random.default_rng(seed)
        swapped = rng.choice(count, SWAPPED, replace=False)
        labels = samples.labels.copy()
        labels[swapped] = (labels[swapped] + rng.integers(1, num_classes, SWAPPED)) % num_classes
        mixed = replace(found, samples=replace(samples, labels=labels))
        judged = check_labels(mixed, seen, features, learn, limit=FIRST)
        suspects = {finding.pictures[0] for finding in judged.findings}
        hits.append(len(suspects & set(swapped.tolist())))
        print(f"seed {seed}: {hits[-1]} ({time.perf_counter() - start:.0f} s)", flush=True)
    print(f"of {SWAPPED} swapped labels among the first {FIRST} suspects: {hits}, mean {np.mean(hits):.1f}")

    rng = np.random.default_rng(0)
    chosen = rng.choice(count, min(COPIES, count), replace=False)
    copies = np.stack([changed(samples.pictures[at], rng) for at in chosen])
    bits = np.bitwise_count(hash_pictures(seen.thumbnails[chosen]) ^ hash_pictures(copies))
    alike = correlate(seen.thumbnails[chosen], copies)
    print(
        f"{np.mean(bits <= BITS_APART):.1%} of hashes within {BITS_APART} bits, {np.mean(alike >= CORRELATION):.1%} of "
    )
    print(f"correlations {CORRELATION} or more, both: {np.mean((bits <= BITS_APART) & (alike >= CORRELATION)):.1%}")


def changed(picture: object, rng: np.random.Generator) -> np.ndarray:
    """The grey copy of a picture that was cropped, resized and compressed."""
    image = Image.fromarray(visible_pixels(picture))  # type: ignore[arg-type]
    left, top, right, bottom = rng.uniform(0, 0.05, 4)
    width, height = image.size
    image = image.crop((int(left * width), int(top * height), int((1 - right) * width), int((1 - bottom) * height)))
    scale = rng.uniform(0.4, 1.3)
    image = image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(rng.integers(30, 80)))
    grey = Image.open(file).convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(grey)


if __name__ == "__main__":
    main()
