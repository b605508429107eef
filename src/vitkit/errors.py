"""The faults a user can cause or meet, as exceptions whose text is one complete line for a person to act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "EngineError",
    "ImageError",
    "Interrupted",
    "VitkitError",
    "list_faults",
    "nearest",
]


class VitkitError(Exception):
    """Base of every fault that is the input's and not ours; the command prints it as one line and exits with 2."""


class ConfigError(VitkitError):
    """A setting is unknown, of the wrong type, out of range, or contradicts another."""


class CheckpointError(VitkitError):
    """Weights can't be found, read, mapped or written completely."""


class ImageError(VitkitError):
    """A picture can't be fetched, decoded or used."""


class DataError(VitkitError):
    """A set of pictures or labels is empty, incomplete or contradictory."""


class EngineError(VitkitError):
    """An inference engine is missing, or can't run what it was given."""


class Interrupted(VitkitError):  # noqa: N818  # a request, not an error
    """A signal asked long work to end, and all that was done is saved. The command exits with 128 + `signum`."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


def list_faults(faults: Iterable[str], *, first: int = 10) -> str:
    """Joins `faults` with "; ", naming the first few and counting the rest, so that no fault hides behind another."""
    named = list(faults)
    if len(named) <= first:
        return "; ".join(named)
    return "; ".join(named[:first]) + f"; and {len(named) - first} more"


def nearest(name: str, options: Iterable[str]) -> str:
    """Returns "; nearest: X" for the option most like `name`, or "" where nothing is alike. For error texts."""
    found = difflib.get_close_matches(name, list(options), n=1, cutoff=0.5)
    return f"; nearest: {found[0]}" if found else ""
