"""Engines' libraries: what importing them does beside, and what is said where they aren't installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vitkit.errors import ConfigError
from vitkit.exports import libraries

PROGRAM = """
import socket, sys
def refuse(*given): raise SystemExit(f"asks for the address of {given[0]}")
socket.getaddrinfo = refuse
from vitkit.exports.libraries import import_openvino
print(import_openvino().Core().available_devices)
print([name for name in sys.modules if name.startswith("openvino_telemetry")])
"""


def test_openvino_neither_sends_nor_writes_anything(tmp_path: Path) -> None:
    """Imported plainly it leaves an identifier under $HOME and starts a thread that posts events."""
    environment = {**os.environ, "HOME": str(tmp_path), "CI": ""}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, check=True, timeout=120
    )
    devices, telemetry = done.stdout.splitlines()
    assert "CPU" in devices
    assert telemetry == "[]"
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("library", "extra"), [("onnx", "onnx"), ("onnxscript", "onnx"), ("onnxruntime", "onnx"), ("openvino", "openvino")]
)
def test_a_missing_library_is_one_line_that_names_the_extra(
    library: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    importer = libraries.import_onnx if library.startswith("onnxs") else getattr(libraries, f"import_{library}")
    with pytest.raises(ConfigError, match=rf"{library}.* isn't installed here: pip install 'vitkit\[{extra}\]'"):
        importer()
