"""ViT and what shares its tensors exactly (AugReg, DINO)."""

from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from peers.families.row import Answer, Foreign, Row, bare_file, timm_answer, timm_back, timm_folder, transformers_folder

SIZES = {"hidden_size": 40, "num_hidden_layers": 3, "num_attention_heads": 5, "intermediate_size": 96}
KEY_BIAS = (r".*key\.bias", r".*k_proj\.bias")
CLASSIFIER, MODEL = "ViTForImageClassification", "ViTModel"
IN_MEMORY = "transformers 5 in memory"


def answer(module: Any, pixels: Tensor) -> Answer:
    """Of transformers' ViTForImageClassification, or of ViTModel, whose embedding is the pooler's."""
    out = getattr(module, "vit", module)(pixels, interpolate_pos_encoding=True)
    tokens = out.last_hidden_state
    if not hasattr(module, "classifier"):
        return {"tokens": tokens, "embedding": out.pooler_output}
    return {"tokens": tokens, "logits": module.classifier(tokens[:, 0])}


def write_transformers(folder: Path, *, kind: str, in_memory: bool = False) -> Foreign:
    """The names on disk, or, of a state_dict(), those in memory."""
    import transformers

    config = transformers.ViTConfig(image_size=48, patch_size=16, num_labels=11, **SIZES)
    module = transformers_folder(folder, getattr(transformers, kind)(config))
    if in_memory:
        bare_file(folder, module.state_dict(), "model.safetensors")
    return Foreign(module, answer)


def back_transformers(folder: Path, *, kind: str) -> Foreign:
    import transformers

    return Foreign(getattr(transformers, kind).from_pretrained(folder).eval(), answer)


def write_timm(folder: Path) -> Foreign:
    import timm

    sizes: dict[str, Any] = {"img_size": 48, "embed_dim": 40, "depth": 3, "num_heads": 5, "num_classes": 11}
    return Foreign(
        timm_folder(folder, timm.create_model("vit_tiny_patch16_224", dynamic_img_size=True, **sizes)), timm_answer
    )


OTHER = ((64, 64), (32, 32), (80, 48))


def transformers_row(family: str, kind: str, layout: str = "transformers", *, gradients: bool = False) -> Row:
    return Row(
        family,
        layout,
        partial(write_transformers, kind=kind, in_memory=layout == IN_MEMORY),
        partial(back_transformers, kind=kind),
        "hf",
        sizes=OTHER,
        unseen=KEY_BIAS,
        gradients=gradients,
    )


ROWS = [
    transformers_row("ViT", CLASSIFIER, gradients=True),
    transformers_row("ViT", CLASSIFIER, IN_MEMORY),
    transformers_row("ViT, hidden layer, no head", MODEL),
    transformers_row("ViT, hidden layer, no head", MODEL, IN_MEMORY),
    Row("ViT", "timm", write_timm, timm_back, "timm", sizes=OTHER),
]
