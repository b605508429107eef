"""export: a model as one file that runs without vitkit, written only if it answers as torch does."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from vitkit.api.load import Source, read_source
from vitkit.checkpoint.proof import Stage
from vitkit.engine.predict import Predictor
from vitkit.errors import CheckpointError, ConfigError, EngineError
from vitkit.exports.artifact import Export, format_of, open_export, proof_of, write_export
from vitkit.exports.check import against_torch
from vitkit.exports.evidence import check_graph
from vitkit.exports.graph import CropGraph
from vitkit.exports.metadata import Form, Metadata
from vitkit.exports.resize import PictureGraph
from vitkit.files import check_new_file, replace_files, why_unwritten, writing
from vitkit.image.preprocess import Preprocess
from vitkit.model.base import ImageModel

__all__ = ["Exported", "export"]

FORMS = get_args(Form)


@dataclass(frozen=True)
class Exported:
    """What was written, and how far its answers are from torch's."""

    path: Path
    format: str
    metadata: Metadata
    stages: tuple[Stage, ...]
    """Every output that was compared, all within their tolerance."""


def export(
    model: Source | Predictor,
    output: str | os.PathLike[str],
    *,
    to: str | None = None,
    form: str | None = None,
    revision: str | None = None,
    preset: str | None = None,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | None = None,
    in_channels: int | None = None,
    preprocess: Preprocess | None = None,
    parity: str | None = None,
    fixed_size: bool = False,
    overwrite: bool = False,
) -> Exported:
    """Writes `model`, anything that `load` takes or a Predictor itself, to the file `output`; its proof beside it.

    `to` is "onnx" (.onnx), "openvino" (.xml, with .bin) or "torch" (.pt2); None goes by the suffix. The export takes
    "crops" of any size that the model does (with `fixed_size`, of its preprocessing's alone, which can run faster), or,
    with `form` "pictures", upright decoded pictures of any size, resized and cropped inside. Before anything stands
    there, it is run in float32 and compared with torch. Raises EngineError where they disagree, ConfigError where
    `output` exists, unless `overwrite`, and where a library is missing.
    """
    path = Path(output)
    kind = format_of(path, to)
    form = form or "crops"
    if form not in FORMS:
        raise ConfigError(f"form {form!r} is unknown; allowed: {', '.join(FORMS)}")
    if fixed_size and form == "pictures":
        raise ConfigError("a fixed size (--fixed-size) is of crops; pictures are of any size; leave one of them out")
    _check_output(path, overwrite)
    reading: dict[str, Any] = {
        "revision": revision,
        "preset": preset,
        "num_classes": num_classes,
        "image_size": image_size,
        "patch_size": patch_size,
        "in_channels": in_channels,
        "preprocess": preprocess,
        "parity": parity,
    }
    if isinstance(model, Predictor):
        late = [name for name, value in reading.items() if value is not None]
        if late:
            raise ConfigError(f"{', '.join(late)}: this model has been read already; say it to vitkit.load")
        module, card, origin = _float32_on_cpu(model.module), model.card, model.report.source
    else:
        checkpoint = read_source(model, **reading)
        module, card, origin = checkpoint.module(), checkpoint.card, checkpoint.report.source
    if card.preprocess is None:
        raise CheckpointError(f"{origin}: nothing there says how pictures become pixels; pass preprocess= or a preset")
    if form == "pictures":
        graph: CropGraph = PictureGraph(module, card.preprocess)
    else:
        graph = CropGraph(module, card.preprocess, fixed_size=fixed_size)
    with writing(path), replace_files(path) as part:
        try:
            write_export(graph, card, part)
        except RuntimeError as error:  # what OpenVINO and torch make of a full disk
            raise ConfigError(f"can't write {str(path)!r} ({why_unwritten(error)}); nothing was left behind") from error
        written = open_export(part)
        stages = _compared(written, graph)
        wrong = [stage for stage in stages if not stage.agrees]
        if wrong:
            worst = max(wrong, key=lambda stage: stage.difference)
            raise EngineError(
                f"{origin}: as {kind} it doesn't answer as torch does: {worst.name} differs by {worst.difference:.1e} "
                f"of the largest value (allowed {worst.tolerance:.0e}), {len(wrong)} of {len(stages)} outputs in all; "
                "nothing was written"
            )
    return Exported(path, kind, written.metadata, tuple(stages))


def _compared(written: Export, graph: CropGraph) -> list[Stage]:
    """The proof's pictures and noise; the file is closed again at the end, so that it can be moved."""
    run = written.runner()
    return [*check_graph(written.metadata, written.proof, run)[0], *against_torch(run, graph)]


def _float32_on_cpu(module: ImageModel) -> ImageModel:
    """The module itself where it is so, else a copy."""
    if all(weight.dtype == torch.float32 and weight.device.type == "cpu" for weight in module.parameters()):
        return module
    return copy.deepcopy(module).float().cpu()


def _check_output(path: Path, overwrite: bool) -> None:
    check_new_file(path)
    neighbours = [path, proof_of(path)] + ([path.with_suffix(".bin")] if path.suffix == ".xml" else [])
    there = [file.name for file in neighbours if file.exists()]
    if there and not overwrite:
        raise ConfigError(f"can't write {str(path)!r}: {', '.join(there)} exists; name another, or say --overwrite")
