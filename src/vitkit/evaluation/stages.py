"""What happens between pixels and logits, by name, and where the modules of vitkit, timm and transformers show it.

Paths are those of timm 1.0.31 and of what transformers 5.23 has in memory.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["AFTER", "Anatomy", "anatomy_of", "count_blocks", "eps_at", "idle_stages", "stage_names", "walk"]

See: TypeAlias = Callable[[str, Tensor], None]
"""What is shown each stage's name and value."""

BEFORE = ("stem", "patch_embed", "embedded", "norm_pre")
"""What convolutions make of the pixels; patch tokens; with prefix tokens and positions; normed, in some models."""
BLOCK = (
    *("norm1", "attn.q", "attn.k", "attn.v", "attn.mixed", "attn", "ls1", "residual"),
    *("norm2", "mlp.fc1", "mlp.hidden", "mlp", "ls2", ""),
)
"""q, k, v as the softmax reads them and what it mixes, [B, A, N, D/A]; attention's output, scaled, added to the tokens;
the MLP before and after its activation, its output, scaled; and the block's own."""
AFTER = ("norm", "pooled", "fc_norm", "embedding", "logits")
"""All tokens normed; one vector per picture, normed; what the head reads; what it says."""


def stage_names(depth: int) -> list[str]:
    """The stages of a model of `depth` blocks, in the order of the computation."""
    return [*BEFORE, *(_in_block(number, name) for number in range(depth) for name in BLOCK), *AFTER]


def _in_block(number: int, name: str) -> str:
    return f"blocks.{number}.{name}".rstrip(".")


@dataclass(frozen=True)
class Tap:
    """Where a stage is seen: what enters, or leaves, the first of these paths that a module has."""

    paths: tuple[str, ...]
    enters: bool
    argument: int = 0
    """Which of the tensors that enter."""
    less: Tap | None = None
    """Seen earlier and taken away, where what was added to it is no module's output."""
    axes: Literal["tokens", "map", "heads"] = "tokens"
    """[B, N, D] or [B, h, w, D]; [B, D, h, w], turned into tokens; [B, A, N, D/A]."""


def into(*paths: str) -> Tap:
    """What enters the first of `paths`."""
    return Tap(paths, enters=True)


def out(*paths: str) -> Tap:
    """What leaves the first of `paths`."""
    return Tap(paths, enters=False)


def out_of_map(*paths: str) -> Tap:
    """The map [B, D, h, w] that leaves the first of `paths`."""
    return Tap(paths, enters=False, axes="map")


def run(module: Any, pixels: Tensor) -> Any:
    """Logits of a module of ours or timm's."""
    return module(pixels)


def run_transformers(module: Any, pixels: Tensor) -> Any:
    """Logits of a transformers model; embeddings of one without a head, or of the image tower of two, if it pools."""
    forward = getattr(module, "get_image_features", module.forward)  # which asks for texts too
    trained = getattr(getattr(module.config, "vision_config", module.config), "image_size", None)
    same = tuple(pixels.shape[2:]) == ((trained, trained) if isinstance(trained, int) else tuple(trained or ()))
    resized = not same and "interpolate_pos_encoding" in inspect.signature(forward).parameters
    return _answer(forward(pixels, **({"interpolate_pos_encoding": True} if resized else {})))


def run_mae(module: Any, pixels: Tensor) -> Any:
    """The class token of transformers' MAE encoder, no patch hidden and all in their order."""
    encoder = getattr(module, "vit", module)
    encoder.embeddings.config.mask_ratio = 0.0
    in_order = torch.arange(encoder.embeddings.patch_embeddings.num_patches)[None]
    return encoder(pixels, noise=in_order).last_hidden_state[:, 0]


def _answer(output: Any) -> Any:
    found = (getattr(output, name, None) for name in ("logits", "image_embeds", "pooler_output"))
    return next((answer for answer in found if answer is not None and answer.ndim == 2), None)


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """Where a class of modules has its stages; what isn't named here isn't compared."""

    base: str = ""
    """The part that holds the encoder, in the classes that have one."""
    whole: Mapping[str, Tap]
    blocks: str = ""
    """Path of the blocks, with * for numbers."""
    block: Mapping[str, Tap]
    """Within a block, whose own path is ""."""
    run: Callable[[Any, Tensor], Any] = run
    """From pixels [B, C, H, W] to logits [B, K]; None from a model that gives no vector per picture."""


def _norms(first: str, second: str) -> Mapping[str, Tap]:
    return {"norm1": out(first), "residual": into(second), "norm2": out(second)}


def _added(second: str) -> Mapping[str, Tap]:
    """Branches as they are added, where no module scales them; `second` is the second norm."""
    return {"ls1": replace(into(second), less=into("")), "ls2": replace(out(""), less=into(second))}


MLP = {"mlp.fc1": out("mlp.fc1"), "mlp.hidden": into("mlp.fc2", "mlp.down_proj"), "mlp": out("mlp"), "": out("")}
BRANCHES = {**MLP, "attn": out("attn")}
"""All that Swin's two versions, which norm at different places, have in common."""
PRE_NORM = {**BRANCHES, **_norms("norm1", "norm2"), "ls1": out("ls1"), "ls2": out("ls2")}
HEADS = {
    **{f"attn.{x}": replace(into("attn.attend"), argument=i, axes="heads") for i, x in enumerate("qkv")},
    "attn.mixed": replace(out("attn.attend"), axes="heads"),
}
HEAD = {"norm": out("norm"), "pooled": into("fc_norm"), "fc_norm": out("fc_norm"), "embedding": into("head")}
WHOLE = {"stem": out_of_map("patch_embed.backbone"), "patch_embed": out("patch_embed"), **HEAD}

PLAIN = Anatomy(
    whole={**WHOLE, "embedded": into("norm_pre"), "norm_pre": out("norm_pre")}, blocks="blocks.*", block=PRE_NORM
)
SCALED_INSIDE = Anatomy(
    whole={**WHOLE, "embedded": into("blocks.0")}, blocks="blocks.*", block={**PRE_NORM, **_added("norm2")}
)
SWIN = Anatomy(whole={**WHOLE, "embedding": into("head.fc")}, blocks="layers.*.blocks.*", block=BRANCHES)

RESNET = Anatomy(
    whole={"stem": out_of_map("stem"), "embedding": into("head.fc", "head")},
    blocks="stages.*.blocks.*",
    block={"": out_of_map("")},
)

THEIR_WHOLE = {
    "patch_embed": out("embeddings.patch_embeddings"),
    "embedded": out("embeddings"),
    "norm": out("layernorm"),
    "pooled": into("pooler.layernorm", "pooler.dense", "classifier"),
    "fc_norm": out("pooler.layernorm"),
    "embedding": into("classifier", "cls_classifier"),
}
THEIR_BRANCHES = {**MLP, "attn": out("attention")}
THEIR_BLOCK = {
    **THEIR_BRANCHES,
    **_norms("layernorm_before", "layernorm_after"),
    **_added("layernorm_after"),
}
DINO_BLOCK = {**THEIR_BRANCHES, **_norms("norm1", "norm2"), "ls1": out("layer_scale1"), "ls2": out("layer_scale2")}
TOWER_BLOCK = {**MLP, **_norms("layer_norm1", "layer_norm2"), **_added("layer_norm2"), "attn": out("self_attn")}
SPLIT_MLP = {"mlp.fc1": out("intermediate.dense"), "mlp.hidden": into("output.dense"), "mlp": out("output")}
CLIP_WHOLE = {"embedded": into("pre_layrnorm"), "norm_pre": out("pre_layrnorm")}
CONVOLUTION = {"patch_embed": out_of_map("embeddings.patch_embeddings", "embeddings.patch_embedding")}


def _theirs(base: str, blocks: str, block: Mapping[str, Tap], **whole: Tap) -> Anatomy:
    return Anatomy(base=base, whole={**THEIR_WHOLE, **whole}, blocks=blocks, block=block, run=run_transformers)


def _tower(**whole: Tap) -> Anatomy:
    return _theirs("vision_model", "encoder.layers.*", TOWER_BLOCK, **{**CONVOLUTION, **whole})


def _their_resnet(base: str) -> Anatomy:
    whole = {"stem": out_of_map("embedder"), "embedding": into("classifier.1")}
    return replace(RESNET, base=base, whole=whole, blocks="encoder.stages.*.layers.*", run=run_transformers)


ANATOMIES: Mapping[str, Mapping[str, Anatomy]] = {
    "vitkit": {
        "VisionTransformer": replace(PLAIN, block={**PRE_NORM, **HEADS}),
        "SwinTransformer": replace(SWIN, block={**BRANCHES, **HEADS}),
        "ResNet": RESNET,
    },
    "timm": {
        "VisionTransformer": PLAIN,
        "Beit": SCALED_INSIDE,
        "Eva": SCALED_INSIDE,
        "SwinTransformer": SWIN,
        "SwinTransformerV2": SWIN,
        "ResNet": replace(RESNET, whole={"stem": out_of_map("maxpool"), "embedding": into("fc")}, blocks="layer*.*"),
        "ResNetV2": replace(RESNET, whole={"stem": out_of_map("stem")}),
    },
    "transformers": {
        "vit": _theirs("vit", "layers.*", THEIR_BLOCK),
        "vit_mae": replace(_theirs("vit", "layers.*", THEIR_BLOCK), run=run_mae),
        "deit": _theirs("deit", "layers.*", THEIR_BLOCK),
        "beit": _theirs("beit", "layers.*", THEIR_BLOCK),
        "data2vec-vision": _theirs("data2vec_vision", "encoder.layer.*", {**THEIR_BLOCK, **SPLIT_MLP}),
        "dinov2": _theirs("dinov2", "encoder.layer.*", DINO_BLOCK),
        "dinov2_with_registers": _theirs("dinov2_with_registers", "encoder.layer.*", DINO_BLOCK),
        "dinov3_vit": _theirs("", "model.layer.*", DINO_BLOCK, **CONVOLUTION, norm=out("norm")),
        "clip": _tower(**CLIP_WHOLE, pooled=out("post_layernorm"), embedding=out("visual_projection")),
        "CLIPForImageClassification": _tower(**CLIP_WHOLE),
        "siglip": _tower(norm=out("post_layernorm"), pooled=out("head")),
        "SiglipForImageClassification": _tower(norm=out("post_layernorm")),
        "resnet": _their_resnet("resnet"),
        "bit": _their_resnet("bit"),
        "swin": _theirs("swin", "encoder.layers.*.blocks.*", THEIR_BRANCHES, patch_embed=out("embeddings.norm")),
        "swinv2": _theirs(
            "swinv2", "encoder.layers.*.blocks.*", {**THEIR_BRANCHES, **SPLIT_MLP}, patch_embed=out("embeddings.norm")
        ),
    },
}
"""By library, there by the name of the class or transformers' model_type."""
UNNAMED = Anatomy(whole={}, block={})
"""Of any other module: logits alone."""


def anatomy_of(module: nn.Module) -> Anatomy:
    """Where `module` has its stages, by its class or the nearest one that it derives from."""
    model_type = str(getattr(getattr(module, "config", None), "model_type", "")).removesuffix("_vision_model")
    for kind in type(module).__mro__:
        known = ANATOMIES.get(kind.__module__.partition(".")[0], {})
        for name in (kind.__name__, model_type):
            if name in known:
                return known[name]
    return replace(UNNAMED, run=run_transformers) if hasattr(module, "config") else UNNAMED


def count_blocks(module: nn.Module, anatomy: Anatomy) -> int:
    """How many blocks `module` has."""
    return len(_block_paths(module, anatomy))


def idle_stages(module: nn.Module, anatomy: Anatomy) -> set[str]:
    """The stages whose module does nothing: what leaves an nn.Identity."""
    probes = _probes(module, anatomy)
    return {name for name, tap, part, _ in probes if not tap.enters and type(part) is nn.Identity}


def eps_at(module: nn.Module, anatomy: Anatomy, stage: str) -> float | None:
    """The eps of the norm that `stage` leaves; None where it isn't a norm's."""
    probes = _probes(module, anatomy)
    return next((getattr(part, "eps", None) for name, tap, part, _ in probes if name == stage and not tap.enters), None)


def walk(module: nn.Module, anatomy: Anatomy, pixels: Tensor, see: See) -> Tensor | None:
    """The logits [1, K], if it has any, of pixels [1, C, H, W]; on the way every stage is shown to `see`."""
    with ExitStack() as stack, torch.inference_mode():
        for name, tap, part, start in _probes(module, anatomy):
            # Below float64 a small branch is lost in the rounding of the tokens that it was added to.
            if tap.less is None or pixels.dtype == torch.float64:
                _watch(name, tap, part, start, see, stack)
        if "attn.q" not in anatomy.block:
            attention = stack.enter_context(_Attention(see))
            for number, path in enumerate(_block_paths(module, anatomy)):
                attention.follow(module.get_submodule(path), number, stack)
        logits: Tensor | None = anatomy.run(module, pixels)
        if logits is not None:
            see("logits", logits)
        return logits


class _Attention(TorchFunctionMode):
    """Sees the attention of every block by the one function for it that libraries have in common."""

    def __init__(self, see: See) -> None:
        super().__init__()
        self.see = see
        self.block: int | None = None

    def follow(self, block: nn.Module, number: int, stack: ExitStack) -> None:
        """Knows `block` by its number from now on."""

        def enter(*_: Any) -> None:
            self.block = number

        def leave(*_: Any) -> None:
            self.block = None

        stack.callback(block.register_forward_pre_hook(enter).remove)
        stack.callback(block.register_forward_hook(leave).remove)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls `func`, and shows what attention read and gave."""
        named = kwargs or {}
        result = func(*args, **named)
        if func is F.scaled_dot_product_attention and self.block is not None:
            q_BAND, k_BAND, v_BAND = args[:3]
            scale = named.get("scale")
            # As if the softmax had its usual scale, the root of the heads' width.
            factor = 1.0 if scale is None else scale * math.sqrt(q_BAND.shape[-1])
            parts = {"attn.q": q_BAND * factor, "attn.k": k_BAND, "attn.v": v_BAND, "attn.mixed": result}
            for name, value in parts.items():
                self.see(_in_block(self.block, name), value)
        return result


def _block_paths(module: nn.Module, anatomy: Anatomy) -> list[str]:
    path = re.escape(anatomy.blocks).replace(r"\*", r"\d+")
    pattern = re.compile(rf"({re.escape(anatomy.base)}\.)?{path}")
    return [name for name, _ in module.named_modules() if name and pattern.fullmatch(name)]


def _probes(module: nn.Module, anatomy: Anatomy) -> Iterator[tuple[str, Tap, nn.Module, nn.Module]]:
    """Every stage's name, its tap, the module it is at, and the one of the tap to be taken away."""
    parts = dict(module.named_modules())

    def find(tap: Tap, *starts: str) -> nn.Module | None:
        paths = (f"{start}.{path}".strip(".") for path in tap.paths for start in starts)
        return next((parts[path] for path in paths if path in parts), None)

    places = [(name, tap, [anatomy.base, ""]) for name, tap in anatomy.whole.items()]
    for number, block in enumerate(_block_paths(module, anatomy)):
        places += [(_in_block(number, name), tap, [block]) for name, tap in anatomy.block.items()]
    for name, tap, starts in places:
        part, start = find(tap, *starts), find(tap.less or tap, *starts)
        if part is not None and start is not None:
            yield name, tap, part, start


def _watch(name: str, tap: Tap, part: nn.Module, start: nn.Module, see: See, stack: ExitStack) -> None:
    before: list[Tensor] = []

    def use(value: Tensor) -> None:
        value = value - before.pop() if before else value
        if tap.axes == "map":
            value = value.flatten(2).transpose(1, 2)
        elif tap.axes == "tokens" and value.ndim == 4:
            value = value.flatten(1, 2)
        see(name, value)

    if tap.less is not None:
        _hook(start, tap.less, before.append, stack)
    _hook(part, tap, use, stack)


def _hook(part: nn.Module, tap: Tap, use: Callable[[Tensor], None], stack: ExitStack) -> None:
    def on_input(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        use([value for value in (*args, *named.values()) if isinstance(value, Tensor)][tap.argument])

    def on_output(_: nn.Module, args: Any, result: Any) -> None:
        use(result if isinstance(result, Tensor) else result[0])

    if tap.enters:
        stack.callback(part.register_forward_pre_hook(on_input, with_kwargs=True).remove)
    else:
        stack.callback(part.register_forward_hook(on_output).remove)
