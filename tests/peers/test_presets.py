"""Presets are what the libraries say: timm's architectures and published configurations, torchvision's weights."""

import dataclasses

import pytest
import torch
from torch import nn

from vitkit.checkpoint.dialect import Outputs
from vitkit.checkpoint.families import LAYOUTS, TIMM
from vitkit.checkpoint.families.data2vec import TRANSFORMERS_DATA2VEC
from vitkit.checkpoint.identify import spec_from_transformers
from vitkit.checkpoint.namemap import apply
from vitkit.checkpoint.presets import PRESETS
from vitkit.image.sources import from_timm, from_transformers
from vitkit.model.build import build_empty

pytestmark = pytest.mark.peer

OF_TIMM = [name for name, preset in PRESETS.items() if preset.timm]


def tree(module: nn.Module) -> str:
    """What is printed of a module: its parts, their sizes, eps, ...; timm has two classes for the exact GELU."""
    return str(module).replace("GELU(approximate='none')", "GELU()")


def heads(module: nn.Module) -> list[int]:
    return [part.num_heads for part in module.modules() if hasattr(part, "num_heads")]


@pytest.mark.parametrize("name", OF_TIMM)
def test_a_preset_is_timms_architecture(name: str) -> None:
    import timm

    preset = PRESETS[name]
    spec, dialect = preset.model.spec, TIMM[preset.timm]
    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=spec.num_classes)
        as_we_say = timm.create_model(name, num_classes=spec.num_classes, **dialect.config(spec))
    assert type(theirs).__name__ == preset.timm.split()[0]
    assert tree(as_we_say) == tree(theirs) and heads(as_we_say) == heads(theirs)
    assert sum(p.numel() for p in theirs.parameters()) == spec.num_parameters()
    shapes = {key: tensor.shape for key, tensor in build_empty(preset.model).state_dict().items()}
    rules = LAYOUTS[dialect.layouts[0 if spec.num_classes else 1]].rules
    assert apply(rules, theirs.state_dict(), spec, shapes, origin=name).state.keys() == shapes.keys()


@pytest.mark.parametrize("name", [name for name in OF_TIMM if PRESETS[name].hub_id])
def test_a_preset_prepares_pictures_as_timm_publishes(name: str) -> None:
    import timm

    preset = PRESETS[name]
    published = timm.get_pretrained_cfg((preset.hub_id or "").removeprefix("timm/"))
    assert published is not None
    assert from_timm(published.to_dict()) == preset.preprocess
    assert published.license == preset.licence
    assert (published.num_classes == 1000) == preset.imagenet1k
    assert published.num_classes == preset.model.spec.num_classes or not preset.imagenet1k


def test_torchvisions_presets_are_its_weights() -> None:
    from torchvision.models import vision_transformer

    entries = [
        entry
        for kind in vars(vision_transformer).values()
        if isinstance(kind, type) and issubclass(kind, vision_transformer.WeightsEnum)
        for entry in kind
    ]
    found = {}
    for entry in entries:
        name = entry.url.rsplit("/", 1)[1].rsplit("-", 1)[0]
        preset, transform, meta = PRESETS[name], entry.transforms(), entry.meta
        spec, preprocess = preset.model.spec, preset.preprocess
        assert spec.num_parameters() == meta["num_params"] and spec.image_size == meta["min_size"]
        assert preprocess.resize_size == (transform.resize_size[0],) * 2 and preprocess.resize == "shortest"
        assert preprocess.size == (transform.crop_size[0],) * 2 and preprocess.crop == "center_round"
        assert preprocess.interpolation == transform.interpolation.value
        assert (list(preprocess.mean), list(preprocess.std)) == (transform.mean, transform.std)
        assert preset.top1 == round(meta["_metrics"]["ImageNet-1K"]["acc@1"], 2)
        assert (preset.licence == "cc-by-nc-4.0") == ("SWAG" in meta.get("license", ""))
        found[name] = preset
    assert len(found) == 10 and not any(preset.timm for preset in found.values())


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("data2vec")])
def test_data2vecs_presets_are_transformers_models(name: str) -> None:
    from transformers import Data2VecVisionConfig, Data2VecVisionForImageClassification

    spec = dataclasses.replace(PRESETS[name].model.spec, num_classes=2)  # as many as its configuration's default
    config = Data2VecVisionConfig(**TRANSFORMERS_DATA2VEC.config(spec))
    with torch.device("meta"):
        theirs = Data2VecVisionForImageClassification(config)
    assert sum(p.numel() for p in theirs.parameters()) == spec.num_parameters()
    if "base" in name:
        published = Data2VecVisionConfig(use_relative_position_bias=True, layer_norm_eps=1e-6, drop_path_rate=0)
        assert config.to_diff_dict() == published.to_diff_dict()


LAYERS_B = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
LAYERS_L = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24}
LAYERS_SO = {"hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16, "num_hidden_layers": 27}
CLIP_TEXT = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "eos_token_id": 2}
CLIP_TEXT_L = {**LAYERS_B, "eos_token_id": 2}
GELU = {"hidden_act": "gelu"}
OPENAI_PROCESSOR = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 224,
}
SIGLIP_PROCESSOR = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "SiglipImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
}
# Of each repository: the projection, text_config, vision_config, preprocessor_config.json, and the millions of
# parameters and zero-shot accuracy that open_clip's docs/openclip_results.csv gives.
BOTH_TOWERS = {
    "clip-vit-base-patch32": (512, CLIP_TEXT, {**LAYERS_B, "patch_size": 32}, OPENAI_PROCESSOR, 151.28, 63.32),
    "clip-vit-base-patch16": (512, CLIP_TEXT, {**LAYERS_B, "patch_size": 16}, OPENAI_PROCESSOR, 149.62, 68.34),
    "clip-vit-large-patch14": (768, CLIP_TEXT_L, {**LAYERS_L, "patch_size": 14}, OPENAI_PROCESSOR, 427.62, 75.54),
    "clip-vit-large-patch14-336": (
        *(768, CLIP_TEXT_L, {**LAYERS_L, "patch_size": 14, "image_size": 336}),
        *({**OPENAI_PROCESSOR, "size": 336, "crop_size": 336}, 427.94, 76.56),
    ),
    "CLIP-ViT-B-32-laion2B-s34B-b79K": (
        *(512, {**CLIP_TEXT, **GELU}, {**LAYERS_B, **GELU, "patch_size": 32}, OPENAI_PROCESSOR, 151.28, 66.56),
    ),
    "siglip-base-patch16-224": (
        *(None, {}, {}, {**SIGLIP_PROCESSOR, "size": {"height": 224, "width": 224}}, 203.16, 76.04),
    ),
    "siglip-so400m-patch14-384": (
        *(None, LAYERS_SO, {**LAYERS_SO, "patch_size": 14, "image_size": 384}),
        *({**SIGLIP_PROCESSOR, "size": {"height": 384, "width": 384}}, 877.96, 83.08),
    ),
}


def test_every_preset_of_two_towers_is_checked() -> None:
    assert BOTH_TOWERS.keys() == {name for name, preset in PRESETS.items() if preset.model.arch == "clip"}


@pytest.mark.parametrize("name", BOTH_TOWERS)
def test_a_preset_of_two_towers_is_transformers_model(name: str) -> None:
    from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

    projection, text, vision, processor, millions, top1 = BOTH_TOWERS[name]
    preset, siglip = PRESETS[name], projection is None
    config = {"model_type": "siglip" if siglip else "clip", "text_config": text, "vision_config": vision}
    config |= {} if siglip else {"projection_dim": projection}
    assert spec_from_transformers(config, Outputs(0, 0), arch="clip", origin=name) == preset.model.spec
    with torch.device("meta"):
        theirs = SiglipModel(SiglipConfig(**config)) if siglip else CLIPModel(CLIPConfig(**config))
    count = sum(p.numel() for p in theirs.parameters())
    assert count == preset.model.spec.num_parameters() and round(count / 1e6, 2) == millions
    assert from_transformers(processor) == preset.preprocess
    assert preset.top1 == top1 and (preset.hub_id or "").endswith(f"/{name}")
