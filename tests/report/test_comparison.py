"""Plots of several runs draw the numbers they are given."""

from typing import Any

import numpy as np
import pytest

from vitkit.report import comparison
from vitkit.report.comparison import Line, lines_picture, scores_picture, sizes_picture


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every figure that is finished."""
    seen: list[Any] = []
    finish = comparison.finish
    monkeypatch.setattr(
        comparison, "finish", lambda figure, *rest, **how: seen.append(figure) or finish(figure, *rest, **how)
    )
    return seen


def test_each_run_has_its_line_and_a_long_one_is_drawn_by_means(figures: list[Any]) -> None:
    lines = [Line("short", [1, 2], [0.5, 0.75]), Line("_$x", range(600), range(600)), Line("absent", [], [])]
    assert lines_picture(lines, "loss", "epochs").startswith(b"\x89PNG")
    short, long, absent = figures[0].axes[0].lines
    assert short.get_xydata().tolist() == [[1, 0.5], [2, 0.75]] and short.get_marker() == "o"
    assert long.get_xydata()[:2].tolist() == [[1.5, 1.5], [5.5, 5.5]] and long.get_marker() == "none"
    assert len(absent.get_xdata()) == 0 and len({line.get_color() for line in (short, long, absent)}) == 3
    assert [text.get_text() for text in figures[0].legends[0].texts] == ["short", r"\$x", "absent"]


def test_scores_stand_in_percent_between_the_ends_of_their_intervals(figures: list[Any]) -> None:
    scores_picture({"a": (0.9, 0.85, 0.93), "none": None, "b": (0.5, 0.4, 0.6)}, "accuracy")
    axes = figures[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "none", "b"]
    ends = [container.lines[2][0].get_segments()[0] for container in axes.containers]
    np.testing.assert_allclose(ends, [[[85, 0], [93, 0]], [[40, 2], [60, 2]]])


def test_scores_by_size_are_drawn_in_order_on_a_logarithmic_scale(figures: list[Any]) -> None:
    sizes_picture({"ViT": [(1000, 0.9, 0.8, 0.95), (100, 0.5, 0.4, 0.6)], "ResNet": [(100, 0.6, 0.5, 0.7)]}, "accuracy")
    axes = figures[0].axes[0]
    assert axes.get_xscale() == "log" and [tick.get_text() for tick in axes.get_xticklabels()] == ["100", "1,000"]
    assert axes.containers[0].lines[0].get_xydata().tolist() == [[100, 50], [1000, 90]]
