"""vitkit: Vision Transformers that answer exactly. Public names, resolved when first used: importing costs nothing."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vitkit.api.bench import bench as bench
    from vitkit.api.check import check as check
    from vitkit.api.compare import compare as compare
    from vitkit.api.convert import convert as convert
    from vitkit.api.diff import diff as diff
    from vitkit.api.evaluate import evaluate as evaluate
    from vitkit.api.export import export as export
    from vitkit.api.learning_curve import learning_curve as learning_curve
    from vitkit.api.load import load as load
    from vitkit.api.models import list_models as list_models
    from vitkit.api.save import push as push
    from vitkit.api.save import save as save
    from vitkit.api.train import train as train
    from vitkit.api.verify import verify as verify
    from vitkit.engine.predict import Prediction as Prediction
    from vitkit.engine.predict import Predictor as Predictor
    from vitkit.errors import CheckpointError as CheckpointError
    from vitkit.errors import ConfigError as ConfigError
    from vitkit.errors import DataError as DataError
    from vitkit.errors import EngineError as EngineError
    from vitkit.errors import ImageError as ImageError
    from vitkit.errors import VitkitError as VitkitError
    from vitkit.image.preprocess import Preprocess as Preprocess
    from vitkit.model.resnet import ResNet as ResNet
    from vitkit.model.resnet_spec import ResNetSpec as ResNetSpec
    from vitkit.model.spec import ModelSpec as ModelSpec
    from vitkit.model.spec import VitSpec as VitSpec
    from vitkit.model.swin import SwinTransformer as SwinTransformer
    from vitkit.model.swin_spec import SwinSpec as SwinSpec
    from vitkit.model.vit import VisionTransformer as VisionTransformer

_HOMES = {
    "CheckpointError": "vitkit.errors",
    "ConfigError": "vitkit.errors",
    "DataError": "vitkit.errors",
    "EngineError": "vitkit.errors",
    "ImageError": "vitkit.errors",
    "ModelSpec": "vitkit.model.spec",
    "Prediction": "vitkit.engine.predict",
    "Predictor": "vitkit.engine.predict",
    "Preprocess": "vitkit.image.preprocess",
    "ResNet": "vitkit.model.resnet",
    "ResNetSpec": "vitkit.model.resnet_spec",
    "SwinSpec": "vitkit.model.swin_spec",
    "SwinTransformer": "vitkit.model.swin",
    "VisionTransformer": "vitkit.model.vit",
    "VitSpec": "vitkit.model.spec",
    "VitkitError": "vitkit.errors",
    "bench": "vitkit.api.bench",
    "check": "vitkit.api.check",
    "compare": "vitkit.api.compare",
    "convert": "vitkit.api.convert",
    "diff": "vitkit.api.diff",
    "evaluate": "vitkit.api.evaluate",
    "export": "vitkit.api.export",
    "learning_curve": "vitkit.api.learning_curve",
    "list_models": "vitkit.api.models",
    "load": "vitkit.api.load",
    "push": "vitkit.api.save",
    "save": "vitkit.api.save",
    "train": "vitkit.api.train",
    "verify": "vitkit.api.verify",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vitkit' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
