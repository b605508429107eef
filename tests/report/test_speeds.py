"""The plot of speeds draws the figures it is given."""

from typing import Any

import pytest

from vitkit.report import speeds
from vitkit.report.speeds import Lane, speeds_picture


def test_every_lane_has_its_row_its_percentiles_and_its_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    finish = speeds.finish
    monkeypatch.setattr(
        speeds, "finish", lambda figure, *rest, **how: seen.append(figure) or finish(figure, *rest, **how)
    )
    lanes = [
        Lane("torch float32", "torch", (20, 22, 25), (50, 49, 52), 40),
        Lane("torch bfloat16", "torch", (10, 11, 12), (90, 88, 91), 70),
        Lane("$timm_", "timm", (30, 31, 39), (45, 44, 46), 47),
    ]
    assert speeds_picture(lanes, "a $title", "a machine").startswith(b"\x89PNG")
    left, right = seen[0].axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["torch float32", "torch bfloat16", r"\$timm_"]
    xs = [line.get_xdata().tolist() for line in left.lines]
    assert xs == [[20, 25], [20, 22], [20], [10, 12], [10, 11], [10], [30, 39], [30, 31], [30]]
    assert [bar.get_width() for bar in right.patches] == [50, 40, 90, 70, 45, 47]
    assert [line.get_xdata().tolist() for line in right.lines] == [[49, 52], [88, 91], [44, 46]]
    colours = [bar.get_facecolor()[:3] for bar in right.patches[1::2]]
    assert colours[0] == colours[1] != colours[2]
