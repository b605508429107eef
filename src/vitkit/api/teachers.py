"""A student's teacher: any classifier with names for its classes, found, compared with the data and made ready."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

from vitkit.api.load import read_source
from vitkit.api.runs import RUN_FILE
from vitkit.checkpoint.read import Checkpoint
from vitkit.errors import CheckpointError, ConfigError, list_faults, nearest
from vitkit.image.preprocess import Preprocess
from vitkit.training.distillation import Teacher

__all__ = ["open_teacher"]


def open_teacher(
    source: str, class_names: Sequence[str], shown: Preprocess, device: torch.device, *, soft: bool
) -> tuple[Teacher, str]:
    """The classifier `source` (a run's folder stands for its model) for pictures of `class_names` prepared by `shown`.

    And a digest of all that its answers depend on. Raises ConfigError for a model that can't tell these classes, or, if
    its `soft` answers are wanted, one whose probabilities aren't of one class a picture.
    """
    folder = Path(source)
    try:
        found = read_source(folder / "model" if (folder / RUN_FILE).is_file() else source)
    except CheckpointError as error:
        raise CheckpointError(f"the teacher {error}") from None
    own = found.card.preprocess
    if own is None:
        raise ConfigError(f"the teacher {source} doesn't say how its pictures are prepared; save it with a preprocess")
    if own.channels != shown.channels:
        raise ConfigError(f"the teacher {source} reads {own.channels} channels, the pictures have {shown.channels}")
    if own.value_range != shown.value_range:
        ranges = f"{own.value_range or '8 bits'}, the pictures are read in {shown.value_range or '8 bits'}"
        raise ConfigError(f"the teacher {source} reads pictures in {ranges}; both must be the same")
    if soft and found.card.scores != "softmax":
        raise ConfigError(
            f"the teacher {source} gives each class a probability of its own ({found.card.scores}), where soft answers "
            "sum to 1; take its highest class alone, distill.kind 'hard' (--distill hard)"
        )
    outputs = _outputs(source, found, class_names)
    mean, std, shown_mean, shown_std = (
        torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]
        for values in (own.mean, own.std, shown.mean, shown.std)
    )
    module = found.module().to(device).requires_grad_(False)
    teacher = Teacher(
        module, torch.tensor(outputs, device=device), shown_std / std, (shown_mean - mean) / std, own.size
    )
    return teacher, _digest(found, own, outputs)


def _outputs(source: str, found: Checkpoint, class_names: Sequence[str]) -> list[int]:
    """Which output is which class, by name or else by identifier; those of other classes are left out."""
    named = [names for names in (found.card.class_names, found.card.class_ids) if names is not None]
    if not named:
        raise ConfigError(f"the teacher {source} has no names for its classes, so that none is known to be the data's")
    known = next((names for names in named if set(class_names) <= set(names)), named[0])
    faults = [f"{name!r}{nearest(name, known)}" for name in class_names if name not in known]
    if faults:
        raise ConfigError(f"the teacher {source} doesn't know classes of the data: {list_faults(faults)}")
    twice = [repr(name) for name in class_names if known.count(name) > 1]
    if twice:
        raise ConfigError(f"the teacher {source} has several classes of the same name: {list_faults(twice)}")
    return [known.index(name) for name in class_names]


def _digest(found: Checkpoint, own: Preprocess, outputs: Sequence[int]) -> str:
    digest = hashlib.sha256(repr((own.mean, own.std, own.size, list(outputs))).encode())
    for name, tensor in sorted(found.state.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
