"""Tensors from weight files: safetensors (whole or in shards), Google's .npz, and, only when allowed, pickles.

A file's kind is read from its first bytes, never from its name.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vitkit.errors import CheckpointError, list_faults

__all__ = ["Weights", "find_weights", "read_json", "read_tensors", "read_weights"]

INDEX = "model.safetensors.index.json"
# What training scripts wrap a state_dict in, averaged weights first as in timm's load_state_dict (DINO's teacher).
CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict", "module", "teacher", "student")
WRAPPED = "module."
"""What DistributedDataParallel puts before every name."""


class Weights(NamedTuple):
    """All tensors of weight files by their names there, and notes on what was left aside."""

    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...]


def find_weights(folder: Path, *, allow_pickle: bool = False) -> list[Path]:
    """The weight files of a checkpoint folder: model.safetensors, its shards, or the only weight file there.

    Raises CheckpointError where there are none, several candidates, missing shards, or only pickles not allowed.
    """
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if (folder / INDEX).is_file():
        index = read_json(folder / INDEX)
        names = sorted(set(index.get("weight_map", {}).values()))
        outside = [name for name in names if Path(name).name != name]
        if outside or not names:
            raise CheckpointError(f"{folder / INDEX}: the weight map names no files of this folder")
        absent = [name for name in names if not (folder / name).is_file()]
        if absent:
            raise CheckpointError(f"{folder}: {len(absent)} of {len(names)} shards are missing: {list_faults(absent)}")
        return [folder / name for name in names]
    for kinds in ((".safetensors",), (".npz",), (".bin", ".pth", ".pt")):
        found = sorted(file for file in folder.iterdir() if file.suffix in kinds and not file.name.startswith("proof"))
        if kinds[0] == ".bin" and found and not allow_pickle:
            raise CheckpointError(
                f"{folder}: the weights are pickled ({found[0].name}), which can run code; "
                f"convert them once: vitkit convert {folder} -o FOLDER"
            )
        if len(found) == 1:
            return found
        if found:
            names = [file.name for file in found]
            raise CheckpointError(f"{folder}: several weight files, say which one: {list_faults(names)}")
    raise CheckpointError(f"{folder}: no weights there (model.safetensors, {INDEX}, or one .safetensors or .npz file)")


def read_tensors(files: list[Path], *, allow_pickle: bool = False) -> Mapping[str, Tensor]:
    """All tensors of `files` by their names in the file. Raises CheckpointError for what is damaged or not allowed."""
    return read_weights(files, allow_pickle=allow_pickle).tensors


def read_weights(files: list[Path], *, allow_pickle: bool = False) -> Weights:
    """As `read_tensors`, with notes on which part of a training checkpoint was taken."""
    tensors: dict[str, Tensor] = {}
    notes: list[str] = []
    for file in files:
        part, note = _read_file(file, allow_pickle=allow_pickle)
        twice = tensors.keys() & part.keys()
        if twice:
            raise CheckpointError(f"{file}: tensors that another shard has too: {list_faults(sorted(twice))}")
        tensors |= part
        notes += [f"{file.name}: {note}"] if note else []
    return Weights(tensors, tuple(notes))


def _read_file(file: Path, *, allow_pickle: bool) -> tuple[dict[str, Tensor], str]:
    try:
        with open(file, "rb") as opened:
            head = opened.read(9)
        if not head:
            raise CheckpointError(f"{file}: the file is empty")
        # safetensors: eight bytes of header length, then the header, which is JSON.
        if head[8:9] == b"{":
            return load_file(file), ""
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                members = archive.namelist()
            if members and all(name.endswith(".npy") for name in members):
                return _read_npz(file), ""
            if any(name.endswith("data.pkl") for name in members):
                return _read_pickle(file, allow_pickle=allow_pickle)
        elif head[:1] == b"\x80":
            return _read_pickle(file, allow_pickle=allow_pickle)
    except SafetensorError as error:
        raise CheckpointError(f"{file}: damaged or cut short ({error}); fetch or copy it again") from error
    except OSError as error:
        raise CheckpointError(f"{file}: can't be read ({error.strerror or error})") from error
    raise CheckpointError(f"{file}: not a weight file vitkit reads (safetensors, .npz; pickles through vitkit convert)")


def _read_npz(file: Path) -> dict[str, Tensor]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: _tensor(arrays[name]) for name in arrays.files}
    except (ValueError, TypeError, zipfile.BadZipFile, EOFError) as error:
        raise CheckpointError(f"{file}: damaged, or not plain arrays ({error})") from error


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    if array.dtype == np.dtype("V2"):  # what NumPy makes of bfloat16, which it doesn't know
        return torch.from_numpy(np.ascontiguousarray(array).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.ascontiguousarray(array))


def _read_pickle(file: Path, *, allow_pickle: bool) -> tuple[dict[str, Tensor], str]:
    if not allow_pickle:
        raise CheckpointError(
            f"{file}: the weights are pickled, which can run code; convert them once: vitkit convert {file} -o FOLDER"
        )
    try:
        # A training's own options are plain values, which its scripts keep beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here: UnpicklingError, RuntimeError, EOFError, ...
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{file}: can't be read as plain weights ({reason})") from error
    holders = [name for name in CONTAINERS if isinstance(content, Mapping) and isinstance(content.get(name), Mapping)]
    note = ""
    if holders:
        content = content[holders[0]]
        others = f", not {' or '.join(map(repr, holders[1:]))}" if holders[1:] else ""
        note = f"the weights under {holders[0]!r} were taken{others}"
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{file}: holds a {type(content).__name__}, not a table of tensors")
    foreign = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if foreign:
        raise CheckpointError(f"{file}: entries that aren't tensors: {list_faults(foreign)}")
    names = [str(name) for name in content]
    names = [name.removeprefix(WRAPPED) for name in names] if all(n.startswith(WRAPPED) for n in names) else names
    return dict(zip(names, content.values(), strict=True)), note


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from `file`; CheckpointError where it is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: can't be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: holds a {type(content).__name__}, not a JSON object")
    return content
