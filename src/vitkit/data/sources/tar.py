"""Tar archives read in place: class folders, or WebDataset shards of key.jpg beside key.cls or key.json.

A plain archive is listed once, and any process reads any picture where it lies; one in gzip can't be read in the middle
and is held in memory. Nothing is extracted, so a member's name is only a name. WebDataset: A. Aizman, G. Maltby,
T. Breuel, High Performance I/O For Large Scale Deep Learning (arXiv:2001.01858).
"""

from __future__ import annotations

import gzip
import json
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Never

from vitkit.data.samples import Samples, Splits
from vitkit.data.sources.parts import group_files, is_split, name_parts, read_parts
from vitkit.data.sources.rows import Row, samples_of_rows
from vitkit.data.store import memory_limit
from vitkit.errors import DataError, list_faults
from vitkit.image.decode import Blob
from vitkit.image.listing import EXTENSIONS

__all__ = ["TARS", "expand_braces", "find_shards", "read_shards", "read_tar"]

TARS = (".tar", ".tar.gz", ".tgz")
LABELS = (".cls", ".json")
LABEL_LIMIT_BYTES = 2**20
"""Of a label's file."""
JSON_KEYS = ("label", "labels", "cls", "class")
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True, slots=True)
class Stretch(Blob):
    """Bytes in the middle of a file."""

    name: str
    file: str
    offset: int
    size: int

    def read(self) -> bytes:
        """The bytes; OSError where the file has become shorter."""
        with open(self.file, "rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) != self.size:
            raise OSError(f"{self.file} is shorter than when it was listed")
        return content


@dataclass(frozen=True, slots=True)
class Held(Blob):
    """Bytes in memory, with the name they had in an archive."""

    name: str
    content: bytes

    @property
    def held_bytes(self) -> int:
        """All."""
        return len(self.content)

    def read(self) -> bytes:
        """The bytes."""
        return self.content


@dataclass(frozen=True, slots=True)
class Member:
    """A picture or a label of an archive."""

    path: PurePosixPath
    blob: Blob

    @property
    def kind(self) -> str:
        """The end of its name in small letters where it is a label, else "picture"."""
        ending = self.path.suffix.lower()
        return ending if ending in LABELS else "picture"


def read_tar(path: Path) -> Samples | Splits:
    """One archive: of class folders, maybe within train/, val/ and test/, or one shard of a WebDataset."""
    members = _list(path)
    if any(member.kind in LABELS for member in members):
        return _join({"train": _keyed(members, str(path))}, str(path))
    return _read_folders(members, str(path))


def read_shards(shards: Sequence[Path], name: str) -> Samples | Splits:
    """A WebDataset's shards, whose names say their parts as in `group_files`; DataError with all faults."""
    keyed = {}
    faults = [f"{shard} isn't there" for shard in shards if not shard.is_file()]
    held = 0
    for part, files in group_files(name, shards).items():
        try:
            members: list[Member] = []
            for shard in filter(Path.is_file, files):
                found = _list(shard, held)
                held += sum(member.blob.held_bytes for member in found)
                members += found
            keyed[part] = _keyed(members, name)
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError(list_faults(faults))
    return _join(keyed, name)


def find_shards(folder: Path) -> list[Path]:
    """The archives in `folder`, sorted."""
    return sorted(entry for entry in folder.iterdir() if entry.name.lower().endswith(TARS) and entry.is_file())


def expand_braces(pattern: str) -> list[str]:
    """Every name that a pattern such as train-{0000..0099}.tar stands for, with as many digits; itself without one."""
    match = BRACES.search(pattern)
    if match is None:
        return [pattern]
    first, last = match.groups()
    numbers = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
    return [
        name for number in numbers for name in expand_braces(pattern[: match.start()] + number + pattern[match.end() :])
    ]


def _list(archive: Path, held: int = 0) -> list[Member]:
    """The pictures and labels in it, hidden ones and links left out; DataError where it can't be read whole.

    `held` are the bytes in memory of archives before it.
    """
    try:
        if archive.name.lower().endswith(".tar"):
            return list(_plain(archive))
        return list(_compressed(archive, held))
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        said = getattr(error, "strerror", None) or error
        raise DataError(f"{archive} can't be read as a tar archive ({said}); replace it") from None


def _wanted(archive: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, PurePosixPath]]:
    for info in archive:
        path = PurePosixPath(info.name)
        if info.isreg() and not path.name.startswith(".") and path.suffix.lower() in EXTENSIONS | set(LABELS):
            yield info, path


def _plain(archive: Path) -> Iterator[Member]:
    size = archive.stat().st_size
    with tarfile.open(archive, "r:") as opened:
        for info, path in _wanted(opened):
            if info.sparse is not None or info.offset_data + info.size > size:
                raise tarfile.ReadError(f"{info.name} isn't whole")
            yield Member(path, Stretch(f"{archive}/{info.name}", str(archive), info.offset_data, info.size))
        if opened.offset + tarfile.BLOCKSIZE > size:
            raise tarfile.ReadError(f"it is cut off at byte {size:,}")
        with open(archive, "rb") as file:
            file.seek(opened.offset)
            _check_end(file.read, opened.offset)


def _compressed(archive: Path, held: int) -> Iterator[Member]:
    limit = memory_limit()
    with gzip.open(archive) as content, tarfile.open(fileobj=content, mode="r|") as opened:
        for info, path in _wanted(opened):
            held += info.size
            if held > limit:
                raise DataError(
                    f"with {archive}, archives in gzip hold more than {limit:,} bytes of pictures, too much; unpack "
                    "them with gunzip: a plain tar is read in place"
                )
            file = opened.extractfile(info)
            assert file is not None, "an ordinary member has content"
            yield Member(path, Held(f"{archive}/{info.name}", file.read()))
        assert opened.fileobj is not None, "it is open"
        _check_end(opened.fileobj.read, opened.offset)


def _check_end(read: Callable[[int], bytes], offset: int) -> None:
    """Raises ReadError unless only zeros are left to `read`: tarfile takes a damaged header for the end."""
    while content := read(2**20):
        if content.count(0) < len(content):
            raise tarfile.ReadError(
                f"it is damaged at byte {offset:,}, or another archive was appended; tar --concatenate joins archives"
            )


def _read_folders(members: Sequence[Member], name: str) -> Samples | Splits:
    """Members by the folders they lie in."""
    if not members:
        raise DataError(f"{name} holds no picture; put them in a folder per class")
    rows = [member.path.parts for member in members]
    top = 0
    while all(len(parts) > top + 2 for parts in rows) and len({parts[top] for parts in rows}) == 1:
        top += 1  # a folder around everything
    names = {parts[top] for parts in rows}
    split = is_split(names)
    parts = {"train": list(members)}
    if split:
        parts = {
            part: [member for member in members if member.path.parts[top] == folder]
            for part, folder in name_parts(name, names).items()
        }
    depth = top + split
    loose = [member for part in parts.values() for member in part if len(member.path.parts) < depth + 2]
    if loose:
        raise DataError(list_faults(f"{member.blob.name} lies in no class folder" for member in loose))

    def read(part: str) -> Samples:
        pairs = [(member.blob, Row("", (member.path.parts[depth],))) for member in parts[part]]
        return _samples(pairs, f"{name} ({part})" if split else name)

    return read_parts(name, {part: partial(read, part) for part in parts})


def _keyed(members: Sequence[Member], name: str) -> list[tuple[Blob, Row]]:
    """Pictures and labels that share their shard, folder and name up to its first dot; DataError with all faults."""
    keys: dict[str, dict[str, Blob]] = {}
    faults = []
    for member in members:
        folder = member.blob.name.removesuffix(member.path.name)
        fields = keys.setdefault(folder + member.path.name.partition(".")[0], {})
        if member.kind in fields:
            faults.append(f"{member.blob.name} is a second {member.kind} of its key")
        fields[member.kind] = member.blob
    pairs = []
    for key, fields in keys.items():
        try:
            pairs.append((fields.get("picture") or _absent(key, "picture"), Row("", _labels(key, fields))))
        except DataError as error:
            faults.append(str(error))
    if faults or not pairs:
        raise DataError(f"{name}: {list_faults(faults) or 'it holds no picture'}")
    return pairs


def _join(keyed: Mapping[str, Sequence[tuple[Blob, Row]]], name: str) -> Samples | Splits:
    """Of several labels where any key has another number than one."""
    several = any(len(row.labels) != 1 for pairs in keyed.values() for _, row in pairs)
    spelt = {part: name if len(keyed) == 1 else f"{name} ({part})" for part in keyed}
    return read_parts(name, {part: partial(_samples, keyed[part], spelt[part], several) for part in spelt})


def _absent(key: str, field: str) -> Never:
    raise DataError(f"{key} has no {field}")


def _labels(key: str, fields: Mapping[str, Blob]) -> tuple[str, ...]:
    """What a key's label says, in words; DataError where there is none or it can't be read."""
    label = fields.get(".cls") or fields.get(".json") or _absent(key, "label (.cls or .json)")
    content = label.read()
    try:
        if len(content) > LABEL_LIMIT_BYTES:
            raise ValueError(f"it has {len(content):,} bytes")
        text = content.decode("utf-8").strip()
        value = text if label is fields.get(".cls") else _of_json(text)
    except ValueError as error:
        raise DataError(f"{label.name} says no label ({error})") from None
    words = tuple(str(each) for each in value) if isinstance(value, list) else (str(value),)
    if not all(words):
        raise DataError(f"{label.name} is empty")
    return words


def _of_json(text: str) -> str | int | list[str | int]:
    content = json.loads(text)
    found = [content[key] for key in JSON_KEYS if key in content] if isinstance(content, dict) else []
    values = found[0] if found and isinstance(found[0], list) else found[:1]
    if not found or not all(isinstance(value, str | int) for value in values):
        raise ValueError(f"give a text, a whole number or a list of them under {' or '.join(JSON_KEYS)}")
    result: str | int | list[str | int] = found[0]
    return result


def _samples(pairs: Sequence[tuple[Blob, Row]], name: str, multi_label: bool = False) -> Samples:
    samples = samples_of_rows([row for _, row in pairs], name, multi_label=multi_label)
    return replace(samples, pictures=tuple(blob for blob, _ in pairs))
