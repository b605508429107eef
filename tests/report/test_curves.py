"""Curves, scatter and similarity plots draw the numbers they are given."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitkit import ConfigError
from vitkit.report import plots
from vitkit.report.plots import curve_pictures, curves_picture, scatter_picture, similarity_picture


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every figure that is finished."""
    seen: list[Any] = []
    finish = plots.finish
    monkeypatch.setattr(
        plots, "finish", lambda figure, *rest, **how: seen.append(figure) or finish(figure, *rest, **how)
    )
    return seen


def log(steps: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"kind": "step", "step": step, "loss": 2.0 - step / steps, "lr": 1e-3} for step in range(steps)
    ]
    return [*rows, {"kind": "evaluation", "step": steps, "weights": "ema", "loss": 0.5, "accuracy": 0.75}]


def test_a_log_becomes_a_panel_for_each_quantity_it_tells(figures: list[Any]) -> None:
    png = curves_picture(log(10))
    assert Image.open(io.BytesIO(png)).format == "PNG"
    assert [axes.get_title(loc="left") for axes in figures[0].axes] == ["loss", "accuracy, %", "learning rate"]
    training, held_out = figures[0].axes[0].lines
    np.testing.assert_allclose(training.get_ydata(), 2 - np.arange(10) / 10)
    assert (held_out.get_xdata().tolist(), held_out.get_ydata().tolist()) == ([10], [0.5])
    assert figures[0].axes[1].lines[-1].get_ydata().tolist() == [75]


def test_many_steps_are_drawn_pale_with_their_mean_over_them(figures: list[Any]) -> None:
    curves_picture(log(5000))
    every, mean, _ = figures[0].axes[0].lines
    assert (len(every.get_xdata()), len(mean.get_xdata())) == (5000, 200)
    assert mean.get_ydata()[0] == pytest.approx(2 - 12 / 5000)


def test_each_panel_comes_as_a_picture_of_its_own_too(figures: list[Any]) -> None:
    curves_picture(log(10))
    pictures = curve_pictures(log(10))
    assert list(pictures) == ["loss", "accuracy, %", "learning rate"]
    assert len({Image.open(io.BytesIO(png)).size for png in pictures.values()}) == 1
    together, *alone = figures
    for axes, figure in zip(together.axes, alone, strict=True):
        assert [line.get_xydata().tolist() for line in axes.lines] == [
            line.get_xydata().tolist() for line in figure.axes[0].lines
        ]


def test_held_out_scores_may_stand_in_the_same_row(figures: list[Any]) -> None:
    curves_picture([{"step": 1, "accuracy": 0.5, "val_accuracy": 0.25}])
    assert [line.get_ydata().tolist() for line in figures[0].axes[0].lines] == [[50], [25]]


def test_no_curve_is_an_error() -> None:
    for rows in ([], [{"loss": 1.0}], [{"step": 1, "other": 2}]):
        with pytest.raises(ConfigError, match="no curve"):
            curves_picture(rows)


@pytest.mark.parametrize(("classes", "named"), [(1, True), (12, True), (40, False)])
def test_points_are_drawn_by_class_and_named_while_names_can_be_read(
    figures: list[Any], classes: int, named: bool
) -> None:
    points = np.random.default_rng(0).normal(size=(5 * classes, 2))
    names = [f"_class $ {number}" for number in range(classes)]
    scatter_picture(points, np.repeat(np.arange(classes), 5), names)
    drawn = figures[0].axes[0].collections
    assert len(drawn) == classes
    np.testing.assert_array_equal(drawn[-1].get_offsets(), points[-5:])
    legend = figures[0].legends
    assert bool(legend) == named and (not named or len(legend[0].get_texts()) == classes)


def test_every_class_of_up_to_fifty_looks_different(figures: list[Any]) -> None:
    scatter_picture(np.zeros((50, 2)), np.arange(50), [str(number) for number in range(50)])
    looks = {
        (tuple(dots.get_facecolor()[0]), dots.get_paths()[0].vertices.tobytes())
        for dots in figures[0].axes[0].collections
    }
    assert len(looks) == 50


def test_each_tile_is_one_patch_against_the_grid(figures: list[Any]) -> None:
    positions = np.random.default_rng(0).normal(size=(6, 8))
    similarity_picture(positions, (2, 3))
    plane = figures[0].axes[0].images[0].get_array()
    units = positions / np.linalg.norm(positions, axis=1, keepdims=True)
    tile = plane[2:4, 3:6]  # of the patch in row 1, column 1
    np.testing.assert_allclose(tile.reshape(-1), units @ units[4])


def test_files_are_whole_and_shapes_are_checked(tmp_path: Path) -> None:
    png = similarity_picture(np.eye(4), (2, 2), tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes() == png
    with pytest.raises(ConfigError, match=r"grid of 2 x 3 patches needs \[6, D\]"):
        similarity_picture(np.eye(4), (2, 3))
    with pytest.raises(ConfigError, match=r"points are \[4, 3\]"):
        scatter_picture(np.zeros((4, 3)), [0] * 4, ["a"])
