"""An export on disk: NAME.onnx, NAME.xml (with NAME.bin) or NAME.pt2; and its proof, as NAME.onnx.proof.safetensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vitkit.checkpoint.card import Card
from vitkit.checkpoint.proof import make, read_proof, said_by_proof, write_proof
from vitkit.errors import CheckpointError, ConfigError
from vitkit.exports import onnx, openvino, program
from vitkit.exports.graph import CropGraph
from vitkit.exports.metadata import Metadata, describe, digests, from_text, to_text

__all__ = [
    "FORMATS",
    "Export",
    "Run",
    "format_of",
    "is_export",
    "open_export",
    "proof_of",
    "read_metadata",
    "write_export",
]

Run: TypeAlias = Callable[[NDArray[Any]], dict[str, NDArray[np.float32]]]
"""From what a graph takes, [B, H, W, C], to its outputs by name."""


class Format(NamedTuple):
    """One way to write a graph, and to read and run it in float32 on the CPU."""

    suffix: str
    write: Callable[[CropGraph, Path, str], None]
    """Writes a graph to a file, with its metadata's text."""
    read_text: Callable[[Path], str | None]
    """The metadata's text; None where there is none."""
    runner: Callable[[Path], Run]
    """Raises RuntimeError where its library can't run the graph."""
    constants: Callable[[Path], list[NDArray[Any]]]
    """The small arrays in a graph, among them its normalisation's."""


FORMATS: Mapping[str, Format] = {
    "onnx": Format(".onnx", onnx.write, onnx.read_text, onnx.runner, onnx.constants),
    "openvino": Format(".xml", openvino.write, openvino.read_text, openvino.runner, openvino.constants),
    "torch": Format(".pt2", program.write, program.read_text, program.runner, program.constants),
}


@dataclass(frozen=True)
class Export:
    """An export, opened: what it says of itself, and its proof; the graph stays on the disk until it is run."""

    path: Path
    format: str
    """A key of FORMATS."""
    metadata: Metadata
    proof: Mapping[str, Tensor]
    said: Mapping[str, str]
    """Digests of what the metadata said when the proof was made, from its header; a checkpoint's own proof has none."""

    def runner(self) -> Run:
        """The graph itself, run in float32 on the CPU; CheckpointError, from a run as well, where it is damaged."""
        with self._damage_named():
            graph = FORMATS[self.format].runner(self.path)

        def run(pixels: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
            with self._damage_named():
                return graph(pixels)

        return run

    @contextmanager
    def _damage_named(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{self.path}: can't be run, it is damaged ({reason})") from None

    def constants(self) -> list[NDArray[Any]]:
        """The small arrays in the graph."""
        return FORMATS[self.format].constants(self.path)


def is_export(path: Path) -> bool:
    """Whether a path is an export's by its suffix."""
    return path.suffix in {kind.suffix for kind in FORMATS.values()}


def format_of(path: Path, to: str | None = None) -> str:
    """The format of `path` by its suffix, or `to`; ConfigError where they contradict each other or say nothing."""
    suffixes = {kind.suffix: name for name, kind in FORMATS.items()}
    if to is not None and to not in FORMATS:
        raise ConfigError(f"--to {to!r} is unknown; allowed: {', '.join(FORMATS)}")
    if to is None and path.suffix not in suffixes:
        endings = ", ".join(f"{name} {kind.suffix}" for name, kind in FORMATS.items())
        raise ConfigError(f"{str(path)!r} doesn't end as an export does ({endings}); name it so, or say --to")
    if to is not None and path.suffix != FORMATS[to].suffix:
        raise ConfigError(f"{str(path)!r} ends in {path.suffix or 'nothing'}; --to {to} writes {FORMATS[to].suffix}")
    return to or suffixes[path.suffix]


def proof_of(path: Path) -> Path:
    """The file of an export's proof."""
    return path.with_name(path.name + ".proof.safetensors")


def write_export(graph: CropGraph, card: Card, path: Path) -> None:
    """Writes `graph` and its proof to `path`'s folder, in the format of its suffix."""
    assert card.preprocess is not None
    metadata = describe(graph.module, card, form=graph.form, size_step=graph.size_step)
    FORMATS[format_of(path)].write(graph, path, to_text(metadata))
    proof = make(graph.module, card.preprocess)
    write_proof(proof_of(path), proof, digests(metadata))


def open_export(path: Path) -> Export:
    """Reads an export's metadata and proof.

    Raises CheckpointError where the file is damaged or no export of vitkit's, and where its proof is missing.
    """
    metadata, proof = read_metadata(path), read_proof(proof_of(path))
    return Export(path, format_of(path), metadata, proof, said_by_proof(proof_of(path)))


def read_metadata(path: Path) -> Metadata:
    """What an export says of itself, whether or not its proof is beside it. Raises as `open_export`."""
    kind = format_of(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    text = FORMATS[kind].read_text(path)
    if text is None:
        raise CheckpointError(f"{path}: carries no metadata of vitkit, so nothing says what its answers mean")
    return from_text(text, origin=str(path))
