"""A picture as a masked autoencoder sees and paints it: most patches hidden, predicted from the others.

He et al., 2022, arXiv:2111.06377, figure 2; put together as in the authors' demo/mae_visualize.ipynb.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vitkit.errors import ConfigError, EngineError
from vitkit.explain.explanation import Card, check_png, preprocess_of, read_pixels, visible
from vitkit.explain.maps import eval_mode
from vitkit.explain.overlay import enlarge
from vitkit.image.decode import Picture, Pixels
from vitkit.model.base import ImageModel
from vitkit.model.mae import MASK_RATIO, MaskedAutoencoder, Reconstruction
from vitkit.report.sheet import sheet_picture

__all__ = ["ReconstructedPicture", "reconstruct_picture"]


@dataclass(frozen=True, eq=False)
class ReconstructedPicture:
    """What a masked autoencoder makes of a picture. Pictures are uint8 [H, W, C], as the model saw them."""

    original: Pixels
    masked: Pixels
    """The original, its hidden patches in the mean colour that the preprocessing subtracts."""
    reconstructed: Pixels
    """The prediction of every patch, the seen ones too, which the model has never learned to repeat.

    One that predicts normalised patches (`spec.norm_pix_loss`) is given the means and contrasts of the true ones.
    """
    painted: Pixels
    """The original, its hidden patches replaced by the predicted ones."""
    mask: NDArray[np.bool_]
    """[h, w] over the patches, row by row, True = hidden."""
    loss: float | None
    """The mean squared error of the hidden patches, as in training; None where none is hidden."""

    @property
    def caption(self) -> str:
        """One line: how much was hidden, and how well it was predicted."""
        hidden = f"{int(self.mask.sum())} of {self.mask.size} patches hidden"
        return hidden if self.loss is None else f"{hidden}, mean squared error {self.loss:.4g}"

    def save(self, file: str | os.PathLike[str]) -> None:
        """Writes a PNG, whole or not at all: the four pictures side by side, each with its caption below."""
        check_png(file)
        pictures = {
            "original": self.original,
            f"{100 * self.mask.mean():.0f} % hidden": self.masked,
            "predicted, every patch": self.reconstructed,
            "predicted where hidden": self.painted,
        }
        shown = [enlarge(picture) for picture in pictures.values()]
        sheet_picture(shown, tuple(pictures), columns=len(shown), file=file)


def reconstruct_picture(
    module: ImageModel,
    card: Card,
    picture: Picture,
    *,
    mask_ratio: float = MASK_RATIO,
    seed: int = 0,
    allow_urls: bool = True,
) -> ReconstructedPicture:
    """Hides a share `mask_ratio` of a picture's patches, drawn by `seed`, and lets `module` predict them.

    Raises ConfigError for a model without a decoder and for a wrong share or seed, ImageError for a picture that can't
    be used, EngineError where the model's answer isn't a number.
    """
    if not isinstance(module, MaskedAutoencoder):
        raise ConfigError(
            f"a {module.spec.title} has no decoder to reconstruct pictures with; load a masked autoencoder that has "
            "kept its own (list: vitkit models 'mae_visualize_*')"
        )
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed is {seed}; allowed: a whole number from 0 to below 2^63")
    preprocess, pixels = preprocess_of(card), read_pixels(card, picture, allow_urls=allow_urls)
    size, weight = module.spec.patch_size, module.patch_embed.proj.weight
    h, w = pixels.shape[2] // size, pixels.shape[3] // size
    # Drawn on the CPU: the same seed hides the same patches on every device.
    noise = torch.rand(1, h * w, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode(), eval_mode(module):
        found = module.reconstruct(pixels.to(weight), mask_ratio=mask_ratio, noise=noise.to(weight.device))
        found = Reconstruction(found.patches.float().cpu(), found.mask.cpu())
        if not found.patches.isfinite().all():
            raise EngineError("the model answers with values that aren't finite; damaged weights, or dtype")
        hidden = module.hidden(pixels, found)
        pictures = {
            "original": pixels,
            "masked": pixels.masked_fill(hidden, 0.0),
            "reconstructed": module.predicted(pixels, found),
            "painted": module.painted(pixels, found),
        }
        loss = float(module.loss(pixels, found)) if found.mask.any() else None
    shown = {name: visible(preprocess, values[0]) for name, values in pictures.items()}
    return ReconstructedPicture(**shown, mask=found.mask.reshape(h, w).numpy(), loss=loss)
