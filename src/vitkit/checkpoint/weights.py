"""Tensors from weight files: safetensors (whole or in shards), Google's .npz, and, only when allowed, pickles.

A file's kind is read from its first bytes, never from its name.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vitkit.errors import CheckpointError, list_faults

__all__ = ["find_weights", "read_json", "read_tensors"]

INDEX = "model.safetensors.index.json"
# What training scripts wrap a state_dict in: timm, DeiT, MAE and many others.
CONTAINERS = ("state_dict", "model", "state_dict_ema", "model_state_dict")


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


def read_tensors(files: list[Path], *, allow_pickle: bool = False) -> dict[str, Tensor]:
    """All tensors of `files` by their names in the file. Raises CheckpointError for what is damaged or not allowed."""
    tensors: dict[str, Tensor] = {}
    for file in files:
        part = _read_file(file, allow_pickle=allow_pickle)
        twice = tensors.keys() & part.keys()
        if twice:
            raise CheckpointError(f"{file}: tensors that another shard has too: {list_faults(sorted(twice))}")
        tensors |= part
    return tensors


def _read_file(file: Path, *, allow_pickle: bool) -> dict[str, Tensor]:
    try:
        with open(file, "rb") as opened:
            head = opened.read(9)
        if not head:
            raise CheckpointError(f"{file}: the file is empty")
        # safetensors: eight bytes of header length, then the header, which is JSON.
        if head[8:9] == b"{":
            return load_file(file)
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                members = archive.namelist()
            if members and all(name.endswith(".npy") for name in members):
                return _read_npz(file)
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
            return {name: torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in arrays.files}
    except (ValueError, TypeError, zipfile.BadZipFile, EOFError) as error:
        raise CheckpointError(f"{file}: damaged, or not plain arrays ({error})") from error


def _read_pickle(file: Path, *, allow_pickle: bool) -> dict[str, Tensor]:
    if not allow_pickle:
        raise CheckpointError(
            f"{file}: the weights are pickled, which can run code; convert them once: vitkit convert {file} -o FOLDER"
        )
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here: UnpicklingError, RuntimeError, EOFError, ...
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{file}: can't be read as plain weights ({reason})") from error
    for container in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(container), Mapping):
            content = content[container]
            break
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{file}: holds a {type(content).__name__}, not a table of tensors")
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(f"{file}: entries that aren't tensors: {list_faults(others)}")
    return {str(name): value for name, value in content.items()}


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from `file`; CheckpointError where it is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: can't be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: holds a {type(content).__name__}, not a JSON object")
    return content
