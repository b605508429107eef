"""The package's face: names resolved when first used, and start-up that costs nothing."""

import importlib
import subprocess
import sys

import pytest

import vitkit

HEAVY = ("torch", "numpy", "PIL", "safetensors", "huggingface_hub", "pyarrow", "matplotlib")


def imported_after(code: str, *, check: tuple[str, ...] = HEAVY) -> list[str]:
    """Which of the modules `check` a new process has imported once it has run `code`; its own output aside."""
    program = f"import sys\n{code}\nprint('\\n' + ' '.join(m for m in {check!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()[-1].split()


def test_importing_costs_nothing() -> None:
    assert imported_after("import vitkit\ndir(vitkit)\nvitkit.__version__\nvitkit.ConfigError") == []


def test_help_and_version_cost_nothing() -> None:
    for argument in ("--help", "--version"):
        assert imported_after(f"from vitkit.cli import main\nassert main([{argument!r}]) == 0") == []


def test_loading_is_found_without_a_warning() -> None:
    assert "torch" in imported_after("import vitkit\nvitkit.load")


def test_empty_classifiers_are_built_without_torchs_compiler() -> None:
    code = """
from vitkit.checkpoint.presets import PRESETS
from vitkit.model.build import build_empty
for preset in {preset.model.arch: preset for preset in PRESETS.values() if preset.model.arch != "mae"}.values():
    assert all(parameter.is_meta for parameter in build_empty(preset.model).parameters())
"""
    assert imported_after(code, check=("torch._dynamo",)) == []


def test_every_public_name_resolves_to_what_it_says() -> None:
    assert len(set(vitkit.__all__)) == len(vitkit.__all__)
    for name in vitkit.__all__:
        value = getattr(vitkit, name)
        assert value is getattr(vitkit, name)
        if name != "__version__":
            assert value.__name__ == name
            assert getattr(importlib.import_module(value.__module__), name) is value
    assert set(vitkit.__all__) <= set(dir(vitkit))


def test_type_checkers_see_the_same_names() -> None:
    """The imports under TYPE_CHECKING and the table of homes say the same."""
    import ast
    from pathlib import Path

    assert vitkit.__file__ is not None
    tree = ast.parse(Path(vitkit.__file__).read_text(encoding="utf-8"))
    seen = {
        alias.asname: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module != "__future__"
        for alias in node.names
        if alias.asname
    }
    assert seen == vitkit._HOMES


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'vitkit' has no attribute 'lod'"):
        vitkit.lod  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(vitkit, "lod")


def test_the_version_is_the_distributions() -> None:
    from importlib.metadata import version

    assert version("vitkit") == vitkit.__version__
