"""The one computation that every engine runs and every export holds: from whole pixels to answers."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitkit.exports.metadata import Form
from vitkit.image.preprocess import Preprocess
from vitkit.model.base import ImageModel
from vitkit.model.resnet_spec import ResNetSpec
from vitkit.model.spec import VitSpec

__all__ = ["CropGraph"]


class CropGraph(nn.Module):
    """A model with its normalisation inside: crops as `image.preprocess.fit` makes them to what the model says.

    The model's own device and dtype are kept; pixels are normalised in float32. An exported graph takes crops of any
    size that the model does, or, with `fixed_size`, of the preprocessing's alone, which can run faster.
    """

    form: ClassVar[Form] = "crops"
    """What it takes, which is its input's name too."""
    mean: Tensor
    std: Tensor

    def __init__(self, module: ImageModel, preprocess: Preprocess, *, fixed_size: bool = False) -> None:
        super().__init__()
        self.module = module.eval()
        self.preprocess = preprocess
        self.fixed_size = fixed_size
        weight = next(module.parameters())
        self.dtype = weight.dtype
        self.scale = preprocess.full_scale if preprocess.order == "resize_first" else 1
        shape = (preprocess.channels, 1, 1)
        for name, values in (("mean", preprocess.mean), ("std", preprocess.std)):
            self.register_buffer(name, torch.tensor(values, device=weight.device).reshape(shape), persistent=False)

    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        """Crops [B, H, W, C] to float32 "embedding" [B, D] and, where there is a head, "logits" [B, K]."""
        pixels = crops.permute(0, 3, 1, 2).float()
        # As image.preprocess.normalize, to the bit: float32, divided, in this order.
        pixels = (((pixels / self.scale if self.scale != 1 else pixels) - self.mean) / self.std).contiguous()
        embedding = self.module.embed(pixels.to(self.dtype))
        outputs = {"embedding": embedding.float()}
        if self.module.spec.num_classes:
            outputs["logits"] = self.module.logits(embedding).float()
        return outputs

    def example(self, count: int, size: tuple[int, int] | None = None, *, seed: int = 0) -> NDArray[Any]:
        """Crops of noise [count, H, W, C] as the graph takes them; of another `size` where the graph can."""
        wanted, rng = self.preprocess, np.random.default_rng(seed)
        shape = (count, *(size or wanted.size), wanted.channels)
        if wanted.order == "rescale_first":
            return rng.random(shape, np.float32)
        return rng.integers(0, wanted.full_scale, shape, wanted.pixel_type, endpoint=True)

    @property
    def size_step(self) -> int | None:
        """What H and W may be any multiples of in an exported graph; None where they stay the model's, as Swin's."""
        spec = self.module.spec
        if self.fixed_size:
            return None
        step = spec.patch_size if isinstance(spec, VitSpec) else 1 if isinstance(spec, ResNetSpec) else None
        # A crop below the least would be refused by the very graph that is made for it.
        return None if step is None or min(self.preprocess.size) < step * self.least_steps else step

    @property
    def least_steps(self) -> int:
        """The least multiple, where there is a `size_step`: a ResNet's last grid has more than one place."""
        spec = self.module.spec
        return 2 ** (len(spec.depths) + 1) + 1 if isinstance(spec, ResNetSpec) else 1
