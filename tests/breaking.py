"""A run of a Part that ends before each line of its code in turn, and goes on each time. Run by test_part.py.

    python breaking.py kill|interrupt FOLDER [EVERY]    before every line, or only every so many

Forks, so that a kill costs milliseconds; without fsync, which a kill of the process doesn't need. After it, what the
state doesn't count is overwritten, as a power cut may leave it.
"""

import json
import os
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from vitkit import files, part
from vitkit.part import Part

NAMES = ["a.png", "line\nbreak.png", "\udcff.png", "d.png", "a.png"]
CODE = {part.__file__, files.__file__}


def run(output: Path, *, resume: bool) -> None:
    streams = {"rows": b"head\n", "sizes": b""}
    with Part(output, {"top": 5}, streams, resume=resume) as written:
        for name in written.rest(iter(NAMES), str):
            text = f"{name}\n".encode("utf-8", "surrogateescape")
            written.add(name, text, bytes([len(text)]), failed=name == "d.png")
        folder = written.folder

        def pack(result: Path) -> None:
            result.write_bytes((folder / "rows").read_bytes() + (folder / "sizes").read_bytes())

        if output.suffix == ".packed":
            written.finish("result", pack)
        else:
            written.finish("rows")
    assert (written.state.pictures, written.state.failed) == (len(NAMES), 1)


def end_at(count: int, how: str) -> list[int]:
    """Ends this process before the line of number `count` of the code under test; returns a counter of lines."""
    lines = [0]

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in CODE:
            return None
        if event == "line":
            lines[0] += 1
            if lines[0] == count:
                if how == "kill":
                    os._exit(9)
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    return lines


def child(output: Path, count: int, how: str) -> bool:
    """Whether a run in a process of its own, ended before that line, came to its end."""
    pid = os.fork()
    if pid == 0:
        end_at(count, how)
        try:
            begun = (part._folder_of(output) / part.STATE).exists()
            run(output, resume=begun)
        except KeyboardInterrupt:
            os._exit(9)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 9), f"line {count}"
    return code == 0


def spoil(output: Path) -> None:
    """What isn't known to be on the disk may be anything."""
    folder = part._folder_of(output)
    if (folder / part.STATE).exists():
        for name, size in json.loads((folder / part.STATE).read_text())["sizes"].items():
            if (folder / name).exists():
                os.truncate(folder / name, size)
                with open(folder / name, "ab") as stream:
                    stream.write(b"\0junk\n")


def main(how: str, folder: Path, every: int) -> None:
    os.fsync = lambda handle: None  # type: ignore[assignment]
    part.COMMIT_EVERY_S = part.COMMIT_LATEST_S = 0.0
    for form in ("plain", "packed"):
        whole = folder / f"whole.{form}"
        run(whole, resume=False)
        expected, count = whole.read_bytes(), 0
        while True:
            count += every
            output = folder / f"{count}.{form}"
            if child(output, count, how):
                break
            for again in (count // 2, 0):
                spoil(output)
                if not output.exists() or part._folder_of(output).exists():
                    child(output, again, how)
            assert output.read_bytes() == expected, count
            output.unlink()
            assert all(path.stem == "whole" for path in folder.iterdir()), count
        output.unlink()
        print(form, count)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 1)
