"""vitkit export: a model as one file that runs without vitkit."""

from __future__ import annotations

from typing import Annotated

import typer

from vitkit.cli import options


def export(
    output: Annotated[
        str, typer.Option("--output", "-o", help="The file to write: .onnx, .xml (OpenVINO), .pt2 (torch).")
    ],
    model: options.Model = None,
    to: Annotated[str | None, typer.Option("--to", help="onnx, openvino or torch. [by the file's suffix]")] = None,
    form: Annotated[
        str | None,
        typer.Option("--form", help="What it takes: crops, or pictures of any size, resized inside. [crops]"),
    ] = None,
    fixed_size: Annotated[
        bool, typer.Option("--fixed-size", help="Take crops of one size alone, which can run faster.")
    ] = False,
    preset: options.PresetName = None,
    revision: options.Revision = None,
    image_size: options.ImageSize = None,
    patch_size: options.PatchSize = None,
    parity: options.Parity = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the export if it exists.")] = False,
) -> int:
    """Write a model as a file that runs without vitkit.

    Normalisation, class names and the rules of preprocessing are inside; its proof lies beside it. Before anything is
    written, the export's answers are compared with torch's.
    """
    from vitkit.api.export import export
    from vitkit.checkpoint.presets import DEFAULT_MODEL

    done = export(
        DEFAULT_MODEL if model is None else model,
        output,
        to=to,
        form=form,
        fixed_size=fixed_size,
        preset=preset,
        revision=revision,
        image_size=image_size,
        patch_size=patch_size,
        parity=parity,
        overwrite=overwrite,
    )
    said = done.metadata
    height, width = said.card.preprocess.size  # type: ignore[union-attr]
    other = {None: "alone", 1: "or any other"}.get(said.size_step, f"and other multiples of {said.size_step}")
    sizes = f"{height}x{width} {other}"
    alike = [stage for stage in done.stages if stage.name not in ("pixels", "resize")]
    largest = max(alike, key=lambda stage: stage.difference / stage.tolerance)
    typer.echo(f"written: {done.path} ({done.format}; {said.form} of any batch, {sizes})")
    typer.echo(f"compared with torch: {len(alike)} outputs, at most {largest.difference:.1e} of the largest apart")
    return 0
