"""Writing is whole or absent, whatever fails and wherever."""

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from vitkit import files
from vitkit.errors import ConfigError
from vitkit.files import check_new_file, check_new_folder, new_folder, replace_file, replace_files, sha256_of, writing


class Halt(BaseException):
    """What nothing expects: an interrupt."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def ordinary(kind: int) -> int:
    umask = os.umask(0)
    os.umask(umask)
    return kind & ~umask


def write_file(target: Path) -> None:
    with replace_file(target) as part:
        part.write_text("new")


def write_folder(target: Path) -> None:
    with new_folder(target, overwrite=True) as part:
        (part / "sub").mkdir()
        (part / "sub" / "file").write_text("new")


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    (tmp_path / "x.txt").write_text("old")
    return tmp_path / "x.txt"


@pytest.fixture
def old_folder(tmp_path: Path) -> Path:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "file").write_text("old")
    return tmp_path / "m"


def test_a_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert sha256_of(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_a_file_appears_whole_and_alone(tmp_path: Path) -> None:
    with replace_file(tmp_path / "x.npz") as part:
        part.write_bytes(b"half")
        assert part.parent == tmp_path and part.suffix == ".npz"
        assert not (tmp_path / "x.npz").exists()
    assert (tmp_path / "x.npz").read_bytes() == b"half"
    assert names(tmp_path) == ["x.npz"]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, Halt])
def test_what_fails_inside_leaves_the_old_and_nothing_else(
    old_file: Path, old_folder: Path, kind: type[BaseException]
) -> None:
    with pytest.raises(kind), replace_file(old_file) as part:
        part.write_text("half")
        raise kind
    with pytest.raises(kind), new_folder(old_folder, overwrite=True) as folder:
        (folder / "half").write_text("half")
        raise kind
    assert old_file.read_text() == "old"
    assert (old_folder / "file").read_text() == "old"
    assert names(old_file.parent) == ["m", "x.txt"]


@pytest.mark.parametrize("write", [write_file, write_folder])
@pytest.mark.parametrize("step", ["sync_file", "chmod", "replace", "current_umask"])
def test_each_step_may_fail(
    old_file: Path, old_folder: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None], step: str
) -> None:
    """Up to the rename the old stays, from then on the new is there: never neither, never a mixture."""

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    home = files.os if step in ("chmod", "replace") else files
    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        patched.setattr(home, step, fail)
        write(old_file if write is write_file else old_folder)
    assert (old_file.read_text(), (old_folder / "file").read_text()) == ("old", "old")
    assert names(old_file.parent) == ["m", "x.txt"]


def test_a_folder_that_cant_take_its_place_gives_the_old_one_back(
    old_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = os.replace
    calls: list[tuple[Path, Path]] = []

    def second_fails(source: Path, target: Path) -> None:
        calls.append((source, target))
        if len(calls) == 2:
            assert not old_folder.exists(), "it was moved away"
            raise OSError(28, "No space left on device")
        genuine(source, target)

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        patched.setattr(files.os, "replace", second_fails)
        write_folder(old_folder)
    assert len(calls) == 3
    assert (old_folder / "file").read_text() == "old"
    assert names(old_folder.parent) == ["m"]


def test_the_folders_entry_reaches_the_disk_after_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def noting(name: str, genuine: Callable[..., None]) -> Callable[..., None]:
        def note(*arguments: Path) -> None:
            order.append(name)
            genuine(*arguments)

        return note

    for home, name in ((files, "sync_file"), (files.os, "replace"), (files, "sync_folder")):
        monkeypatch.setattr(home, name, noting(name, getattr(home, name)))
    write_file(tmp_path / "x")
    write_folder(tmp_path / "m")
    assert order == ["sync_file", "replace", "sync_folder"] * 2


def test_files_that_belong_together_appear_together_the_named_one_last(
    old_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[str] = []
    rename = os.replace

    def note(source: Path, target: Path) -> None:
        moved.append(target.name)
        rename(source, target)

    monkeypatch.setattr(files.os, "replace", note)
    with replace_files(old_file) as part:
        assert part.name == "x.txt"
        for name in ("x.txt", "x.bin", "y.proof"):
            part.with_name(name).write_text("new")
        assert names(old_file.parent) == [part.parent.name, "x.txt"] and old_file.read_text() == "old"
    assert sorted(moved) == names(old_file.parent) == ["x.bin", "x.txt", "y.proof"] and moved[-1] == "x.txt"
    assert all(file.read_text() == "new" for file in old_file.parent.iterdir())
    assert all(stat.S_IMODE(file.stat().st_mode) == ordinary(0o666) for file in old_file.parent.iterdir())


def test_files_that_belong_together_are_left_out_together(old_file: Path) -> None:
    with pytest.raises(RuntimeError), replace_files(old_file) as part:
        part.with_name("x.bin").write_text("new")
        raise RuntimeError
    assert names(old_file.parent) == ["x.txt"] and old_file.read_text() == "old"


def test_overwriting_takes_the_whole_place(old_file: Path, old_folder: Path) -> None:
    write_file(old_file)
    write_folder(old_folder)
    assert old_file.read_text() == "new"
    assert names(old_folder) == ["sub"] and (old_folder / "sub" / "file").read_text() == "new"
    assert names(old_file.parent) == ["m", "x.txt"]


def test_results_have_the_modes_a_plain_program_would_give(tmp_path: Path) -> None:
    write_file(tmp_path / "x")
    write_folder(tmp_path / "m")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "file").touch()
    for made, like in (("x", "plain/file"), ("m/sub/file", "plain/file"), ("m", "plain"), ("m/sub", "plain")):
        assert stat.S_IMODE((tmp_path / made).stat().st_mode) == stat.S_IMODE((tmp_path / like).stat().st_mode), made
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == ordinary(0o666)


def test_a_file_without_its_folder_is_refused_and_a_folder_makes_its_parents(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder .*nowhere'; make it first"):
        write_file(tmp_path / "nowhere" / "x")
    write_folder(tmp_path / "a" / "b" / "m")
    assert names(tmp_path) == ["a"] and names(tmp_path / "a" / "b") == ["m"]


def test_what_stands_in_the_way_is_told_by_the_check_alone(old_file: Path, old_folder: Path) -> None:
    for check in (check_new_file, write_file):
        with pytest.raises(ConfigError, match="it is a folder; name a file in it"):
            check(old_folder)
    for checked in (check_new_folder, lambda path: new_folder(path).__enter__()):
        with pytest.raises(ConfigError, match="exists and isn't empty; choose another name or overwrite it"):
            checked(old_folder)
        with pytest.raises(ConfigError, match="a file of that name exists"):
            checked(old_file)
    check_new_file(old_file)
    check_new_folder(old_folder, overwrite=True)
    empty = old_file.parent / "empty"
    empty.mkdir()
    with new_folder(empty) as part:
        (part / "x").touch()
    assert names(empty) == ["x"]
    assert names(old_file.parent) == ["empty", "m", "x.txt"]


def test_a_pipe_or_device_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for special in (tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(ConfigError, match="it isn't an ordinary file"):
            check_new_file(special)
    with pytest.raises(ConfigError, match="it isn't an ordinary file"):
        write_file(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


def test_a_link_stays_and_what_it_points_to_is_replaced(old_file: Path, old_folder: Path) -> None:
    links = [old_file.parent / "link.txt", old_file.parent / "link"]
    links[0].symlink_to(old_file)
    links[1].symlink_to(old_folder)
    write_file(links[0])
    write_folder(links[1])
    assert all(link.is_symlink() for link in links)
    assert old_file.read_text() == "new" and names(old_folder) == ["sub"]
    assert names(old_file.parent) == ["link", "link.txt", "m", "x.txt"]


def test_writing_turns_the_systems_refusals_into_one_line_and_nothing_else(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"^can't write 'x.npz' \(No space left on device\); nothing was left behind$"),
        writing("x.npz"),
    ):
        raise OSError(28, "No space left on device")
    with pytest.raises(ValueError, match="ours"), writing("x.npz"):
        raise ValueError("ours")
    with pytest.raises(ConfigError, match="make it first"), writing("x"), replace_file(tmp_path / "no" / "x"):
        pass
