"""ViT and what shares its tensors exactly (AugReg, DINO)."""

from pathlib import Path
from typing import Any

from torch import Tensor

from peers.families.row import Answer, Foreign, Row, timm_answer, timm_back, timm_folder, transformers_folder

SIZES = {"hidden_size": 40, "num_hidden_layers": 3, "num_attention_heads": 5, "intermediate_size": 96}
KEY_BIAS = (r".*key\.bias",)


def answer(module: Any, pixels: Tensor) -> Answer:
    """Of transformers' ViTForImageClassification."""
    out = module.vit(pixels, interpolate_pos_encoding=True)
    return {"tokens": out.last_hidden_state, "logits": module.classifier(out.last_hidden_state[:, 0])}


def write_transformers(folder: Path) -> Foreign:
    import transformers

    config = transformers.ViTConfig(image_size=48, patch_size=16, num_labels=11, **SIZES)
    return Foreign(transformers_folder(folder, transformers.ViTForImageClassification(config)), answer)


def back_transformers(folder: Path) -> Foreign:
    import transformers

    return Foreign(transformers.ViTForImageClassification.from_pretrained(folder).eval(), answer)


def write_timm(folder: Path) -> Foreign:
    import timm

    sizes: dict[str, Any] = {"img_size": 48, "embed_dim": 40, "depth": 3, "num_heads": 5, "num_classes": 11}
    return Foreign(
        timm_folder(folder, timm.create_model("vit_tiny_patch16_224", dynamic_img_size=True, **sizes)), timm_answer
    )


OTHER = ((64, 64), (32, 32), (80, 48))

ROWS = [
    Row(
        "ViT",
        "transformers",
        write_transformers,
        back_transformers,
        "hf",
        sizes=OTHER,
        unseen=KEY_BIAS,
        gradients=True,
    ),
    Row("ViT", "timm", write_timm, timm_back, "timm", sizes=OTHER),
]
