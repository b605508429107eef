"""Frozen dataclasses to plain JSON-able dicts and files and back, strictly: unknown keys and wrong types are errors."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from vitkit.errors import ConfigError, list_faults, nearest

__all__ = ["flatten", "from_dict", "read_json", "to_dict"]

T = TypeVar("T")


def to_dict(value: Any) -> Any:
    """Turns a dataclass (nested, with tuples) into dicts, lists, strings, numbers, booleans and None.

    A field whose metadata have "aside" is left out: it is kept elsewhere.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field for field in dataclasses.fields(value) if not field.metadata.get("aside")]
        return {field.name: to_dict(getattr(value, field.name)) for field in fields}
    if isinstance(value, tuple | list):
        return [to_dict(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_dict(item) for key, item in value.items()}
    return value


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The entries of a table and of the tables in it, as "train.augment.flip"."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object that `file` holds. ConfigError where it holds something else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file}: isn't JSON ({error}); the file was edited or damaged") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: holds {content!r:.40}, not a JSON object; the file was edited or damaged")
    return content


def from_dict(kind: type[T], data: object, *, origin: str) -> T:
    """Builds the dataclass `kind` from `data`, which `origin` (a file or flag) holds. One ConfigError has all faults.

    Lists become tuples, whole floats aren't taken for ints, and nothing is coerced otherwise. A field whose metadata
    have "chosen_by": (another field, kinds by its value) is of the kind that the other field names.
    """
    faults: list[str] = []
    value = _convert(kind, data, kind.__name__, faults)
    if faults:
        raise ConfigError(f"{origin}: {list_faults(faults)}")
    try:
        return typing.cast(T, value())
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None


def _convert(kind: Any, data: object, where: str, faults: list[str]) -> Any:
    """Returns a thunk that makes the value, or notes in `faults` why it can't be made."""
    if dataclasses.is_dataclass(kind):
        return _convert_dataclass(typing.cast(type, kind), data, where, faults)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if len(arguments) == 2 and types.NoneType in arguments and data is not None:
            present = next(option for option in arguments if option is not types.NoneType)
            return _convert(present, data, where, faults)
        for option in arguments:
            attempt: list[str] = []
            made = _convert(option, data, where, attempt)
            if not attempt:
                return made
        faults.append(f"{where} is {data!r}, not {_spell(kind)}")
        return None
    if origin is tuple:
        return _convert_tuple(arguments, data, where, faults)
    if origin is typing.Literal:
        if not any(type(data) is type(option) and data == option for option in arguments):  # True == 1 == 1.0
            faults.append(f"{where} is {data!r}, allowed: {', '.join(map(repr, arguments))}")
        return lambda: data
    if kind is Any or kind is object:
        return lambda: data
    if origin in (dict, Mapping):
        if not isinstance(data, Mapping):
            faults.append(f"{where} is {data!r}, not a table")
            return None
        parts = {key: _convert(arguments[1], item, f"{where}.{key}", faults) for key, item in data.items()}
        return lambda: {key: part() for key, part in parts.items()}
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        if abs(data) > 1e300:
            faults.append(f"{where} is a number of {len(str(data))} digits, too large")
            return None
        return lambda: float(data)
    if kind is None or kind is types.NoneType:
        matches = data is None
    else:
        matches = isinstance(data, kind) and not (isinstance(data, bool) and kind is not bool)
    if not matches:
        faults.append(f"{where} is {data!r}, not {_spell(kind)}")
    return lambda: data


def _convert_dataclass(kind: type, data: object, where: str, faults: list[str]) -> Any:
    if not isinstance(data, Mapping):
        faults.append(f"{where} is {data!r}, not a table")
        return None
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in data:
        if key not in fields:
            faults.append(f"{where} has no key {key!r}{nearest(str(key), fields)}")
    required = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    faults += [f"{where}.{name} is missing" for name in required if name not in data]
    for name, field in fields.items():
        if "chosen_by" in field.metadata:
            key, kinds = field.metadata["chosen_by"]
            hints[name] = kinds.get(str(data.get(key)), Any)  # an unknown choice is a fault of the field `key`
    parts = {name: _convert(hints[name], data[name], f"{where}.{name}", faults) for name in fields if name in data}
    return lambda: kind(**{name: part() for name, part in parts.items()})


def _convert_tuple(arguments: tuple[Any, ...], data: object, where: str, faults: list[str]) -> Any:
    if not isinstance(data, list | tuple):
        faults.append(f"{where} is {data!r}, not a list")
        return None
    kinds = [arguments[0]] * len(data) if len(arguments) == 2 and arguments[1] is Ellipsis else list(arguments)
    if len(kinds) != len(data):
        faults.append(f"{where} has {len(data)} entries, not {len(kinds)}")
        return None
    parts = [
        _convert(kind, item, f"{where}[{at}]", faults) for at, (kind, item) in enumerate(zip(kinds, data, strict=True))
    ]
    return lambda: tuple(part() for part in parts)


def _spell(kind: Any) -> str:
    """A type as a user would say it."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_spell(option) for option in arguments)
    if origin is typing.Literal:
        return " or ".join(map(repr, arguments))
    if origin is tuple:
        return "a list"
    if origin in (dict, Mapping):
        return "a table"
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", types.NoneType: "none"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))
