"""code: a model as one PyTorch file that needs no vitkit, generated from the encoder's own source."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import torch

import vitkit
from vitkit.api.load import Source, read_source
from vitkit.api.show import preprocess_line
from vitkit.checkpoint.presets import PRESETS
from vitkit.codegen.layout import lay_out
from vitkit.codegen.merge import reduce
from vitkit.codegen.observe import observe
from vitkit.codegen.program import Program
from vitkit.image.preprocess import Preprocess
from vitkit.model.build import BUILDERS, build
from vitkit.model.spec import ModelSpec

__all__ = ["code", "write_code"]


def code(source: Source, *, revision: str | None = None, preset: str | None = None) -> str:
    """The file of a preset, or of a checkpoint as `load` takes it; the tensors of model.safetensors fit it by name.

    It is for pictures of the model's own size, in eval mode.
    """
    if str(source) in PRESETS and not Path(source).exists():
        known = PRESETS[str(source)]
        return write_code(known.model, known.preprocess, name=str(source), origin=known.source)
    checkpoint = read_source(source, revision=revision, preset=preset)
    name = Path(checkpoint.report.source).name
    return write_code(checkpoint.model, checkpoint.card.preprocess, name=name, origin=checkpoint.report.source)


def write_code(model: ModelSpec, preprocess: Preprocess | None, *, name: str, origin: str) -> str:
    """The file of `model`; `name`, `origin` and `preprocess` are said in its docstring."""
    spec = model.spec
    (height, width), channels = spec.image_size, spec.in_channels
    about = f"{name}: {spec.title}, {spec.num_parameters():,} parameters, on pixels [B, {channels}, {height}, {width}]."
    source = (
        f"Source: {origin}. Written by vitkit {vitkit.__version__} from its own encoder, specialised to this model; "
        "licence of this code: Apache-2.0. Pixels are RGB / 255, normalised; what comes before is not in this file:"
    )
    told = (textwrap.fill(text, 119, break_long_words=False) for text in (source, f"{preprocess_line(preprocess)}."))
    doc = "\n".join([about, "", *told])
    kind, answer = BUILDERS[model.arch].__name__, spec.num_classes or spec.feature_dim
    run = (
        'if __name__ == "__main__":\n'
        "    from safetensors.torch import load_file\n\n"
        f"    model = {kind}().eval()\n"
        '    model.load_state_dict(load_file("model.safetensors"))\n'
        f"    answers = model(torch.zeros(1, {channels}, {height}, {width}))  # [1, {answer}]\n"
    )
    program = Program(observe(model))
    reduce(program)
    text = f'"""{doc}\n"""\n\n{lay_out(program)}\n\n\n{run}'
    _check(text, model)
    return text


def _check(text: str, model: ModelSpec) -> None:
    """Asserts that the file makes tensors of the same names and shapes, and runs."""
    written: dict[str, Any] = {"__name__": "written"}
    exec(compile(text, "written.py", "exec"), written)
    with torch.device("meta"):
        made, ours = written[BUILDERS[model.arch].__name__]().eval(), build(model)
        made(torch.empty(1, model.spec.in_channels, *model.spec.image_size))
    shapes = [{name: tensor.shape for name, tensor in one.state_dict().items()} for one in (made, ours)]
    assert shapes[0] == shapes[1]
