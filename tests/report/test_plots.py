"""Plots show what they are given, at any number of classes, and leave matplotlib and the disk as they were."""

import builtins
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitkit import ConfigError
from vitkit.report.drawing import check_output
from vitkit.report.plots import _draw, _select, _shorten, confusion_matrix_picture

Confusion = list[tuple[int, int, int]]


def draw_confusion(num_classes: int, *, seed: int = 0) -> Confusion:
    """Every class right 5 times and taken for a random class once."""
    others = np.random.default_rng(seed).integers(0, num_classes, num_classes)
    return sorted([(k, k, 5) for k in range(num_classes)] + [(k, int(o), 1) for k, o in enumerate(others) if o != k])


def test_a_whole_matrix_holds_every_count() -> None:
    table = _select([(0, 0, 3), (0, 2, 1), (2, 1, 4)], ["a", "b", "c"])
    np.testing.assert_array_equal(table.counts, [[3, 0, 1], [0, 0, 0], [0, 4, 0]])
    assert table.rows == table.columns == ["a", "b", "c"]


def test_of_many_classes_the_commonest_confusions_are_kept_and_rows_still_add_up() -> None:
    confusion = sorted([(k, k, 50) for k in range(1000)] + [(7, 900, 20), (900, 7, 15), (3, 4, 30), (3, 500, 1)])
    table = _select(confusion, [str(k) for k in range(1000)])
    assert table.counts.shape == (30, 31)
    assert {"3", "4", "7", "500", "900"} <= set(table.rows)
    assert table.rows == sorted(table.rows, key=int)
    at = table.rows.index("7")
    assert table.counts[at, table.columns.index("900")] == 20
    assert table.counts[at].sum() == 70
    assert table.columns[-1] == "all others"


def test_confusions_with_classes_not_drawn_land_in_the_last_column() -> None:
    pairs = [(2 * k, 2 * k + 1, 100 - k) for k in range(50)]
    table = _select(sorted([*pairs, (0, 99, 5)]), [str(k) for k in range(100)])
    assert table.rows == [str(k) for k in range(30)]
    assert table.counts[0, -1] == 5
    assert table.counts[:, -1].sum() == 5


def test_names_are_shortened_but_never_alike() -> None:
    names = ["tench, Tinca tinca", "crane", "crane", "a name that goes on for far too long to be drawn"]
    assert _shorten([0, 1, 2, 3], names) == ["tench", "crane (1)", "crane (2)", "a name that goes on for…"]


def text_of(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_few_classes_show_their_counts_and_many_do_not() -> None:
    confusion = [(0, 0, 1234), (0, 1, 3), (1, 1, 8)]
    assert text_of(_draw(_select(confusion, ["a", "b"]), "")) == ["1,234", "3", "8"]
    assert not text_of(_draw(_select(draw_confusion(40), [str(k) for k in range(40)]), ""))


def test_colours_tell_right_from_wrong_and_nothing_from_none(tmp_path: Path) -> None:
    confusion_matrix_picture([(0, 0, 9), (2, 0, 9)], ["a", "b", "c"], tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3).tolist()
    colours = {tuple(pixel) for pixel in pixels}
    assert (8, 48, 107) in colours  # the end of Blues
    assert (127, 39, 4) in colours  # the end of Oranges
    assert pixels.count([224, 224, 224]) > 1000  # the row of b


@pytest.mark.parametrize("num_classes", [1, 2, 5, 10, 40, 1000])
def test_a_png_comes_out_at_any_number_of_classes(tmp_path: Path, num_classes: int) -> None:
    file = tmp_path / "c.png"
    names = [f"class ${k}, with $ and _ and ^" for k in range(num_classes)]
    confusion_matrix_picture(draw_confusion(num_classes), names, file)
    with Image.open(file) as image:
        assert image.format == "PNG"
        assert 200 < min(image.size) <= max(image.size) < 3000
    assert [entry.name for entry in tmp_path.iterdir()] == ["c.png"]


def test_the_title_tells_accuracy_pictures_and_what_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []
    monkeypatch.setattr("vitkit.report.plots._draw", lambda table, title: titles.append(title) or _draw(table, title))
    confusion_matrix_picture([(0, 0, 1719), (0, 1, 281)], ["a", "b"], tmp_path / "c.png")
    confusion_matrix_picture([(0, 0, 1)], [str(k) for k in range(100)], tmp_path / "c.png")
    assert titles == [
        "top-1 86.0 % of 2,000 pictures",
        "top-1 100.0 % of 1 picture; 1 of 100 classes, the most confused",
    ]


def test_an_output_that_cannot_be_written_is_told_beforehand(tmp_path: Path) -> None:
    (tmp_path / "d.png").mkdir()
    for file, said in [("gone/c.png", "make it first"), ("d.png", "it is a folder"), ("c.pdf", r"end in \.png")]:
        with pytest.raises(ConfigError, match=said):
            check_output(tmp_path / file)


def test_without_matplotlib_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ConfigError, match=r"pip install 'vitkit\[plot\]'"):
        check_output(tmp_path / "c.png")


def test_drawing_loads_no_pyplot_and_importing_no_matplotlib(tmp_path: Path) -> None:
    program = (
        "import sys; from vitkit.report.plots import confusion_matrix_picture as draw; "
        "assert 'matplotlib' not in sys.modules; draw([(0, 0, 1)], ['a'], sys.argv[1]); "
        "assert 'matplotlib.pyplot' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "c.png")], check=True)
