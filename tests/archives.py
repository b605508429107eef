"""Small archives and tables of pictures as other programs write them, and what is read from them."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa

from small import picture
from vitkit.data.samples import Samples


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(40, 50, seed=seed).save(buffer, "JPEG")
    return buffer.getvalue()


def tar_file(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def shard(path: Path, first: int, count: int, label: str = "cls") -> Path:
    members: dict[str, bytes] = {}
    for number in range(first, first + count):
        said = {"cls": str(number % 3).encode(), "json": json.dumps({"label": "abc"[number % 3], "w": 1}).encode()}
        members |= {f"{number:06d}.{label}": said[label], f"{number:06d}.jpg": jpeg(number)}
    return tar_file(path, members)


def hub_table(first: int, count: int, *, names: list[str] | None = None) -> pa.Table:
    rows = range(first, first + count)
    pictures = pa.array(
        [{"bytes": jpeg(n), "path": f"{n}.jpg"} for n in rows],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    table = pa.table({"image": pictures, "label": pa.array([n % 2 for n in rows], pa.int64())})
    label = {"names": names, "_type": "ClassLabel"} if names else {"dtype": "int64", "_type": "Value"}
    features = {"image": {"_type": "Image"}, "label": label}
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def contents(samples: Samples) -> list[tuple[Any, str]]:
    """Every picture's bytes, also as another process reads them, and its class."""
    found = []
    for at, blob in enumerate(samples.pictures):
        content = blob.read()  # type: ignore[union-attr]
        assert pickle.loads(pickle.dumps(blob)).read() == content
        found.append((content, samples.label_text(at)))
    return found
