"""Published weights by origin, and what each library does with the same ones where libraries differ. Data only.

What isn't in a row isn't known. Sources: timm 1.0.31 (its pretrained_cfg and models/); transformers 5.23 (models/) and
the preprocessor_config.json of the repositories that `hub` names; the authors' code, which each row names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from vitkit.checkpoint.families.swin import OF_MICROSOFT, OF_TIMM, OF_TRANSFORMERS, OF_TRANSFORMERS2
from vitkit.checkpoint.presets.preset import IMAGENET, cropped
from vitkit.image.preprocess import Preprocess
from vitkit.image.sources import HALF, OPENAI_MEAN, OPENAI_STD

__all__ = ["LIBRARIES", "ORIGINS", "Habit", "Library", "Origin"]

Library = Literal["timm", "hf", "original"]
LIBRARIES: tuple[Library, ...] = ("timm", "hf", "original")
"""timm, transformers, and the authors' code."""

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
Pictures = Callable[[int], Preprocess | None]
"""From the side that weights were trained at to the preprocessing; None where it isn't known."""

HALVES: Statistics = (HALF, HALF)
OPENAI: Statistics = (OPENAI_MEAN, OPENAI_STD)


@dataclass(frozen=True, kw_only=True)
class Habit:
    """What one library does with weights of one origin."""

    fields: Mapping[str, Any]
    """Fields of the spec."""
    pictures: Pictures


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Weights of one origin, and the habits of the libraries that run them."""

    hub: tuple[str, ...]
    """Shell patterns of the Hub ids that publish them."""
    code: str
    """The authors' repository: what "original" means."""
    timm: Habit | None = None
    hf: Habit | None = None
    original: Habit | None = None


def crop(share: float, statistics: Statistics = IMAGENET) -> Pictures:
    """Bicubic; the shorter side resized so that the square from the middle is `share` of it."""
    return lambda size: cropped(size, int(size / share), statistics=statistics)


def squash(
    interpolation: Literal["bilinear", "bicubic"], statistics: Statistics = IMAGENET, *sizes: int, **fields: Any
) -> Pictures:
    """The whole picture made a square; known for `sizes` alone, if any are given."""

    def pictures(size: int) -> Preprocess | None:
        if sizes and size not in sizes:
            return None
        mean, std = statistics
        return Preprocess(
            size=(size, size), resize="squash", crop="none", interpolation=interpolation, mean=mean, std=std, **fields
        )

    return pictures


def rounded_down(pictures: Pictures) -> Pictures:
    """The same, its crop placed as transformers does."""

    def floored(size: int) -> Preprocess | None:
        preprocess = pictures(size)
        return None if preprocess is None else replace(preprocess, crop="center_floor")

    return floored


def by_size(pictures: Mapping[int, Pictures], other: Pictures) -> Pictures:
    """As `pictures` says for a size, else as `other`."""
    return lambda size: pictures.get(size, other)(size)


def always(size: int, pictures: Pictures) -> Pictures:
    """For one size, whatever size the weights were trained at."""
    return lambda _: pictures(size)


def unknown(size: int) -> None:
    """Not known for any size."""


def tenth_off(statistics: Statistics = IMAGENET) -> Pictures:
    """timm's usual crop: 0.9 at 224, all at larger sizes."""
    return by_size({224: crop(0.9, statistics)}, crop(1.0, statistics))


EIGHTH_OFF = crop(0.875)
"""256 to 224, and in that ratio."""
META = always(224, EIGHTH_OFF)

SWIN_HF, SWIN_TIMM = squash("bicubic"), by_size({384: crop(1.0)}, crop(0.9))
SWIN_ORIGINAL = by_size({384: squash("bicubic")}, EIGHTH_OFF)  # TEST.CROP, switched off by the configurations for 384

ORIGINS: Mapping[str, Origin] = {
    "google": Origin(
        hub=("google/vit-*-patch*", "timm/vit_*_patch*_???.augreg*", "timm/vit_*_patch*_???.orig_*"),
        code="google-research/vision_transformer",
        timm=Habit(
            fields={"position_resample": "bicubic_antialias", "norm_eps": 1e-6, "activation": "gelu"},
            pictures=tenth_off(HALVES),
        ),
        hf=Habit(
            fields={"position_resample": "bicubic", "norm_eps": 1e-12, "activation": "gelu"},
            pictures=squash("bilinear", HALVES),
        ),
        # vit_jax: input_pipeline.py (tf.image.resize gives floats, without antialiasing), models_vit.py (flax's gelu is
        # the tanh one, its LayerNorm's epsilon 1e-6), checkpoint.py (scipy.ndimage.zoom of order 1).
        original=Habit(
            fields={"position_resample": "bilinear_align_corners", "norm_eps": 1e-6, "activation": "gelu_tanh"},
            pictures=squash("bilinear", HALVES, order="rescale_first", antialias=False),
        ),
    ),
    "deit-distilled": Origin(
        hub=("facebook/deit-*-distilled-patch16-*", "timm/deit_*_distilled_patch16_*.fb_in1k"),
        code="facebookresearch/deit",
        timm=Habit(fields={"position_resample": "bicubic_antialias", "norm_eps": 1e-6}, pictures=tenth_off()),
        # At 224 the published files disagree among each other.
        hf=Habit(fields={"position_resample": "bicubic", "norm_eps": 1e-12}, pictures=unknown),
        original=Habit(fields={"position_resample": "bicubic", "norm_eps": 1e-6}, pictures=EIGHTH_OFF),
    ),
    "deit": Origin(
        hub=("facebook/deit-*-patch16-*", "timm/deit_*_patch16_*.fb_in1k"),
        code="facebookresearch/deit",
        timm=Habit(fields={"position_resample": "bicubic_antialias", "norm_eps": 1e-6}, pictures=tenth_off()),
        hf=Habit(fields={"position_resample": "bicubic", "norm_eps": 1e-12}, pictures=squash("bilinear", HALVES, 224)),
        # datasets.py (eval_crop_ratio 0.875), main.py (positions of --finetune).
        original=Habit(fields={"position_resample": "bicubic", "norm_eps": 1e-6}, pictures=EIGHTH_OFF),
    ),
    "beit": Origin(
        hub=("microsoft/beit-*-patch16-*", "timm/beit_*_patch16_*.in22k*"),
        code="microsoft/unilm",
        timm=Habit(fields={"position_resample": "geometric", "norm_eps": 1e-6}, pictures=tenth_off(HALVES)),
        hf=Habit(
            fields={"position_resample": "bilinear", "norm_eps": 1e-12}, pictures=squash("bilinear", HALVES, 224, 384)
        ),
        # beit/datasets.py; run_class_finetuning.py resamples tables by splines, which are none of the policies here.
        original=Habit(fields={"norm_eps": 1e-6}, pictures=by_size({224: crop(0.875, HALVES)}, crop(1.0, HALVES))),
    ),
    "dino": Origin(
        hub=("facebook/dino-vit*", "timm/vit_*.dino"),
        code="facebookresearch/dino",
        timm=Habit(fields={"position_resample": "bicubic_antialias", "norm_eps": 1e-6}, pictures=tenth_off()),
        hf=Habit(fields={"position_resample": "bicubic", "norm_eps": 1e-12}, pictures=squash("bilinear")),
        # eval_linear.py, vision_transformer.py (interpolate_pos_encoding).
        original=Habit(fields={"position_resample": "bicubic_offset", "norm_eps": 1e-6}, pictures=META),
    ),
    "dinov2-registers": Origin(
        hub=("facebook/dinov2-with-registers-*", "timm/vit_*_patch14_reg4_dinov2.lvd142m"),
        code="facebookresearch/dinov2",
        timm=Habit(fields={"position_resample": "bicubic_antialias"}, pictures=crop(1.0)),
        hf=Habit(fields={"position_resample": "bicubic_antialias"}, pictures=unknown),
        original=Habit(fields={"position_resample": "bicubic_antialias"}, pictures=META),
    ),
    "dinov2": Origin(
        hub=("facebook/dinov2-*", "timm/vit_*_patch14_dinov2.lvd142m"),
        code="facebookresearch/dinov2",
        timm=Habit(fields={"position_resample": "bicubic_antialias"}, pictures=crop(1.0)),
        hf=Habit(fields={"position_resample": "bicubic"}, pictures=rounded_down(META)),
        # data/transforms.py, models/vision_transformer.py (interpolate_offset).
        original=Habit(fields={"position_resample": "bicubic_offset"}, pictures=META),
    ),
    "dinov3": Origin(
        hub=("facebook/dinov3-vit*-lvd1689m", "timm/vit_*_dinov3*.lvd1689m"),
        code="facebookresearch/dinov3",
        timm=Habit(fields={"pool": "mean"}, pictures=always(256, crop(1.0))),
        hf=Habit(fields={"pool": "cls"}, pictures=always(224, squash("bilinear", order="rescale_first"))),
        # README.md; it resizes uint8 tensors, which rounds otherwise than Pillow: up to 2 levels of 255.
        original=Habit(fields={"pool": "cls"}, pictures=always(256, squash("bilinear"))),
    ),
    "mae": Origin(
        hub=("facebook/vit-mae-*", "timm/vit_*.mae"),
        code="facebookresearch/mae",
        timm=Habit(fields={"position_resample": "bicubic_antialias", "norm_eps": 1e-6}, pictures=tenth_off()),
        hf=Habit(fields={"position_resample": "bicubic", "norm_eps": 1e-12}, pictures=squash("bilinear")),
        # util/datasets.py, util/pos_embed.py.
        original=Habit(
            fields={"position_resample": "bicubic", "norm_eps": 1e-6}, pictures=by_size({224: EIGHTH_OFF}, crop(1.0))
        ),
    ),
    # data/build.py, utils.py (load_pretrained).
    "swin": Origin(
        hub=("microsoft/swin-*-patch4-window*", "timm/swin_*_patch4_window*.ms_in*"),
        code="microsoft/Swin-Transformer",
        timm=Habit(fields=OF_TIMM, pictures=SWIN_TIMM),
        hf=Habit(fields=OF_TRANSFORMERS, pictures=SWIN_HF),
        original=Habit(fields=OF_MICROSOFT, pictures=SWIN_ORIGINAL),
    ),
    "swinv2": Origin(
        hub=("microsoft/swinv2-*-patch4-window*", "timm/swinv2_*_window*.ms_in*"),
        code="microsoft/Swin-Transformer",
        timm=Habit(fields=OF_TIMM, pictures=SWIN_TIMM),
        hf=Habit(fields=OF_TRANSFORMERS2, pictures=SWIN_HF),
        original=Habit(fields=OF_MICROSOFT, pictures=SWIN_ORIGINAL),
    ),
    # clip/clip.py; its model takes no other size.
    "clip-base": Origin(
        hub=("openai/clip-vit-base-patch*", "timm/vit_base_patch*_clip_quickgelu_224.openai"),
        code="openai/CLIP",
        timm=Habit(fields={"position_resample": "bicubic_antialias"}, pictures=crop(0.9, OPENAI)),
        hf=Habit(fields={"position_resample": "bicubic"}, pictures=rounded_down(crop(1.0, OPENAI))),
        original=Habit(fields={}, pictures=crop(1.0, OPENAI)),
    ),
    "clip-large": Origin(
        hub=("openai/clip-vit-large-patch14*", "timm/vit_large_patch14_clip_quickgelu_*.openai"),
        code="openai/CLIP",
        timm=Habit(fields={"position_resample": "bicubic_antialias"}, pictures=crop(1.0, OPENAI)),
        hf=Habit(fields={"position_resample": "bicubic"}, pictures=rounded_down(crop(1.0, OPENAI))),
        original=Habit(fields={}, pictures=crop(1.0, OPENAI)),
    ),
    "siglip": Origin(
        hub=(
            "google/siglip-base-patch16-???",
            "google/siglip-large-patch16-???",
            "timm/vit_base_patch16_siglip_???.webli",
            "timm/vit_large_patch16_siglip_???.webli",
        ),
        code="google-research/big_vision",
        timm=Habit(fields={"position_resample": "bicubic_antialias", "activation": "gelu"}, pictures=crop(0.9, HALVES)),
        hf=Habit(
            fields={"position_resample": "bicubic", "activation": "gelu_tanh"}, pictures=squash("bicubic", HALVES)
        ),
        # models/vit.py.
        original=Habit(
            fields={"position_resample": "bilinear_align_corners", "activation": "gelu_tanh"}, pictures=unknown
        ),
    ),
}
"""The first whose pattern a Hub id fits is its origin."""
