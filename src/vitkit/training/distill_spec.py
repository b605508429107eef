"""How a student learns from a teacher, as data: the choices of DeiT's section 4 (Touvron et al., arXiv:2012.12877)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vitkit.errors import ConfigError, list_faults

__all__ = ["DistillSpec"]


@dataclass(frozen=True, kw_only=True)
class DistillSpec:
    """A teacher and what is taken from it; as it stands, there is none."""

    teacher: str | None = field(default=None, metadata={"help": "a classifier as --model takes it, or a run's folder"})
    kind: Literal["hard", "soft"] = field(
        default="hard", metadata={"help": "the teacher's first answer as a label, or all its probabilities"}
    )
    alpha: float = field(default=0.5, metadata={"help": "the teacher's share of the loss; the labels have the rest"})
    temperature: float = field(default=3.0, metadata={"help": "soft: what both sides' logits are divided by"})
    token: bool = field(
        default=True, metadata={"help": "the teacher speaks to a token and a head of its own, which are added"}
    )
    cache: bool = field(
        default=False,
        metadata={"help": "ask once for each picture as it is evaluated, not for each view as it is seen"},
    )

    def __post_init__(self) -> None:
        """Checks the ranges."""
        faults = [] if 0 < self.alpha <= 1 else [f"alpha is {self.alpha}; allowed: above 0 to 1"]
        if not self.temperature > 0:
            faults.append(f"temperature is {self.temperature}; it must be larger than 0")
        if faults:
            raise ConfigError(f"distill: {list_faults(faults)}")
