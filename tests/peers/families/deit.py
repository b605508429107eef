"""DeiT plain and distilled, and DeiT III."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from peers.families import vit
from peers.families.row import Answer, Foreign, Row, timm_answer, timm_back, timm_folder, transformers_folder
from small import randomise
from vitkit.model.spec import VitSpec

TIMM_SIZES: dict[str, Any] = {"img_size": 48, "embed_dim": 40, "depth": 3, "num_heads": 5, "num_classes": 11}
SPEC = VitSpec(image_size=48, embed_dim=40, depth=3, num_heads=5, mlp_dim=160, num_classes=11)
TEACHER, CLASSIFIER, MODEL = "DeiTForImageClassificationWithTeacher", "DeiTForImageClassification", "DeiTModel"


def answer(module: Any, pixels: Tensor) -> Answer:
    """Of any of transformers' three classes."""
    out = getattr(module, "deit", module)(pixels, interpolate_pos_encoding=True)
    if out.pooler_output is not None:
        return {"tokens": out.last_hidden_state, "embedding": out.pooler_output}
    return {"tokens": out.last_hidden_state, "logits": module(pixels, interpolate_pos_encoding=True).logits}


def write_transformers(kind: str, folder: Path) -> Foreign:
    import transformers

    config = transformers.DeiTConfig(image_size=48, patch_size=16, num_labels=11, pooler_output_size=24, **vit.SIZES)
    processor = {"image_processor_type": "DeiTImageProcessor", "do_center_crop": False}
    return Foreign(transformers_folder(folder, getattr(transformers, kind)(config), processor=processor), answer)


def write_from_memory(kind: str, folder: Path) -> Foreign:
    """With the names of state_dict(), which transformers 5 doesn't save."""
    foreign = write_transformers(kind, folder)
    state = {name: tensor.contiguous() for name, tensor in foreign.module.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    return foreign


def back_transformers(kind: str, folder: Path) -> Foreign:
    import transformers

    module, info = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return Foreign(module.eval(), answer)


def write_timm(architecture: str, folder: Path) -> Foreign:
    import timm

    module = timm.create_model(architecture, dynamic_img_size=True, **TIMM_SIZES)
    return Foreign(timm_folder(folder, module), timm_answer)


def write_original(architecture: str, renamed: dict[str, str], spec: VitSpec, folder: Path) -> Foreign:
    """A .pth of the authors, with their names for what timm has `renamed`, read by timm's own filter for such files."""
    import timm
    from timm.models.vision_transformer import checkpoint_filter_fn

    state = randomise(timm.create_model(architecture, **TIMM_SIZES)).state_dict()
    for ours, theirs in renamed.items():
        state = {name.replace(ours, theirs): tensor for name, tensor in state.items()}
    folder.mkdir(parents=True)
    torch.save({"model": state, "epoch": 299}, folder / "checkpoint.pth")
    module = timm.create_model(architecture, **TIMM_SIZES).eval()
    read = checkpoint_filter_fn(torch.load(folder / "checkpoint.pth"), module, adapt_layer_scale=True)
    module.load_state_dict(read)
    return Foreign(module, timm_answer, "checkpoint.pth", spec)


def transformers_rows(family: str, kind: str, *, gradients: bool = False) -> list[Row]:
    common: dict[str, Any] = {
        "back": partial(back_transformers, kind),
        "to": "hf",
        "sizes": vit.OTHER,
        "unseen": vit.KEY_BIAS,
    }
    return [
        Row(family, "transformers", partial(write_transformers, kind), gradients=gradients, note=kind, **common),
        Row(family, "transformers 5 in memory", partial(write_from_memory, kind), note=kind, **common),
    ]


LAYER_SCALE = {"ls1.gamma": "gamma_1", "ls2.gamma": "gamma_2"}
DISTILLED_SPEC = VitSpec(**{**vars(SPEC), "distillation_token": True})
THIRD_SPEC = VitSpec(**{**vars(SPEC), "prefix_positions": False, "layer_scale": 1e-6})

ROWS = [
    Row(
        "DeiT",
        "transformers",
        partial(vit.write_transformers, kind=vit.CLASSIFIER),
        partial(vit.back_transformers, kind=vit.CLASSIFIER),
        "hf",
        unseen=vit.KEY_BIAS,
        note="its model_type is vit",
    ),
    Row("DeiT", "timm", partial(write_timm, "deit_tiny_patch16_224"), timm_back, "timm", sizes=vit.OTHER),
    *transformers_rows("DeiT distilled", TEACHER, gradients=True),
    *transformers_rows("DeiT distilled, class head alone", CLASSIFIER),
    *transformers_rows("DeiT distilled, no head", MODEL),
    Row(
        "DeiT distilled",
        "timm",
        partial(write_timm, "deit_tiny_distilled_patch16_224"),
        timm_back,
        "timm",
        sizes=vit.OTHER,
    ),
    Row(
        "DeiT distilled",
        "facebookresearch/deit",
        partial(write_original, "deit_tiny_distilled_patch16_224", {}, DISTILLED_SPEC),
        timm_back,
        "timm",
    ),
    Row(
        "DeiT III",
        "timm",
        partial(write_timm, "deit3_small_patch16_224"),
        timm_back,
        "timm",
        sizes=vit.OTHER,
        gradients=True,
    ),
    Row(
        "DeiT III",
        "facebookresearch/deit",
        partial(write_original, "deit3_small_patch16_224", LAYER_SCALE, THIRD_SPEC),
        timm_back,
        "timm",
    ),
]
