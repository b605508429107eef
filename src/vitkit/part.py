"""Results written picture by picture that survive any end: the folder NAME.part, from which a broken run goes on.

The folder holds streams, files that rows are appended to, and state.json: whose run they are of, how many pictures are
done, and how long each stream was by then. Rows reach the disk before the state that counts them does, and what lies
beyond it is cut off when the run goes on. So whatever ends the process or the machine, no picture is repeated or lost.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

from vitkit.config import flatten, from_dict, read_json, to_dict
from vitkit.errors import ConfigError, DataError, list_faults
from vitkit.files import check_new_file, replace_file, sync_file, sync_folder, why_unwritten

if sys.platform != "win32":
    import fcntl

__all__ = ["Part", "check_part"]

logger = logging.getLogger("vitkit")

Item = TypeVar("Item")

COMMIT_EVERY_S, COMMIT_LATEST_S = 1.0, 10.0
COMMIT_SHARE = 0.02  # of the time goes into commits, where the disk is slow
STATE = "state.json"


@dataclass(frozen=True, kw_only=True)
class State:
    """What of a run is on the disk."""

    run: Mapping[str, Any]
    """All that the rows depend on but the pictures: the model, the options, the form."""
    pictures: int = 0
    failed: int = 0
    names: str = ""
    """A digest of the names of the pictures that are done, in order."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """The streams' lengths in bytes."""


@dataclass(frozen=True)
class Row:
    """What one picture adds."""

    name: str
    failed: bool
    texts: tuple[bytes, ...]
    """To each stream."""


def check_part(output: str | os.PathLike[str], *, resume: bool) -> None:
    """Raises ConfigError where a Part of `output` would, whatever its run: call it before long work."""
    check_new_file(output)
    folder = _folder_of(output)
    if (folder / STATE).exists():
        with _locked(folder):
            pictures = _read(folder).pictures
        if not resume:
            raise ConfigError(
                f"{str(folder)!r} holds {pictures:,} pictures of a run that didn't end: go on with it (--resume), or "
                "delete that folder to begin anew"
            )
    elif folder.exists() and not folder.is_dir():
        raise ConfigError(f"can't write {os.fspath(output)!r}: {str(folder)!r} is in the way; name another file")
    elif resume and Path(output).exists():
        raise ConfigError(f"{os.fspath(output)!r} is complete: nothing to resume; it is made anew without --resume")


class Part:
    """The rows of one run on their way to the file `output`: a context manager, for one process at a time.

    Whatever ends it early is raised with a note that says what is kept.
    """

    def __init__(
        self, output: str | os.PathLike[str], run: Mapping[str, Any], streams: Mapping[str, bytes], *, resume: bool
    ) -> None:
        """`run` is JSON-able; `streams` are the names of the files in the folder and the bytes each begins with."""
        self.output = output
        self.folder = _folder_of(output)
        self.resume = resume
        self._streams = streams
        self._files: dict[str, IO[bytes]] = {}
        # In one tuple, so that an interrupt between two statements never parts what is committed from what isn't.
        self._now: tuple[State, list[Row]] = (State(run=json.loads(json.dumps(to_dict(run)))), [])
        self._due = 0.0

    @property
    def state(self) -> State:
        """What is on the disk: all that was added, after `finish`."""
        return self._now[0]

    def __enter__(self) -> Self:
        check_part(self.output, resume=self.resume)
        with contextlib.ExitStack() as stack, self._writing():
            self.folder.mkdir(exist_ok=True)
            sync_folder(self.folder.parent)
            stack.enter_context(_locked(self.folder))
            for left in self.folder.glob(".part-*"):  # a state that a kill cut off
                left.unlink()
            if (self.folder / STATE).exists():
                self._now = (self._checked(_read(self.folder)), [])
                logger.info("going on after %d pictures in %s", self.state.pictures, self.folder)
            elif others := sorted({path.name for path in self.folder.iterdir()} - self._streams.keys()):
                raise ConfigError(f"{str(self.folder)!r} isn't vitkit's: it holds {list_faults(others)}; move it away")
            self._moved = self._is_moved()
            if not self._moved:
                self._files = {name: stack.enter_context(self._opened(name)) for name in self._streams}
            self._stack = stack.pop_all()
        self._due = time.monotonic() + COMMIT_EVERY_S
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if error is None:
                return
            with contextlib.suppress(ConfigError):
                self.commit()
            if self.state.pictures:
                error.add_note(f"{self.state.pictures:,} pictures are kept in {str(self.folder)!r}: --resume goes on")
            else:
                shutil.rmtree(self.folder, ignore_errors=True)

    def rest(self, pictures: Iterable[Item], name: Callable[[Item], str]) -> Iterator[Item]:
        """The pictures after those that are done. Raises DataError where those aren't the first of these."""
        left, digest = iter(pictures), ""
        for picture in itertools.islice(left, self.state.pictures):
            digest = _chain(digest, name(picture))
        if digest != self.state.names:
            raise DataError(
                f"the first {self.state.pictures:,} pictures aren't those of {str(self.folder)!r}: other arguments, or "
                "a file was added, removed or renamed; give the same, or delete that folder to begin anew"
            )
        return iter(()) if self._moved else left

    def add(self, name: str, *texts: bytes, failed: bool) -> None:
        """One picture's bytes for each stream. They reach the disk within seconds."""
        self._now[1].append(Row(name, failed, texts))
        if time.monotonic() >= self._due:
            self.commit()

    def commit(self) -> None:
        """Brings all that was added onto the disk. After an interrupt it writes the same bytes in the same place."""
        start = time.monotonic()
        state, rows = self._now
        names = state.names
        for row in rows:
            names = _chain(names, row.name)
        sizes = {}
        with self._writing():
            for at, (name, file) in enumerate(self._files.items()):
                head = b"" if state.sizes else self._streams[name]
                file.seek(state.sizes.get(name, 0))
                _write(file, b"".join((head, *(row.texts[at] for row in rows))))
                os.fsync(file.fileno())
                sizes[name] = file.tell()
            ahead = dataclasses.replace(
                state,
                pictures=state.pictures + len(rows),
                failed=state.failed + sum(row.failed for row in rows),
                names=names,
                sizes=sizes or state.sizes,
            )
            with replace_file(self.folder / STATE) as file_:
                file_.write_text(json.dumps(to_dict(ahead)), encoding="utf-8")
        self._now = (ahead, [])
        now = time.monotonic()
        self._due = now + min(max(COMMIT_EVERY_S, (now - start) / COMMIT_SHARE), COMMIT_LATEST_S)

    def finish(self, stream: str, pack: Callable[[Path], None] | None = None) -> None:
        """Makes the output and removes the folder: the output is `stream`, or what `pack` writes to a path there."""
        if not self._moved:
            self.commit()
        files, self._files = self._files, {}
        for file in files.values():
            file.close()
        with self._writing():
            if not self._moved:
                made = self.folder / stream
                if pack is not None:
                    pack(made)
                    sync_file(made)
                target = Path(os.path.realpath(self.output))
                os.replace(made, target)
                sync_folder(target.parent)
            # The state goes last: without it, what is left would pass for a run that hasn't begun.
            for name in self._streams:
                (self.folder / name).unlink(missing_ok=True)
            shutil.rmtree(self.folder)

    def _checked(self, state: State) -> State:
        """The state found there, if it is of this run."""
        there, here = flatten(state.run), flatten(self.state.run)
        keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
        if keys:
            faults = list_faults(f"{key} is {there.get(key)!r} there, {here.get(key)!r} here" for key in keys)
            raise ConfigError(
                f"{str(self.folder)!r} is of another run ({faults}): give what that one was given, or delete that "
                "folder to begin anew"
            )
        return state

    def _is_moved(self) -> bool:
        """Whether a kill came after the output was in its place and before the rest was removed."""
        gone = [name for name, size in self.state.sizes.items() if size and not (self.folder / name).exists()]
        if gone and not Path(self.output).exists():
            raise ConfigError(f"{str(self.folder)!r} has lost {', '.join(gone)}; delete that folder to begin anew")
        return bool(gone)

    def _opened(self, name: str) -> IO[bytes]:
        """A stream, cut back to what the state counts. Unbuffered: what a full disk refuses isn't tried again."""
        path, size = self.folder / name, self.state.sizes.get(name, 0)
        path.touch()
        if path.stat().st_size < size:
            raise ConfigError(f"{str(path)!r} is shorter than it was ({size:,} bytes); delete its folder to begin anew")
        file = open(path, "r+b", buffering=0)  # noqa: SIM115
        file.truncate(size)
        return file

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns what a full disk or a forbidden folder raises into one ConfigError."""
        try:
            yield
        except OSError as error:
            left = "" if self.state.pictures else "; nothing was left behind"
            raise ConfigError(f"can't write {os.fspath(self.output)!r} ({why_unwritten(error)}){left}") from error


def _folder_of(output: str | os.PathLike[str]) -> Path:
    """Beside the file that a link points to: renaming across disks is no renaming."""
    target = Path(os.path.realpath(output) if Path(output).is_symlink() else output)
    return target.with_name(f"{target.name}.part")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps every other process out, until this one ends in whatever way; Windows has no such lock on a folder."""
    if sys.platform == "win32":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{str(folder)!r} is being written by another process right now") from None
        except OSError:  # a disk across the network that knows no locks
            logger.info("%s can't be locked: a second process must not write there", folder)
        yield
    finally:
        os.close(handle)


def _read(folder: Path) -> State:
    try:
        return from_dict(State, read_json(folder / STATE), origin=str(folder / STATE))
    except (ConfigError, OSError) as error:
        raise ConfigError(f"{error}; delete {str(folder)!r} to begin anew") from None


def _chain(digest: str, name: str) -> str:
    return hashlib.sha256((digest + name).encode("utf-8", "surrogatepass")).hexdigest()


def _write(file: IO[bytes], content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]
