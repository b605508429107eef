"""Run as timm or as transformers, a checkpoint of the other gives that library's own answers, pixels included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from peers.families import beit, clip, dino, dinov3, swin, vit
from peers.families.row import Answer, timm_answer, timm_folder, transformers_folder
from peers.test_pixels import PUBLISHED
from small import relative
from vitkit.checkpoint.origins import ORIGINS, Origin
from vitkit.checkpoint.parity import with_parity
from vitkit.checkpoint.read import Checkpoint, read
from vitkit.checkpoint.save import save_timm, save_transformers
from vitkit.image.sources import from_timm, from_transformers

pytestmark = pytest.mark.peer

TOLERANCE = 1e-5
COMMIT = "0123456789abcdef" * 2 + "01234567"


@dataclass(frozen=True)
class Case:
    """Weights that timm and transformers both publish, and small models of their kind."""

    hub: str
    timm: str
    """The same on the Hub, for timm."""
    config: str
    """transformers' class of configuration, and of models."""
    model: str
    sizes: dict[str, Any]
    timm_sizes: dict[str, Any]
    answer: Callable[[Any, Tensor], Answer]
    timm_answer: Callable[[Any, Tensor], Answer] = timm_answer
    dynamic: bool = True
    """Whether timm's class takes other sizes as they come."""
    pooler: bool = True
    """Of transformers' ViTModel."""
    other: tuple[tuple[int, int], ...] = ((160, 160), (256, 192))

    @property
    def arguments(self) -> dict[str, Any]:
        """What makes timm's model take other sizes."""
        return {"dynamic_img_size": True} if self.dynamic else {}

    @property
    def options(self) -> dict[str, Any]:
        """Of transformers' class, for weights without a pooler."""
        return {} if self.pooler else {"add_pooling_layer": False}

    def of_timm(self) -> Any:
        """timm's published architecture, smaller."""
        import timm

        architecture = self.timm.removeprefix("timm/").split(".")[0]
        return timm.create_model(architecture, **self.timm_sizes, **self.arguments)

    def of_transformers(self) -> Any:
        """transformers' class, smaller."""
        import transformers

        config = getattr(transformers, self.config)(**self.sizes)
        return getattr(transformers, self.model)(config, **self.options)


ANOTHER_PROCESSOR = {"image_processor_type": "ViTImageProcessor", "resample": 0}
"""A processor that no library has for these weights."""

SIZES = {"hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 5, "intermediate_size": 160}
TIMM = {"embed_dim": 40, "depth": 2, "num_heads": 5, "num_classes": 11}
LABELLED = {**SIZES, "num_labels": 11}
SWIN = {"embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 4]}

CASES = {
    "ViT": Case(
        "google/vit-base-patch16-224",
        "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k",
        "ViTConfig",
        "ViTForImageClassification",
        LABELLED,
        TIMM,
        vit.answer,
    ),
    "DeiT": Case(
        "facebook/deit-base-patch16-224",
        "timm/deit_base_patch16_224.fb_in1k",
        "ViTConfig",
        "ViTForImageClassification",
        LABELLED,
        TIMM,
        vit.answer,
    ),
    "BEiT": Case(
        "microsoft/beit-base-patch16-224",
        "timm/beit_base_patch16_224.in22k_ft_in22k_in1k",
        "BeitConfig",
        "BeitForImageClassification",
        {**LABELLED, "use_relative_position_bias": True},
        TIMM,
        beit.answer,
        beit.timm_sized,
        dynamic=False,
        other=((160, 160), (256, 256)),
    ),
    "DINO": Case(
        "facebook/dino-vits16",
        "timm/vit_small_patch16_224.dino",
        "ViTConfig",
        "ViTModel",
        SIZES,
        {**TIMM, "num_classes": 0},
        dino.vit_answer,
        pooler=False,
    ),
    "DINOv2": Case(
        "facebook/dinov2-base",
        "timm/vit_base_patch14_dinov2.lvd142m",
        "Dinov2Config",
        "Dinov2Model",
        {**SIZES, "patch_size": 14, "image_size": 518},
        {**TIMM, "num_classes": 0},
        dino.answer,
        other=((224, 224), (280, 140)),
    ),
    "DINOv3": Case(
        "facebook/dinov3-vitb16-pretrain-lvd1689m",
        "timm/vit_base_patch16_dinov3_qkvb.lvd1689m",
        "DINOv3ViTConfig",
        "DINOv3ViTModel",
        {**SIZES, "num_register_tokens": 4},
        {**TIMM, "num_classes": 0},
        dinov3.answer,
    ),
    "MAE, encoder": Case(
        "facebook/vit-mae-base",
        "timm/vit_base_patch16_224.mae",
        "ViTConfig",
        "ViTModel",
        SIZES,
        {**TIMM, "num_classes": 0},
        dino.vit_answer,
        pooler=False,
    ),
    "Swin": Case(
        "microsoft/swin-tiny-patch4-window7-224",
        "timm/swin_tiny_patch4_window7_224.ms_in1k",
        "SwinConfig",
        "SwinForImageClassification",
        {**SWIN, "num_labels": 11},
        {**SWIN, "num_classes": 11},
        swin.answer,
        swin.timm_answer,
        other=((256, 256), (320, 224)),  # transformers' needs grids that hold a window
    ),
    "Swin v2": Case(
        "microsoft/swinv2-tiny-patch4-window8-256",
        "timm/swinv2_tiny_window8_256.ms_in1k",
        "Swinv2Config",
        "Swinv2ForImageClassification",
        {**SWIN, "num_labels": 11, "image_size": 256, "window_size": 8},
        {**SWIN, "num_classes": 11},
        swin.answer,
        swin.timm_answer,
        other=((224, 224), (320, 192)),
    ),
    "CLIP, image": Case(
        "openai/clip-vit-base-patch32",
        "timm/vit_base_patch32_clip_quickgelu_224.openai",
        "CLIPVisionConfig",
        "CLIPVisionModel",
        SIZES,
        {**TIMM, "num_classes": 0},
        clip.image_answer,
    ),
    "SigLIP, image": Case(
        "google/siglip-base-patch16-224",
        "timm/vit_base_patch16_siglip_224.webli",
        "SiglipVisionConfig",
        "SiglipVisionModel",
        SIZES,
        {**TIMM, "num_classes": 0},
        clip.image_answer,
    ),
}


def run_as(folder: Path, source: str, library: str | None) -> Checkpoint:
    """The checkpoint in the folder, which came from `source` on the Hub."""
    return with_parity(read(folder, source=f"{source}@{COMMIT}"), library)


def epsilons(module: nn.Module) -> set[float]:
    """Of its norms: too small to show in most answers, not in all."""
    return {norm.eps for norm in module.modules() if isinstance(norm, nn.LayerNorm)}


def differences(
    checkpoint: Checkpoint, module: Any, answer: Callable[[Any, Tensor], Answer], case: Case
) -> list[float]:
    """Between the checkpoint's tokens and the foreign module's, at each size."""
    found = []
    ours = checkpoint.module()
    for size in (checkpoint.model.spec.image_size, *case.other):
        pixels = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            features, expected = ours.features(pixels), answer(module, pixels)
            tokens = torch.cat([features.prefix_tokens, features.patch_tokens], dim=1)
            found.append(relative(tokens, expected["tokens"]))
            for name, given in {"embedding": ours.embed, "logits": ours}.items():
                if name in expected:
                    found.append(relative(given(pixels), expected[name]))
    return found


@pytest.mark.parametrize("name", CASES)
def test_transformers_weights_run_as_timms(name: str, tmp_path: Path) -> None:
    import timm

    case = CASES[name]
    transformers_folder(tmp_path / "hf", case.of_transformers(), processor=ANOTHER_PROCESSOR)
    checkpoint = run_as(tmp_path / "hf", case.hub, "timm")
    published = timm.get_pretrained_cfg(case.timm.removeprefix("timm/"))
    assert published is not None and checkpoint.card.preprocess == from_timm(published.to_dict())
    save_timm(checkpoint.module(), tmp_path / "timm", card=checkpoint.card)
    theirs = case.of_timm().eval()
    theirs.load_state_dict(load_file(tmp_path / "timm" / "model.safetensors"))
    assert epsilons(theirs) == epsilons(checkpoint.module())
    assert max(differences(checkpoint, theirs, case.timm_answer, case)) < TOLERANCE
    assert max(differences(run_as(tmp_path / "hf", case.hub, None), theirs, case.timm_answer, case)) > 10 * TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_timms_weights_run_as_transformers(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    timm_folder(tmp_path / "timm", case.of_timm())
    checkpoint = run_as(tmp_path / "timm", case.timm, "hf")
    if case.hub in PUBLISHED:
        model_type, written = PUBLISHED[case.hub]
        assert checkpoint.card.preprocess == from_transformers(written, model_type=model_type)
    save_transformers(checkpoint.module(), tmp_path / "hf", card=checkpoint.card)
    theirs = case.of_transformers()
    theirs = type(theirs).from_pretrained(tmp_path / "hf", config=theirs.config, **case.options).eval()
    assert epsilons(theirs) == epsilons(checkpoint.module())
    assert max(differences(checkpoint, theirs, case.answer, case)) < TOLERANCE
    assert max(differences(run_as(tmp_path / "timm", case.timm, None), theirs, case.answer, case)) > 10 * TOLERANCE


def published(origin: Origin) -> list[str]:
    """timm's names of the weights that the origin's patterns fit."""
    import timm

    names = timm.list_pretrained()
    return [name for name in names if any(fnmatchcase(f"timm/{name}", pattern) for pattern in origin.hub)]


@pytest.mark.parametrize("name", ORIGINS)
def test_every_published_configuration_of_timm_is_as_the_table_says(name: str) -> None:
    import timm

    origin = ORIGINS[name]
    assert origin.timm is not None
    names = published(origin)
    assert names
    wrong = {}
    for one in names:
        cfg = timm.get_pretrained_cfg(one).to_dict()
        found = origin.timm.pictures(cfg["input_size"][1])
        if found != from_timm(cfg):
            wrong[one] = found
    assert wrong == {}


@pytest.mark.parametrize("hub", PUBLISHED)
def test_every_published_configuration_of_transformers_is_as_the_table_says(hub: str) -> None:
    fitting = [name for name, one in ORIGINS.items() if any(fnmatchcase(hub, pattern) for pattern in one.hub)]
    if hub.startswith("facebook/data2vec"):
        assert fitting == []  # in no other library
        return
    habit = ORIGINS[fitting[0]].hf
    assert habit is not None
    model_type, written = PUBLISHED[hub]
    expected = from_transformers(written, model_type=model_type)
    found = habit.pictures(518 if model_type == "dinov2" else expected.size[0])
    assert found == (None if fitting[0] == "deit-distilled" else expected)
