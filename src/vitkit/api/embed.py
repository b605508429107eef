"""embed_to_file: the embeddings of any number of pictures as .npz or Parquet, in bounded memory."""

from __future__ import annotations

import contextlib
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vitkit.engine.predict import BATCH_SIZE, Answer, Predictor
from vitkit.errors import ConfigError
from vitkit.files import check_new_file, replace_file, writing
from vitkit.image.decode import Picture

__all__ = ["EMBEDDING_FORMATS", "Embedded", "check_embedding_file", "embed_to_file"]


@dataclass(frozen=True)
class Embedded:
    """What `embed_to_file` wrote."""

    count: int
    failed: int
    feature_dim: int


class Writer(Protocol):
    """Takes rows one at a time; the file is complete once `close` returns."""

    def add(self, picture: str, embedding: NDArray[np.float32], error: str) -> None: ...

    def close(self) -> None: ...


def embed_to_file(
    predictor: Predictor,
    pictures: Iterable[Picture],
    output: str | os.PathLike[str],
    *,
    batch_size: int = BATCH_SIZE,
    on_answer: Callable[[Answer], None] | None = None,
) -> Embedded:
    """Writes one row per picture in input order: picture, embedding float32 [D], error.

    A picture that failed keeps its row, with NaN for the embedding and its error as text. The file's ending chooses
    .npz (arrays `embeddings` [n, D], `pictures` [n], `errors` [n]) or .parquet; it appears when it is complete.
    """
    kind = check_embedding_file(output)
    count = failed = 0
    width = predictor.spec.feature_dim
    nothing = np.full(width, np.nan, np.float32)
    with writing(output), replace_file(output) as part, contextlib.ExitStack() as stack:
        writer = EMBEDDING_FORMATS[kind](part, width, predictor, stack)
        for answer in predictor.answers(pictures, batch_size=batch_size):
            count += 1
            failed += answer.error is not None
            row = nothing if answer.embedding is None else answer.embedding
            writer.add(answer.picture, row, "" if answer.error is None else str(answer.error))
            if on_answer is not None:
                on_answer(answer)
        writer.close()
    return Embedded(count, failed, width)


def check_embedding_file(output: str | os.PathLike[str]) -> str:
    """The output's ending, if it can be written; raises ConfigError before any long work."""
    kind = Path(output).suffix
    if kind not in EMBEDDING_FORMATS:
        raise ConfigError(f"can't write embeddings to {os.fspath(output)!r}; allowed endings: .npz, .parquet")
    check_new_file(output)
    if kind == ".parquet":
        _pyarrow()
    return kind


class NpzWriter:
    """Rows spooled to temporary files, then packed: numpy's format needs the count first."""

    def __init__(self, part: Path, width: int, predictor: Predictor, stack: contextlib.ExitStack) -> None:
        self.part, self.width = part, width
        self.count = 0
        self.spool: dict[str, IO[bytes]] = {
            name: stack.enter_context(tempfile.TemporaryFile(dir=part.parent, prefix=".part-"))  # noqa: SIM115
            for name in ("embeddings", "pictures", "errors")
        }
        self.longest = {"pictures": 1, "errors": 1}
        self.facts = {"model": predictor.report.source, "engine": predictor.engine.name}

    def add(self, picture: str, embedding: NDArray[np.float32], error: str) -> None:
        """One row."""
        self.spool["embeddings"].write(embedding.astype("<f4").tobytes())
        for name, text in (("pictures", picture), ("errors", error)):
            encoded = text.encode("utf-32-le", "surrogatepass")
            self.longest[name] = max(self.longest[name], len(encoded) // 4)
            self.spool[name].write(len(encoded).to_bytes(4, "little") + encoded)
        self.count += 1

    def close(self) -> None:
        """Packs the spooled rows."""
        with zipfile.ZipFile(self.part, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            with _member(archive, "embeddings", np.dtype("<f4"), (self.count, self.width)) as member:
                self.spool["embeddings"].seek(0)
                while block := self.spool["embeddings"].read(1 << 20):
                    member.write(block)
            for name, longest in self.longest.items():
                with _member(archive, name, np.dtype(f"<U{longest}"), (self.count,)) as member:
                    self.spool[name].seek(0)
                    for _ in range(self.count):
                        length = int.from_bytes(self.spool[name].read(4), "little")
                        member.write(self.spool[name].read(length).ljust(4 * longest, b"\0"))
            for name, fact in self.facts.items():
                with _member(archive, name, np.dtype(f"<U{len(fact)}"), ()) as member:
                    member.write(fact.encode("utf-32-le", "surrogatepass"))


@contextlib.contextmanager
def _member(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype[np.generic], shape: tuple[int, ...]
) -> Iterator[IO[bytes]]:
    """An array inside an .npz, its header written, its bytes to follow in C order."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(member, header)
        yield member


class ParquetWriter:
    """Row groups of 4,096 rows: picture, embedding (list of D float32), error (null where all went well)."""

    ROWS = 4096

    def __init__(self, part: Path, width: int, predictor: Predictor, stack: contextlib.ExitStack) -> None:
        arrow, parquet = _pyarrow()
        self.arrow = arrow
        facts = {"model": _utf8(predictor.report.source), "engine": predictor.engine.name}
        self.schema = arrow.schema(
            [
                ("picture", arrow.string()),
                ("embedding", arrow.list_(arrow.float32(), width)),
                ("error", arrow.string()),
            ],
            metadata=facts,
        )
        self.file = stack.enter_context(parquet.ParquetWriter(part, self.schema))
        self.width = width
        self.rows: list[tuple[str, NDArray[np.float32], str]] = []

    def add(self, picture: str, embedding: NDArray[np.float32], error: str) -> None:
        """One row."""
        self.rows.append((picture, embedding, error))
        if len(self.rows) == self.ROWS:
            self._flush()

    def close(self) -> None:
        """The last rows and the footer."""
        self._flush()
        self.file.close()

    def _flush(self) -> None:
        arrow = self.arrow
        if not self.rows:
            return
        pictures, embeddings, errors = zip(*self.rows, strict=True)
        flat = arrow.array(np.concatenate(embeddings))
        columns = [
            arrow.array([_utf8(picture) for picture in pictures], arrow.string()),
            arrow.FixedSizeListArray.from_arrays(flat, self.width),
            arrow.array([error or None for error in errors], arrow.string()),
        ]
        self.file.write_table(arrow.Table.from_arrays(columns, schema=self.schema))
        self.rows = []


def _utf8(text: str) -> str:
    """A path as Parquet can hold it: bytes of a name that aren't UTF-8 are spelt out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError("writing Parquet needs pyarrow: pip install 'vitkit[parquet]', or write .npz") from None
    return pyarrow, pyarrow.parquet


EMBEDDING_FORMATS: dict[str, Callable[[Path, int, Predictor, contextlib.ExitStack], Writer]] = {
    ".npz": NpzWriter,
    ".parquet": ParquetWriter,
}
