"""The libraries that run or write exports: imported when used, and kept from calling home."""

from __future__ import annotations

import sys
import threading
from types import ModuleType

from vitkit.errors import ConfigError

__all__ = ["import_onnx", "import_onnxruntime", "import_openvino", "onnxruntime_errors"]

NEEDED = "{} isn't installed here: pip install 'vitkit[{}]'"
TELEMETRY = "openvino_telemetry"
_hiding = threading.Lock()


def import_onnx() -> ModuleType:
    """The onnx library, with what torch writes ONNX by; ConfigError where either isn't installed."""
    try:
        import onnx
        import onnxscript  # noqa: F401  # torch.onnx.export imports it, late and in words of its own
    except ImportError:
        raise ConfigError(NEEDED.format("onnx or onnxscript", "onnx")) from None
    return onnx


def import_onnxruntime() -> ModuleType:
    """The onnxruntime library, which sends no usage events from here; ConfigError where it isn't installed."""
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError(NEEDED.format("onnxruntime", "onnx")) from None
    onnxruntime.disable_telemetry_events()  # Windows builds send them otherwise
    return onnxruntime  # type: ignore[no-any-return]


def onnxruntime_errors() -> tuple[type[Exception], ...]:
    """All that ONNX Runtime raises, which has no base of its own; ConfigError where it isn't installed."""
    import_onnxruntime()
    from onnxruntime.capi import onnxruntime_pybind11_state as library

    return tuple(kind for kind in vars(library).values() if isinstance(kind, type) and issubclass(kind, Exception))


def import_openvino() -> ModuleType:
    """The openvino library; ConfigError where it isn't installed.

    Importing it sends an event over the network and writes an identifier into the home folder, unless its package
    openvino_telemetry can't be imported: then it uses a stub. So that package is hidden meanwhile.
    """
    with _hiding:
        hide = TELEMETRY not in sys.modules
        if hide:
            sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # so importing it is an ImportError
        try:
            import openvino
        except ImportError:
            raise ConfigError(NEEDED.format("openvino", "openvino")) from None
        finally:
            if hide:
                sys.modules.pop(TELEMETRY, None)
    return openvino  # type: ignore[no-any-return]
