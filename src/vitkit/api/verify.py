"""verify: does a checkpoint answer here as it did where it was written?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vitkit.api.load import Source, read_source
from vitkit.checkpoint.proof import FILE, Stage, check, first_departure, read_proof
from vitkit.errors import CheckpointError

__all__ = ["Verification", "verify"]


@dataclass(frozen=True)
class Verification:
    """The proof, repeated."""

    source: str
    stages: tuple[Stage, ...]

    @property
    def agrees(self) -> bool:
        """Whether every stage, from the pixels to the logits, is what it was."""
        return first_departure(list(self.stages)) is None

    @property
    def departure(self) -> Stage | None:
        """The first stage that departs."""
        return first_departure(list(self.stages))


def verify(source: Source, *, revision: str | None = None) -> Verification:
    """Repeats the proof that the native folder (or Hub repository) `source` carries.

    Raises CheckpointError where it carries none, or can't be loaded at all.
    """
    if Path(source).is_file():
        raise CheckpointError(f"{source}: a bare weight file carries no proof; vitkit convert writes a folder with one")
    checkpoint = read_source(source, revision=revision)
    assert checkpoint.folder is not None, "anything but a bare file has a folder"
    proof = read_proof(checkpoint.folder / FILE)
    if checkpoint.card.preprocess is None:
        raise CheckpointError(
            f"{source}: nothing there says how pictures become pixels, so its proof can't be repeated"
        )
    return Verification(checkpoint.report.source, tuple(check(checkpoint.module(), checkpoint.card.preprocess, proof)))
