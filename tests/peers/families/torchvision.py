"""ViT as torchvision writes it."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peers.families.row import Answer, Foreign, Row
from small import randomise
from vitkit.model.spec import VitSpec

SPEC = VitSpec(image_size=48, embed_dim=40, depth=3, num_heads=5, mlp_dim=96, num_classes=11)
NOT_WRITTEN = "torchvision has no file that says what a model is"


def made(image_size: int, representation_size: int | None) -> Any:
    from torchvision.models.vision_transformer import VisionTransformer

    return VisionTransformer(image_size, 16, 3, 5, 40, 96, num_classes=11, representation_size=representation_size)


def answer(module: Any, pixels: Tensor) -> Answer:
    """torchvision takes another size by resampling the state dict."""
    from torchvision.models.vision_transformer import interpolate_embeddings

    if pixels.shape[-1] != module.image_size:
        state = interpolate_embeddings(pixels.shape[-1], 16, module.state_dict())
        module = made(pixels.shape[-1], module.representation_size).eval()
        module.load_state_dict(state)
    patches = module._process_input(pixels)
    tokens = module.encoder(torch.cat([module.class_token.expand(len(patches), -1, -1), patches], dim=1))
    return {"tokens": tokens, "logits": module(pixels)}


def write(names: dict[str, str], representation_size: int | None, folder: Path) -> Foreign:
    """A .pth, in which `names` are called as they once were; torchvision itself reads it."""
    state = randomise(made(48, representation_size)).state_dict()
    for new, old in names.items():
        state = {name.replace(new, old): tensor for name, tensor in state.items()}
    folder.mkdir(parents=True)
    torch.save(state, folder / "vit.pth")
    module = made(48, representation_size).eval()
    module.load_state_dict(torch.load(folder / "vit.pth"))
    return Foreign(module, answer, "vit.pth", SPEC)


OLD = {"mlp.0": "mlp.linear_1", "mlp.3": "mlp.linear_2"}
SQUARE = ((64, 64), (32, 32))

ROWS = [
    Row("ViT", "torchvision", partial(write, {}, None), why=NOT_WRITTEN, sizes=SQUARE, gradients=True),
    Row("ViT", "torchvision, older names, hidden head layer", partial(write, OLD, 24), why=NOT_WRITTEN, sizes=SQUARE),
]
