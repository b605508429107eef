"""Writing that is whole or absent: temporary neighbour, flush, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vitkit.errors import ConfigError

__all__ = [
    "check_new_file",
    "check_new_folder",
    "new_folder",
    "replace_file",
    "replace_files",
    "sha256_of",
    "why_unwritten",
    "writing",
]


def sha256_of(path: Path) -> str:
    """The file's SHA-256 as 64 hexadecimal digits. hashlib releases the GIL, so it can run beside other work."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_file(path: Path) -> None:
    """Forces a file's bytes onto the disk."""
    # Windows can only flush a handle that was opened for writing.
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Forces a folder's entries (the names, after a rename) onto the disk; on Windows the system does so itself."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def replace_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on a clean exit it takes `path`'s place in one step, else it is removed.

    A link stays, and the file it points to is replaced. Raises ConfigError as `check_new_file` does.
    """
    check_new_file(path)
    target = Path(os.path.realpath(path))  # Path.resolve raises on links in a circle
    parent = target.parent
    # The suffix stays: some writers (numpy.savez) choose a format or append one by it.
    handle, name = tempfile.mkstemp(prefix=".part-", suffix=target.suffix, dir=parent)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        sync_file(part)
        os.chmod(part, 0o666 & ~current_umask())
        os.replace(part, target)
        sync_folder(parent)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def replace_files(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields `path`'s name in a temporary folder beside it, for several files that belong together.

    On a clean exit whatever lies there takes its place beside `path`, `path` itself last; else nothing is left. A link
    is replaced, not followed: what belongs together stays together. Raises ConfigError as `check_new_file` does.
    """
    check_new_file(path)
    target = Path(path)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=target.parent, ignore_cleanup_errors=True) as part:
        yield Path(part, target.name)
        files = sorted(Path(part).iterdir(), key=lambda file: file.name == target.name)
        for file in files:
            os.chmod(file, 0o666 & ~current_umask())
            sync_file(file)
        for file in files:
            os.replace(file, target.parent / file.name)
        sync_folder(target.parent)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yields a temporary folder beside `path`; on a clean exit it becomes `path` in one rename, else it is removed.

    A folder that exists and isn't empty is an error unless `overwrite`; then the old one is moved away first and
    deleted last, so that at every moment one complete folder exists. A link stays, and its folder is replaced.
    """
    check_new_folder(path, overwrite=overwrite)
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=target.parent))
    old: Path | None = None
    try:
        yield part
        for file in part.rglob("*"):
            if file.is_file():
                os.chmod(file, 0o666 & ~current_umask())
                sync_file(file)
        os.chmod(part, 0o777 & ~current_umask())
        if target.is_dir():
            if any(target.iterdir()):
                old = Path(tempfile.mkdtemp(prefix=".old-", dir=target.parent))
                old.rmdir()
                os.replace(target, old)
            else:
                target.rmdir()
        try:
            os.replace(part, target)
        except OSError:
            if old is not None:
                os.replace(old, target)
                old = None
            raise
        sync_folder(target.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)


def check_new_file(path: str | os.PathLike[str]) -> None:
    """Raises ConfigError if `replace_file(path)` would: call it before long work whose result goes there."""
    target = Path(path)
    parent = target.parent
    if not parent.is_dir():
        raise ConfigError(f"can't write {str(target)!r}: there is no folder {str(parent)!r}; make it first")
    if target.is_dir():
        raise ConfigError(f"can't write {str(target)!r}: it is a folder; name a file in it")
    if target.exists() and not target.is_file():  # root would replace /dev/null itself
        raise ConfigError(f"can't write {str(target)!r}: it isn't an ordinary file; name another")
    if not os.access(parent, os.W_OK):
        raise ConfigError(
            f"can't write {str(target)!r}: this user may not write in {str(parent)!r}; name another folder"
        )


def check_new_folder(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Raises ConfigError if `new_folder(path)` would: call it before long work whose result goes there."""
    target = Path(path)
    if target.exists() and not target.is_dir():
        raise ConfigError(f"can't write the folder {str(target)!r}: a file of that name exists; choose another name")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise ConfigError(
            f"can't write the folder {str(target)!r}: it exists and isn't empty; choose another name or overwrite it"
        )


def why_unwritten(error: Exception) -> str:
    """Why a write failed, in few words: of an OSError, or of what another writer made of one."""
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
    if full or any(f"os error {number}" in str(error) for number in (errno.ENOSPC, errno.EFBIG)):  # safetensors'
        return "the disk is full"
    return getattr(error, "strerror", None) or " ".join(str(error).split())


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns what a full disk or a forbidden folder raises inside into one ConfigError that names `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise ConfigError(f"can't write {os.fspath(path)!r} ({reason}); nothing was left behind") from error


def current_umask() -> int:
    """The process's file mode mask: mkstemp makes private files, a result should have the user's ordinary mode."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
