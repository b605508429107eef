"""What a checkpoint is: its layout from the names of its tensors, its spec from its own configuration files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from vitkit.checkpoint.families import LAYOUTS
from vitkit.checkpoint.namemap import matching, pattern
from vitkit.checkpoint.presets import PRESETS
from vitkit.errors import CheckpointError, ConfigError, list_faults, nearest
from vitkit.model.spec import VitSpec

__all__ = ["layout_of", "outputs_of", "presets_that_fit", "spec_from_timm", "spec_from_transformers"]


def layout_of(names: Iterable[str], *, origin: str) -> str:
    """The key in `families.LAYOUTS` whose marks the tensor names bear; a CheckpointError if there is none."""
    all_names = list(names)
    for key, layout in LAYOUTS.items():
        if all(any(pattern(mark).fullmatch(name) for name in all_names) for mark in layout.marks):
            return key
    raise CheckpointError(
        f"{origin}: the tensor names are of no layout vitkit knows ({', '.join(LAYOUTS)}); "
        f"the file has {list_faults(sorted(all_names), first=4)}"
    )


def outputs_of(tensors: Mapping[str, Tensor], layout: str) -> tuple[int, int]:
    """(num_classes, pre_logits_dim) that the file's own head and hidden head layer have; 0 where it has none."""
    sizes = {"head.bias": 0, "pre_logits.fc.bias": 0}
    for name, tensor in tensors.items():
        match = matching(LAYOUTS[layout].rules, name)
        if match and match[0].target and (target := match[0].target.format(**match[1])) in sizes:
            sizes[target] = tensor.shape[0]
    return sizes["head.bias"], sizes["pre_logits.fc.bias"]


def presets_that_fit(tensors: Mapping[str, Tensor], layout: str) -> list[str]:
    """Names of presets whose width, depth, patch and grid are those of the file: a suggestion, never an assumption."""
    sizes: dict[str, Sequence[int]] = {}
    depth = 0
    for name, tensor in tensors.items():
        match = matching(LAYOUTS[layout].rules, name)
        if match and match[0].target:
            target = match[0].target.format(**match[1])
            sizes[target] = tensor.shape
            depth = max(depth, int(match[1].get("i") or _block_number(target)) + 1)
    patches = sizes.get("patch_embed.proj.weight", (0, 0, 0, 0))
    positions = sizes.get("pos_embed", (0, 0, 0))
    side = patches[0 if layout.startswith("google") else -1]
    fits = []
    for name, preset in PRESETS.items():
        spec = preset.model.spec
        tokens = spec.num_prefix_tokens + spec.grid[0] * spec.grid[1]
        wanted = (spec.embed_dim, spec.depth, spec.patch_size, tokens)
        if wanted == (positions[2], depth, side, positions[1]):
            fits.append(name)
    return fits


def _block_number(name: str) -> int:
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "blocks" and parts[1].isdigit() else -1


# transformers' names of activations, and ours.
TRANSFORMERS_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
}
TRANSFORMERS_MODELS = ("vit",)


def spec_from_transformers(config: Mapping[str, Any], *, num_classes: int, pre_logits_dim: int, origin: str) -> VitSpec:
    """The VitSpec that a transformers `config.json` of model_type "vit" describes; absent keys mean ViTConfig's own.

    The head and pooler are the file's own: transformers builds them by the class that reads the file.
    """
    kind = config.get("model_type")
    if kind not in TRANSFORMERS_MODELS:
        raise CheckpointError(f"{origin}: model_type {kind!r} isn't supported; supported: vit")
    activation, pooler = config.get("hidden_act", "gelu"), config.get("pooler_act", "tanh")
    if activation not in TRANSFORMERS_ACTIVATIONS:
        known = ", ".join(TRANSFORMERS_ACTIVATIONS)
        raise CheckpointError(f"{origin}: hidden_act {activation!r} isn't supported; supported: {known}")
    if pre_logits_dim and pooler != "tanh":
        raise CheckpointError(f"{origin}: pooler_act {pooler!r} isn't supported; supported: tanh")
    size, patch = config.get("image_size", 224), config.get("patch_size", 16)
    if not isinstance(patch, int):
        if len(set(patch)) != 1:
            raise CheckpointError(f"{origin}: patch_size {patch} isn't supported; patches must be square")
        patch = patch[0]
    fields = {
        "image_size": size if isinstance(size, int) else tuple(size),
        "patch_size": patch,
        "in_channels": config.get("num_channels", 3),
        "num_classes": num_classes,
        "embed_dim": config.get("hidden_size", 768),
        "depth": config.get("num_hidden_layers", 12),
        "num_heads": config.get("num_attention_heads", 12),
        "mlp_dim": config.get("intermediate_size", 3072),
        "position_resample": "bicubic",
        "qkv_bias": "qkv" if config.get("qkv_bias", True) else "none",
        "activation": TRANSFORMERS_ACTIVATIONS[activation],
        "norm_eps": config.get("layer_norm_eps", 1e-12),
        "pre_logits_dim": pre_logits_dim,
        "dropout": float(config.get("hidden_dropout_prob", 0.0)),
        "attention_dropout": float(config.get("attention_probs_dropout_prob", 0.0)),
    }
    return _checked(fields, origin)


# timm's constructor arguments whose only supported value is its own default, which the encoder here has built in.
TIMM_FIXED: Mapping[str, tuple[Any, ...]] = {
    "qk_norm": (False,),
    "scale_attn_norm": (False,),
    "scale_mlp_norm": (False,),
    "proj_bias": (True,),
    "init_values": (None,),
    "no_embed_class": (False,),
    "reg_tokens": (0,),
    "pre_norm": (False,),
    "final_norm": (True,),
    "pool_include_prefix": (False,),
    "dynamic_img_pad": (False,),
    "norm_layer": (None,),
    "embed_norm_layer": (None,),
}
# Arguments that change training or input checks, not what the weights compute here.
TIMM_IGNORED = (
    "dynamic_img_size",
    "strict_img_size",
    "drop_rate",
    "patch_drop_rate",
    "weight_init",
    "fix_init",
    "pos_drop_rate",
    "proj_drop_rate",
    "attn_drop_rate",
    "drop_path_rate",
)
TIMM_ACTIVATIONS = {None: "gelu", "gelu": "gelu", "gelu_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"} | {
    name: name for name in ("silu", "relu")
}


def spec_from_timm(config: Mapping[str, Any], *, origin: str) -> VitSpec:
    """The VitSpec that a timm `config.json` describes: its architecture, then pretrained_cfg, then model_args."""
    architecture = config["architecture"]
    if architecture not in PRESETS:
        raise CheckpointError(
            f"{origin}: timm's architecture {architecture!r} isn't supported{nearest(architecture, PRESETS)}; "
            "list: vitkit models"
        )
    preset = PRESETS[architecture].model.spec
    published = config.get("pretrained_cfg", config)
    arguments = dict(config.get("model_args") or {})
    channels, *size = published.get("input_size") or (preset.in_channels, *preset.image_size)
    if not published.get("fixed_input_size", False):
        size = list(preset.image_size)
    size = arguments.pop("img_size", size)
    embed_dim = arguments.pop("embed_dim", preset.embed_dim)
    ratio = arguments.pop("mlp_ratio", preset.mlp_dim / preset.embed_dim)
    pool = arguments.pop("global_pool", published.get("global_pool") or "token")
    fc_norm = arguments.pop("fc_norm", None)
    position = arguments.pop("pos_embed", "learn")
    activation = arguments.pop("act_layer", None)
    faults = [
        f"{name} {value!r} isn't supported"
        for name, value in arguments.items()
        if name in TIMM_FIXED and value not in TIMM_FIXED[name]
    ]
    if pool not in ("token", "avg"):
        faults.append(f"global_pool {pool!r} isn't supported (token and avg are)")
    if activation not in TIMM_ACTIVATIONS:
        faults.append(f"act_layer {activation!r} isn't supported")
    fields = {
        "image_size": size if isinstance(size, int) else tuple(size),
        "patch_size": arguments.pop("patch_size", preset.patch_size),
        "in_channels": arguments.pop("in_chans", channels),
        "num_classes": config.get("num_classes", published.get("num_classes", preset.num_classes)),
        "embed_dim": embed_dim,
        "depth": arguments.pop("depth", preset.depth),
        "num_heads": arguments.pop("num_heads", preset.num_heads),
        "mlp_dim": int(embed_dim * ratio),
        "class_token": arguments.pop("class_token", True),
        "position": "learned" if position == "learn" else "none",
        "position_resample": "bicubic_antialias",
        "qkv_bias": "qkv" if arguments.pop("qkv_bias", True) else "none",
        "activation": TIMM_ACTIVATIONS.get(activation, "gelu"),
        "pool": "mean" if pool == "avg" else "cls",
        "final_norm": "pooled" if (pool == "avg" if fc_norm is None else fc_norm) else "tokens",
    }
    arguments.pop("num_classes", None)
    faults += [
        f"model_args {name!r} isn't supported"
        for name in arguments
        if name not in TIMM_FIXED and name not in TIMM_IGNORED
    ]
    if faults:
        raise CheckpointError(f"{origin}: {list_faults(faults)}")
    return _checked(fields, origin)


def timm_ratio(spec: VitSpec) -> float:
    """The mlp_ratio for which timm's int(embed_dim * mlp_ratio) is exactly mlp_dim."""
    ratio = spec.mlp_dim / spec.embed_dim
    while int(spec.embed_dim * ratio) < spec.mlp_dim:
        ratio = math.nextafter(ratio, math.inf)
    return ratio


def _checked(fields: dict[str, Any], origin: str) -> VitSpec:
    try:
        return VitSpec(**fields)
    except ConfigError as error:
        raise CheckpointError(f"{origin}: {error}") from None
