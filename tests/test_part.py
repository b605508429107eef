"""A run's rows outlive whatever ends it: none is lost, repeated or out of order, and no other run goes on with them."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vitkit import part
from vitkit.errors import ConfigError, DataError
from vitkit.part import Part, check_part

SCRIPT = Path(__file__).with_name("breaking.py")
RUN = {"top": 5, "model": "m"}


class Halt(BaseException):
    """What nothing expects."""


def open_part(output: Path, *, resume: bool = False, **changes: Any) -> Part:
    return Part(output, {**RUN, **changes}, {"rows": b"head\n"}, resume=resume)


def broken_off(output: Path, pictures: str = "abc") -> None:
    """Leaves a part with those pictures."""
    with pytest.raises(Halt), open_part(output) as written:
        for name in pictures:
            written.add(name, name.encode(), failed=name == "b")
        raise Halt


def finished(output: Path, pictures: str, *, resume: bool = True) -> Part:
    with open_part(output, resume=resume) as written:
        for name in written.rest(iter(pictures), str):
            written.add(name, name.encode(), failed=name == "b")
        written.finish("rows")
    return written


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
@pytest.mark.parametrize("how", ["kill", "interrupt"])
def test_a_run_that_ends_anywhere_goes_on_to_the_same_file(tmp_path: Path, how: str) -> None:
    """Before every 13th line of the code that writes, and twice more while it goes on; all of them: see the script."""
    done = subprocess.run([sys.executable, SCRIPT, how, tmp_path, "13"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2


def test_a_part_tells_what_it_holds_and_goes_on(tmp_path: Path) -> None:
    broken_off(tmp_path / "x")
    assert (tmp_path / "x.part" / "rows").read_bytes() == b"head\nabc"
    done = finished(tmp_path / "x", "abcde").state
    assert (done.pictures, done.failed) == (5, 1)
    assert (tmp_path / "x").read_bytes() == b"head\nabcde"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_nothing_done_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Halt) as halted, open_part(tmp_path / "x"):
        raise Halt
    assert not hasattr(halted.value, "__notes__")
    assert list(tmp_path.iterdir()) == []


def test_rows_reach_the_disk_while_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(part, "COMMIT_EVERY_S", 0.0)
    monkeypatch.setattr(part, "COMMIT_LATEST_S", 0.0)
    monkeypatch.setattr(os, "fsync", synced.append)
    with open_part(tmp_path / "x") as written:
        for count, name in enumerate("abc", start=1):
            before = len(synced)
            written.add(name, name.encode(), failed=False)
            assert (tmp_path / "x.part" / "rows").read_bytes() == b"head\n" + b"abc"[:count]
            assert json.loads((tmp_path / "x.part" / "state.json").read_text())["pictures"] == count
            assert len(synced) - before == 3  # the rows, the state, the folder
        written.finish("rows")


def test_an_unfinished_run_is_refused_with_both_ways_out(tmp_path: Path) -> None:
    broken_off(tmp_path / "x")
    both = r"x.part' holds 3 pictures of a run that didn't end: go on with it \(--resume\), or delete that folder"
    with pytest.raises(ConfigError, match=both):
        check_part(tmp_path / "x", resume=False)
    with pytest.raises(ConfigError, match=both), open_part(tmp_path / "x"):
        pass
    check_part(tmp_path / "x", resume=True)


def test_resume_begins_where_nothing_was_and_refuses_where_all_is_done(tmp_path: Path) -> None:
    finished(tmp_path / "x", "ab")
    assert (tmp_path / "x").read_bytes() == b"head\nab"
    with pytest.raises(ConfigError, match="is complete: nothing to resume; it is made anew without --resume"):
        finished(tmp_path / "x", "ab")
    finished(tmp_path / "x", "c", resume=False)
    assert (tmp_path / "x").read_bytes() == b"head\nc"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"top": 3}, "top is 5 there, 3 here"),
        ({"model": "n", "top": 3}, "top is 5 there, 3 here; model is 'm' there, 'n' here"),
        ({"spec": {"depth": 2}}, "spec.depth is None there, 2 here"),
    ],
)
def test_another_runs_part_is_refused_with_every_reason(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    broken_off(tmp_path / "x")
    with (
        pytest.raises(ConfigError, match=rf"is of another run \({says}\)"),
        open_part(tmp_path / "x", resume=True, **changes),
    ):
        pass
    finished(tmp_path / "x", "abcd")


@pytest.mark.parametrize("pictures", ["", "ab", "abd", "bac", "xabc"])
def test_other_pictures_are_refused(tmp_path: Path, pictures: str) -> None:
    broken_off(tmp_path / "x")
    with pytest.raises(DataError, match="the first 3 pictures aren't those of"):
        finished(tmp_path / "x", pictures)
    finished(tmp_path / "x", "abcd")
    assert (tmp_path / "x").read_bytes() == b"head\nabcd"


def test_names_dont_run_together(tmp_path: Path) -> None:
    with pytest.raises(Halt), open_part(tmp_path / "x") as written:
        written.add("ab", b"1", failed=False)
        written.add("c", b"2", failed=False)
        raise Halt
    with pytest.raises(DataError), open_part(tmp_path / "x", resume=True) as written:
        written.rest(["a", "bc"], str)


@pytest.mark.parametrize("refused", ["rows", "state"])
def test_a_disk_that_fills_up_keeps_what_was_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(ConfigError) as raised, open_part(tmp_path / "x") as written:
        written.add("a", b"a", failed=False)
        written.commit()
        written.add("b", b"b", failed=True)
        patched.setattr(part, *(("_write", full) if refused == "rows" else ("replace_file", full)))
        written.commit()
    assert str(raised.value) == f"can't write {str(tmp_path / 'x')!r} (the disk is full)"
    assert raised.value.__notes__ == [f"1 pictures are kept in {str(tmp_path / 'x.part')!r}: --resume goes on"]
    assert finished(tmp_path / "x", "abc").state.failed == 1
    assert (tmp_path / "x").read_bytes() == b"head\nabc"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pictures": 3}', '{"run": {}, "pictures": "3"}'])
def test_a_damaged_state_is_named(tmp_path: Path, content: str) -> None:
    broken_off(tmp_path / "x")
    (tmp_path / "x.part" / "state.json").write_text(content)
    for resume in (True, False):
        with pytest.raises(ConfigError, match=r"state.json: .*; delete '.*x.part' to begin anew"):
            check_part(tmp_path / "x", resume=resume)


def test_rows_that_are_gone_are_named(tmp_path: Path) -> None:
    broken_off(tmp_path / "x")
    os.truncate(tmp_path / "x.part" / "rows", 6)
    with pytest.raises(ConfigError, match="rows' is shorter than it was"):
        finished(tmp_path / "x", "abcd")
    (tmp_path / "x.part" / "rows").unlink()
    with pytest.raises(ConfigError, match="x.part' has lost rows"):
        finished(tmp_path / "x", "abcd")


@pytest.mark.skipif(sys.platform == "win32", reason="no such lock there")
def test_one_process_at_a_time(tmp_path: Path) -> None:
    with pytest.raises(Halt), open_part(tmp_path / "x") as written:
        written.add("a", b"a", failed=False)
        written.commit()
        with pytest.raises(ConfigError, match="x.part' is being written by another process right now"):
            finished(tmp_path / "x", "ab")
        with pytest.raises(ConfigError, match="being written"):
            check_part(tmp_path / "x", resume=False)
        raise Halt
    finished(tmp_path / "x", "ab")
    assert (tmp_path / "x").read_bytes() == b"head\nab"


@pytest.mark.skipif(sys.platform == "win32", reason="no such lock there")
def test_a_disk_without_locks_is_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    broken_off(tmp_path / "x")
    finished(tmp_path / "x", "abcd")
    assert (tmp_path / "x").read_bytes() == b"head\nabcd"


def test_a_link_stays_and_its_file_is_made(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "x").symlink_to(tmp_path / "real" / "y")
    broken_off(tmp_path / "x")
    assert (tmp_path / "real" / "y.part").is_dir()
    finished(tmp_path / "x", "abc")
    assert (tmp_path / "x").is_symlink() and (tmp_path / "real" / "y").read_bytes() == b"head\nabc"


def test_what_stands_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.part").write_text("mine")
    with pytest.raises(ConfigError, match="x.part' is in the way"):
        check_part(tmp_path / "x", resume=False)
    (tmp_path / "y.part").mkdir()
    (tmp_path / "y.part" / "diary").write_text("mine")
    with pytest.raises(ConfigError, match="y.part' isn't vitkit's: it holds diary"):
        finished(tmp_path / "y", "ab", resume=False)
    assert (tmp_path / "y.part" / "diary").read_text() == "mine"


def test_pictures_are_taken_one_by_one(tmp_path: Path) -> None:
    broken_off(tmp_path / "x")
    taken: list[str] = []

    def listed() -> Iterator[str]:
        for name in "abcde":
            taken.append(name)
            yield name

    with pytest.raises(Halt), open_part(tmp_path / "x", resume=True) as written:
        assert next(written.rest(listed(), str)) == "d"
        assert taken == list("abcd")
        raise Halt
