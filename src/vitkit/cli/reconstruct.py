"""vitkit reconstruct: what a masked autoencoder paints where patches of a picture are hidden."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vitkit.cli import options

if TYPE_CHECKING:
    from vitkit.explain.reconstruction import ReconstructedPicture


def reconstruct(
    pictures: options.Pictures,
    output: options.PngOutput,
    model: Annotated[
        str, typer.Option("--model", "-m", help="A masked autoencoder with its decoder: Hub id, folder, or file.")
    ],
    mask_ratio: Annotated[
        float | None, typer.Option("--mask-ratio", help="Share of the patches hidden. [0.75]")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of which patches are hidden. [0]", min=0)] = None,
    as_json: options.Json = False,
    *,
    loading: options.Loading,
) -> int:
    """Hide most patches of pictures and show what a masked autoencoder (MAE) paints there: a PNG each.

    Four pictures side by side: the original, what the model sees, its prediction of every patch, and the original with
    the predicted patches where they were hidden.
    """
    from vitkit.api.load import load
    from vitkit.cli.drawings import Drawings
    from vitkit.model.mae import MASK_RATIO

    drawings = Drawings(pictures, output, ending="reconstructed")
    vit = load(model, **loading)
    share = MASK_RATIO if mask_ratio is None else mask_ratio
    return drawings.make(
        vit,
        lambda picture: vit.reconstruct(picture, mask_ratio=share, seed=seed or 0),
        lambda drawn: _facts(drawn, share, seed or 0),
        as_json=as_json,
    )


def _facts(drawn: ReconstructedPicture, mask_ratio: float, seed: int) -> dict[str, object]:
    return {"mask_ratio": mask_ratio, "seed": seed, "hidden": int(drawn.mask.sum()), "loss": drawn.loss}
