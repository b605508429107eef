"""What every test may ask for, and the two conditions under which some can't run."""

import os
import sys
from pathlib import Path

import pytest

# Nothing in a test may wait for, or fall back to, the real Hub.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")

import torch

from small import SHARED

# torchvision's compiled operators don't load beside a CPU build of torch, and its Python part (which timm and
# transformers import) registers fakes for them at import: their names must exist before. They are never called.
_operators = torch.library.Library("torchvision", "DEF")
for _schema in (
    "nms(Tensor boxes, Tensor scores, float threshold) -> Tensor",
    "qnms(Tensor boxes, Tensor scores, float threshold) -> Tensor",
    "roi_align(Tensor x, Tensor rois, float scale, int height, int width, int ratio, bool aligned) -> Tensor",
):
    _operators.define(_schema)

pytest_plugins = ["hub_server"]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real pictures and weights that isn't part of the project."""
    if not SHARED.is_dir():
        pytest.skip("needs the real pictures and weights beside the project (../shared)")
    return SHARED


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same numbers, in whatever order it runs."""
    torch.manual_seed(0)


def pytest_addoption(parser: pytest.Parser) -> None:
    """--forbid-skips is for continuous integration, where nothing that a skip waits for may be missing but a GPU."""
    parser.addoption("--forbid-skips", action="store_true", help="fail if any test but a gpu one is skipped")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails the run over forbidden skips."""
    if session.config.getoption("--forbid-skips") and skipped and session.exitstatus == 0:
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Names forbidden skips."""
    if config.getoption("--forbid-skips") and skipped:
        terminalreporter.write_line(
            f"FAILED: {len(skipped)} skipped under --forbid-skips: {', '.join(skipped)}", red=True
        )


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remembers the skips that --forbid-skips forbids."""
    if report.skipped and "gpu" not in report.keywords and not hasattr(report, "wasxfail"):
        skipped.append(report.nodeid)


skipped: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """GPU tests are the only ones that may be skipped for want of hardware."""
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


assert "timm" not in sys.modules, "timm was imported before the operator names above existed"
