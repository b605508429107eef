"""embed_to_file: the embeddings of any number of pictures as .npz, Parquet or JSON lines, in bounded memory."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from vitkit.api.written import PARQUET_ROWS, Written, pyarrow, run_of, utf8
from vitkit.engine.predict import BATCH_SIZE, Answer, Predictor, name_of
from vitkit.errors import ConfigError
from vitkit.image.decode import Picture
from vitkit.part import Part, check_part

__all__ = ["EMBEDDING_FORMATS", "check_embedding_file", "embed_to_file"]

VECTORS, NAMES = "embeddings", "pictures.jsonl"
"""The streams of a run: float32 rows, little-endian; a line [picture, error] for each."""


@dataclass(frozen=True)
class Rows:
    """A run's streams, complete."""

    folder: Path
    count: int
    width: int
    facts: dict[str, str]
    """Texts about all of them: model, engine."""

    def names(self) -> Iterator[tuple[str, str]]:
        """(picture, error) of each row; no error is ""."""
        with open(self.folder / NAMES, encoding="ascii") as lines:
            yield from map(json.loads, lines)


def embed_to_file(
    predictor: Predictor,
    pictures: Iterable[Picture],
    output: str | os.PathLike[str],
    *,
    batch_size: int = BATCH_SIZE,
    resume: bool = False,
    on_answer: Callable[[Answer], None] | None = None,
) -> Written:
    """Writes one row per picture in input order: picture, embedding float32 [D], error.

    A picture that failed keeps its row, with NaN for the embedding and its error as text. The file's ending chooses
    .npz (arrays `embeddings` [n, D], `pictures` [n], `errors` [n]), .parquet or .jsonl (an object per picture, with
    `embedding` or `error`). Rows gather in the folder OUTPUT.part while the run goes on, and the output appears when it
    is complete; a run that was broken off, by whatever, goes on from there with `resume`.
    """
    kind = check_embedding_file(output, resume=resume)
    width = predictor.spec.feature_dim
    nothing = np.full(width, np.nan, np.float32)
    with Part(output, {"form": kind, **run_of(predictor)}, {VECTORS: b"", NAMES: b""}, resume=resume) as part:
        for answer in predictor.answers(part.rest(pictures, name_of), batch_size=batch_size):
            vector = nothing if answer.embedding is None else answer.embedding
            error = "" if answer.error is None else str(answer.error)
            line = json.dumps([answer.picture, error]) + "\n"
            part.add(answer.picture, vector.astype("<f4").tobytes(), line.encode(), failed=bool(error))
            if on_answer is not None:
                on_answer(answer)
        part.commit()
        facts = {"model": predictor.report.source, "engine": predictor.engine_name}
        rows = Rows(part.folder, part.state.pictures, width, facts)
        part.finish(f"result{kind}", functools.partial(EMBEDDING_FORMATS[kind], rows))
    return Written(part.state.pictures, part.state.failed)


def check_embedding_file(output: str | os.PathLike[str], *, resume: bool = False) -> str:
    """The output's ending, if it can be written; raises ConfigError before any long work."""
    kind = Path(output).suffix
    if kind not in EMBEDDING_FORMATS:
        allowed = ", ".join(EMBEDDING_FORMATS)
        raise ConfigError(f"can't write embeddings to {os.fspath(output)!r}; allowed endings: {allowed}")
    check_part(output, resume=resume)
    if kind == ".parquet":
        pyarrow(".npz")
    return kind


def pack_npz(rows: Rows, output: Path) -> None:
    """Arrays of one length each: numpy's format wants the count, and the longest text, first."""
    longest = [1, 1]
    for texts in rows.names():
        longest = [max(most, len(text)) for most, text in zip(longest, texts, strict=True)]
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        with (
            _member(archive, "embeddings", np.dtype("<f4"), (rows.count, rows.width)) as member,
            open(rows.folder / VECTORS, "rb") as vectors,
        ):
            shutil.copyfileobj(vectors, member, 1 << 20)
        for at, name in enumerate(("pictures", "errors")):
            with _member(archive, name, np.dtype(f"<U{longest[at]}"), (rows.count,)) as member:
                for texts in rows.names():
                    member.write(_utf32(texts[at]).ljust(4 * longest[at], b"\0"))
        for name, fact in rows.facts.items():
            with _member(archive, name, np.dtype(f"<U{len(fact)}"), ()) as member:
                member.write(_utf32(fact))


@contextlib.contextmanager
def _member(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype[np.generic], shape: tuple[int, ...]
) -> Iterator[IO[bytes]]:
    """An array inside an .npz, its header written, its bytes to follow in C order."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(member, header)
        yield member


def _utf32(text: str) -> bytes:
    return text.encode("utf-32-le", "surrogatepass")


def pack_parquet(rows: Rows, output: Path) -> None:
    """Groups of rows: picture, embedding (list of D float32), error (null where all went well)."""
    arrow, parquet = pyarrow()
    kinds = {"picture": arrow.string(), "embedding": arrow.list_(arrow.float32(), rows.width), "error": arrow.string()}
    facts = {name: utf8(fact) for name, fact in rows.facts.items()}
    schema = arrow.schema(kinds.items(), metadata=facts)
    with open(rows.folder / VECTORS, "rb") as vectors, parquet.ParquetWriter(output, schema) as writer:
        names = rows.names()
        while group := list(itertools.islice(names, PARQUET_ROWS)):
            flat = np.fromfile(vectors, "<f4", len(group) * rows.width)
            columns = [
                arrow.array([utf8(picture) for picture, _ in group], arrow.string()),
                arrow.FixedSizeListArray.from_arrays(arrow.array(flat), rows.width),
                arrow.array([utf8(error) or None for _, error in group], arrow.string()),
            ]
            writer.write_table(arrow.Table.from_arrays(columns, schema=schema))


def pack_jsonl(rows: Rows, output: Path) -> None:
    """An object per picture: picture, embedding or error, and what is true of all."""
    with open(output, "w", encoding="ascii") as file, open(rows.folder / VECTORS, "rb") as vectors:
        for picture, error in rows.names():
            embedding = np.fromfile(vectors, "<f4", rows.width).tolist()
            found = {"error": error} if error else {"embedding": embedding}
            file.write(json.dumps({"picture": picture, **found, **rows.facts}) + "\n")


EMBEDDING_FORMATS: dict[str, Callable[[Rows, Path], None]] = {
    ".npz": pack_npz,
    ".parquet": pack_parquet,
    ".jsonl": pack_jsonl,
}
