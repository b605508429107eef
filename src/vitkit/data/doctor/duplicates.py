"""Pictures that are there more than once: to the byte, or resized, recompressed, recoloured, a little cropped.

Candidates for near duplicates have perceptual hashes that differ in few bits: the signs of the lowest frequencies of a
discrete cosine transform (C. Zauner, Implementation and benchmarking of perceptual image hash functions, 2010). Each
pair is then verified on its pixels: one is shifted and stretched onto the other (B. Lucas, T. Kanade, An iterative
image registration technique, 1981) and has to correlate with it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from vitkit.data.doctor.findings import Finding
from vitkit.data.doctor.pictures import THUMBNAIL, Look
from vitkit.data.doctor.survey import Survey

__all__ = ["check_duplicates", "check_same", "correlate", "hash_pictures", "near_pairs", "same_groups"]

FREQUENCIES = 8
"""Of the cosine transform, each way; the constant one isn't used."""
BITS_APART = 14
"""Of 63: 99 % of pictures cropped by up to a tenth a side, resized and compressed stay within (docs/CHECK.md)."""
COSINE = 0.9
"""Of embeddings, where a model gives them: how alike candidates are at least."""
NEIGHBOURS = 8
"""Most candidates of one picture: sets in which all look alike stay within memory."""
CORRELATION = 0.98
"""Of aligned pictures; 99 % of what is cropped, resized and compressed as above reaches it (docs/CHECK.md)."""
LEAST_SIDE = 32
"""Pixels: smaller pictures hold too little detail to be told from others of their kind."""
ROWS, PAIRS = 256, 4096
"""Compared at once."""


def check_duplicates(survey: Survey, seen: Look, features: NDArray[np.float32] | None = None) -> list[Finding]:
    """Groups of equal and of nearly equal pictures; a near group names one of each equal ones.

    `features` [n, D], where there is a model, propose more pairs to look at; rows of NaN don't.
    """
    findings = check_same(survey, seen.digests)
    usable = (seen.sizes.min(axis=1) >= LEAST_SIDE) & ~seen.flat()
    for equal in findings:
        usable[list(equal.pictures[1:])] = False
    at = np.flatnonzero(usable)
    pairs = near_pairs(seen.thumbnails[at], None if features is None else features[at])
    for group in _connected(pairs):
        findings.append(_finding(survey, "alike", tuple(at[list(group)].tolist())))
    return findings


def check_same(survey: Survey, digests: Sequence[bytes]) -> list[Finding]:
    """Groups of pictures that are equal to the byte."""
    return [_finding(survey, "same", group) for group in same_groups(digests)]


def same_groups(digests: Sequence[bytes]) -> list[tuple[int, ...]]:
    """Positions whose digests are equal, two or more each; empty digests are none."""
    groups = defaultdict(list)
    for at, digest in enumerate(digests):
        if digest:
            groups[digest].append(at)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def near_pairs(thumbnails: NDArray[np.uint8], features: NDArray[np.float32] | None = None) -> NDArray[np.int64]:
    """Pairs [p, 2] of the grey pictures [n, S, S] that show the same."""
    candidates = set(_near_hashes(hash_pictures(thumbnails)))
    if features is not None:
        candidates |= set(_near_features(features))
    pairs = np.array(sorted(candidates), np.int64).reshape(-1, 2)
    alike = [
        correlate(thumbnails[block[:, 0]], thumbnails[block[:, 1]]) >= CORRELATION
        for block in np.split(pairs, range(PAIRS, len(pairs), PAIRS))
    ]
    return pairs[np.concatenate(alike)]


def hash_pictures(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """63 bits of each grey picture [n, S, S]: which of its lowest frequencies lie above their median."""
    places = np.arange(THUMBNAIL) + 0.5
    waves = np.cos(np.pi / THUMBNAIL * np.arange(FREQUENCIES)[:, None] * places).astype(np.float32)  # [F, S]
    spectrum = (waves @ thumbnails.astype(np.float32) @ waves.T).reshape(len(thumbnails), FREQUENCIES**2)[:, 1:]
    above = spectrum > np.median(spectrum, axis=1, keepdims=True)
    return np.asarray(np.packbits(np.pad(above, ((0, 0), (0, 1))), axis=1).view(np.uint64)[:, 0])


def correlate(left: NDArray[np.uint8], right: NDArray[np.uint8], *, steps: int = 12) -> NDArray[np.float32]:
    """How alike the grey pictures of each pair [P, S, S] are, -1..1, `right` being shifted and stretched onto `left`.

    Gauss-Newton steps on four numbers (stretch and shift, each way); brightness and contrast don't count.
    """
    fixed, moved = _blurred(left), _blurred(right)
    count, side = len(fixed), fixed.shape[1]
    line = (torch.arange(side) + 0.5) * 2 / side - 1
    y, x = torch.meshgrid(line, line, indexing="ij")  # in -1..1, as grid_sample counts
    warp = torch.tensor([1.0, 0, 1, 0]).repeat(count, 1)  # stretch and shift of x, then of y
    best = torch.full((count,), -1.0)
    for _ in range(steps):
        stretch_x, shift_x, stretch_y, shift_y = warp.T[..., None, None]
        grid = torch.stack([stretch_x * x + shift_x, stretch_y * y + shift_y], dim=-1)
        warped = F.grid_sample(moved[:, None], grid, padding_mode="border", align_corners=False)[:, 0]
        inside = (grid.abs() <= 1).all(dim=-1).float()
        target, _ = _standardise(fixed, inside)
        current, scale = _standardise(warped, inside)
        best = torch.maximum(best, (target * current).sum((1, 2)))
        slope_y, slope_x = (slope * inside / scale * side / 2 for slope in torch.gradient(warped, dim=(1, 2)))
        slopes = torch.stack([slope_x * x, slope_x, slope_y * y, slope_y], dim=-1).flatten(1, 2)  # [P, S*S, 4]
        normal = slopes.mT @ slopes
        damping = 1e-4 * normal.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] + 1e-9
        towards = slopes.mT @ (target - current).flatten(1)[..., None]
        step = torch.linalg.solve(normal + damping * torch.eye(4), towards)[..., 0]
        warp = (warp + step.clamp(-0.1, 0.1)).clamp(*LIMITS)
    return best.numpy()


LIMITS = torch.tensor([0.8, -0.25, 0.8, -0.25]), torch.tensor([1.25, 0.25, 1.25, 0.25])
"""Of `warp`: a crop of up to a fifth, and shifts that go with it."""


def _blurred(pictures: NDArray[np.uint8]) -> Tensor:
    """[P, S, S] under a binomial filter: what is finer than a pixel differs with every crop and resize."""
    row = torch.tensor([0.25, 0.5, 0.25])
    padded = F.pad(torch.from_numpy(pictures.astype(np.float32))[:, None], (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, torch.outer(row, row)[None, None])[:, 0]


def _standardise(pictures: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """[P, S, S] of mean 0 and length 1 where `inside` is 1, and 0 elsewhere; and the lengths before, [P, 1, 1]."""
    mean = (pictures * inside).sum((1, 2), keepdim=True) / inside.sum((1, 2), keepdim=True).clamp_min(1)
    centred = (pictures - mean) * inside
    length = centred.square().sum((1, 2), keepdim=True).sqrt().clamp_min(1e-6)
    return centred / length, length


def _near_hashes(hashes: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    for start in range(0, len(hashes), ROWS):
        apart = np.bitwise_count(hashes[start : start + ROWS, None] ^ hashes[None, start:])
        yield from _nearest(apart, apart <= BITS_APART, start)


def _near_features(features: NDArray[np.float32]) -> Iterator[tuple[int, int]]:
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for start in range(0, len(unit), ROWS):
        apart = 1 - unit[start : start + ROWS] @ unit[start:].T
        yield from _nearest(apart, apart <= 1 - COSINE, start)


def _nearest(apart: NDArray[np.generic], near: NDArray[np.bool_], start: int) -> Iterator[tuple[int, int]]:
    """(row, column) of the NEIGHBOURS nearest to each row of a block whose first row and column are `start`."""
    rows, columns = np.nonzero(np.triu(near, 1))
    order = np.lexsort((apart[rows, columns], rows))
    rows, columns = rows[order], columns[order]
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    kept = rank < NEIGHBOURS
    return zip((rows[kept] + start).tolist(), (columns[kept] + start).tolist(), strict=True)


def _connected(pairs: NDArray[np.int64]) -> list[list[int]]:
    """Groups of positions that pairs join, each in order."""
    group_of: dict[int, list[int]] = {}
    for left, right in pairs.tolist():
        first, second = group_of.get(left, [left]), group_of.get(right, [right])
        if first is not second:
            first += second
            group_of |= dict.fromkeys(first, first)
    return sorted({min(group): sorted(group) for group in group_of.values()}.values())


def _finding(survey: Survey, kind: str, group: Iterable[int]) -> Finding:
    """The group as its worst kind: across parts, else across classes, else within one class."""
    at = list(group)
    classes = sorted({repr(survey.samples.label_text(each)) for each in at})
    parts = [survey.part_names[part] for part in np.unique(survey.parts[at])]
    where = f"under {' and '.join(classes)}" + (f", in {' and '.join(parts)}" if parts != [""] else "")
    across = "_across_parts" if len(parts) > 1 else "_across_classes" if len(classes) > 1 else ""
    return Finding(kind + across, f"{where}: {', '.join(map(survey.samples.describe, at))}", tuple(at))
