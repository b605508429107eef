"""What files of results share: what they depend on, what was written, Parquet."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from vitkit import __version__
from vitkit.config import to_dict
from vitkit.engine.predict import Predictor
from vitkit.errors import ConfigError
from vitkit.model.build import model_spec

__all__ = ["PARQUET_ROWS", "Written", "pyarrow", "run_of", "utf8"]

PARQUET_ROWS = 4096
"""Of one group."""


@dataclass(frozen=True)
class Written:
    """What a file of results holds."""

    count: int
    """Pictures, those of earlier runs that this one went on with among them."""
    failed: int


def run_of(predictor: Predictor) -> dict[str, Any]:
    """What an answer depends on beside its picture: only a run with the same goes on with another's results.

    Batch size, threads and libraries' versions, on which the last bits of its numbers depend, aren't in it.
    """
    card = predictor.card
    return {
        "vitkit": __version__,
        "model": predictor.report.source,
        "engine": predictor.engine_name,
        "weights": predictor.fingerprint,
        "spec": to_dict(model_spec(predictor.spec)),
        "preprocess": to_dict(card.preprocess),
        "classes": hashlib.sha256(repr((card.class_names, card.class_ids)).encode()).hexdigest(),
        "scores": card.scores,
    }


def pyarrow(instead: str = "another ending") -> tuple[Any, Any]:
    """pyarrow and its Parquet. Raises ConfigError where it isn't installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(f"writing Parquet needs pyarrow: pip install 'vitkit[parquet]', or write {instead}") from None
    return pyarrow, pyarrow.parquet


def utf8(text: str) -> str:
    """A path as Parquet can hold it: bytes of a name that aren't UTF-8 are spelt out."""
    return text.encode("utf-8", "backslashreplace").decode()
