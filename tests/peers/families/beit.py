"""BEiT and BEiT v2: fine-tuned, with one table of positions for all blocks, and as pre-training left them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peers.families.row import Answer, Foreign, Row, bare_file, timm_answer, timm_folder, transformers_folder
from small import randomise, relative
from vitkit.model.spec import VitSpec

SIZES = {
    "hidden_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,
    "intermediate_size": 96,
    "image_size": 48,
}
TIMM_SIZES: Mapping[str, Any] = {"img_size": 48, "embed_dim": 40, "depth": 3, "num_heads": 5, "mlp_ratio": 2.0}
SPEC = VitSpec(
    image_size=48,
    num_classes=11,
    embed_dim=40,
    depth=3,
    num_heads=5,
    mlp_dim=80,
    position="relative",
    position_resample="geometric",
    qkv_bias="qv",
    layer_scale=0.1,
    pool="mean",
    final_norm="pooled",
)


def answer(module: Any, pixels: Tensor) -> Answer:
    """Of transformers' BeitForImageClassification."""
    out = module.base_model(pixels)
    return {
        "tokens": out.last_hidden_state,
        "embedding": out.pooler_output,
        "logits": module.classifier(out.pooler_output),
    }


def model_answer(module: Any, pixels: Tensor) -> Answer:
    """Of transformers' BeitModel."""
    out = module(pixels)
    pooled = {} if out.pooler_output is None else {"embedding": out.pooler_output}
    return {"tokens": out.last_hidden_state, **pooled}


def masked_answer(module: Any, pixels: Tensor) -> Answer:
    """What the head of transformers' BeitForMaskedImageModeling reads."""
    return {"tokens": module.layernorm(module.beit(pixels).last_hidden_state)}


def write_transformers(folder: Path, *, in_memory: bool = False, **config: Any) -> Foreign:
    """The names on disk, or, of a state_dict(), those in memory."""
    import transformers

    made = transformers.BeitConfig(use_relative_position_bias=True, num_labels=11, **SIZES, **config)
    module = transformers_folder(folder, transformers.BeitForImageClassification(made))
    if in_memory:
        bare_file(folder, module.state_dict(), "model.safetensors")
    return Foreign(module, answer)


def back_transformers(folder: Path) -> Foreign:
    import transformers

    return Foreign(transformers.BeitForImageClassification.from_pretrained(folder).eval(), answer)


def write_model(folder: Path, *, pooler: bool = True, in_memory: bool = False) -> Foreign:
    import transformers

    config = transformers.BeitConfig(use_shared_relative_position_bias=True, **SIZES)
    module = transformers_folder(folder, transformers.BeitModel(config, add_pooling_layer=pooler))
    if in_memory:
        bare_file(folder, module.state_dict(), "model.safetensors")
    return Foreign(module, model_answer)


def back_model(folder: Path, *, pooler: bool = True) -> Foreign:
    import transformers

    return Foreign(transformers.BeitModel.from_pretrained(folder, add_pooling_layer=pooler).eval(), model_answer)


def write_masked(folder: Path) -> Foreign:
    import transformers

    made = transformers.BeitConfig(
        use_shared_relative_position_bias=True, use_mask_token=True, vocab_size=20, layer_norm_eps=1e-6, **SIZES
    )
    return Foreign(transformers_folder(folder, transformers.BeitForMaskedImageModeling(made)), masked_answer)


def timm_sized(module: Any, pixels: Tensor) -> Answer:
    """Of timm's Beit, which is set to another size by its own method."""
    if tuple(pixels.shape[2:]) != module.patch_embed.img_size:
        module = copy.deepcopy(module)
        with warnings.catch_warnings():  # how its interpolation indexes
            warnings.simplefilter("ignore")
            module.set_input_size(img_size=tuple(pixels.shape[2:]))
    return timm_answer(module, pixels)


def write_timm(folder: Path, **arguments: Any) -> Foreign:
    import timm

    module = timm.create_model("beit_base_patch16_224", num_classes=11, **TIMM_SIZES, **arguments)
    return Foreign(timm_folder(folder, module), timm_sized)


def back_timm(folder: Path) -> Foreign:
    import timm

    return Foreign(timm.create_model(f"local-dir:{folder}", pretrained=True).eval(), timm_sized)


class Table(nn.Module):
    """The bias of every pair of tokens, under the names of unilm's modeling_finetune.py."""

    def __init__(self, side: int, heads: int) -> None:
        super().__init__()
        rows = (2 * side - 1) ** 2
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows + 3, heads))
        index = torch.full((1 + side * side,) * 2, rows)  # class to patch
        index[1:, 0], index[0, 0] = rows + 1, rows + 2
        for a in range(side * side):
            for b in range(side * side):
                down, right = a // side - b // side, a % side - b % side
                index[1 + a, 1 + b] = (down + side - 1) * (2 * side - 1) + right + side - 1
        self.register_buffer("relative_position_index", index)

    def bias(self) -> Tensor:
        """[A, N, N]."""
        return self.relative_position_bias_table[self.get_buffer("relative_position_index")].permute(2, 0, 1)


class Attention(Table):
    """Of a block; a table of its own unless the model has one for all."""

    def __init__(self, side: int, width: int, heads: int, *, own: bool) -> None:
        super().__init__(side, heads)
        if not own:
            del self.relative_position_bias_table, self.relative_position_index
        self.own, self.heads = own, heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, shared: Tensor | None) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        heads = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q + self.q_bias, k, v + self.v_bias)]
        logits = heads[0] @ heads[1].mT / heads[0].shape[-1] ** 0.5 + (self.bias() if shared is None else shared)
        out: Tensor = self.proj((logits.softmax(-1) @ heads[2]).transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)


class Block(nn.Module):
    def __init__(self, side: int, width: int, heads: int, *, own: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn, self.mlp = Attention(side, width, heads, own=own), Mlp(width)
        self.gamma_1, self.gamma_2 = (nn.Parameter(torch.ones(width)) for _ in range(2))

    def forward(self, x: Tensor, shared: Tensor | None) -> Tensor:
        x = x + self.gamma_1 * self.attn(self.norm1(x), shared)
        return x + self.gamma_2 * self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))


class Original(nn.Module):
    """unilm's BEiT of the test's sizes: fine-tuned, or as version 2's pre-training leaves it."""

    def __init__(self, *, pretrained: bool) -> None:
        super().__init__()
        side, D, A = 3, 40, 5
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, D, 16, 16)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, D))
        self.blocks = nn.ModuleList(Block(side, D, A, own=not pretrained) for _ in range(3))
        self.rel_pos_bias = Table(side, A) if pretrained else None
        if pretrained:
            self.mask_token = nn.Parameter(torch.zeros(1, 1, D))
            self.cls_pt_layers = nn.ModuleList([Block(side, D, A, own=False)])
            self.norm, self.lm_head = nn.LayerNorm(D, eps=1e-6), nn.Linear(D, 20)
        else:
            self.fc_norm, self.head = nn.LayerNorm(D, eps=1e-6), nn.Linear(D, 11)

    def forward(self, pixels: Tensor) -> Answer:
        patches = self.patch_embed.proj(pixels).flatten(2).mT  # type: ignore[operator]
        x = torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches], dim=1)
        shared = None if self.rel_pos_bias is None else self.rel_pos_bias.bias()
        for block in self.blocks:
            x = block(x, shared)
        if shared is not None:
            return {"tokens": self.norm(x)}
        return {"tokens": x, "logits": self.head(self.fc_norm(x[:, 1:].mean(1)))}


def write_original(folder: Path, *, pretrained: bool, container: str) -> Foreign:
    """As the authors' training code saves it; timm reads the same file to the same answers."""
    import timm
    from timm.models.beit import checkpoint_filter_fn

    module = randomise(Original(pretrained=pretrained))
    folder.mkdir()
    torch.save({container: module.state_dict(), "epoch": 3}, folder / "beit.pth")
    arguments = {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True, "use_fc_norm": False}
    theirs = timm.create_model(
        "beitv2_base_patch16_224", num_classes=11, **TIMM_SIZES, **(arguments if pretrained else {})
    ).eval()
    filtered = checkpoint_filter_fn(torch.load(folder / "beit.pth"), theirs)
    unread = theirs.load_state_dict(filtered, strict=not pretrained)
    assert set(unread.missing_keys) <= {"head.weight", "head.bias"}
    pixels = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        for name, expected in module(pixels).items():
            assert relative(timm_answer(theirs, pixels)[name], expected) < 1e-5
    return Foreign(module, lambda module, pixels: module(pixels), "beit.pth", SPEC)


OTHER = ((64, 64), (32, 32), (80, 48))
MASKED_ONLY = (r"(.*\.)?mask_token", r"lm_head\..*", r"cls_pt_.*")
INDEX = r".*relative_position_index"

ROWS = [
    Row("BEiT", "transformers", write_transformers, back_transformers, "hf", sizes=OTHER, gradients=True),
    Row(
        "BEiT, reading the class token",
        "transformers",
        partial(write_transformers, use_mean_pooling=False, layer_scale_init_value=0.0),
        back_transformers,
        "hf",
        sizes=OTHER,
    ),
    Row(
        "BEiT",
        "transformers 5 in memory",
        partial(write_transformers, in_memory=True),
        back_transformers,
        "hf",
        sizes=OTHER,
    ),
    Row("BEiT, one table", "transformers", write_model, back_model, "hf", sizes=OTHER),
    Row(
        "BEiT, one table",
        "transformers 5 in memory",
        partial(write_model, in_memory=True),
        back_model,
        "hf",
        sizes=OTHER,
    ),
    Row(
        "BEiT, without a last norm",
        "transformers",
        partial(write_model, pooler=False),
        partial(back_model, pooler=False),
        "hf",
        sizes=OTHER,
    ),
    Row("BEiT, pre-trained", "transformers", write_masked, back_timm, "timm", sizes=OTHER, unseen=MASKED_ONLY),
    Row("BEiT", "timm", write_timm, back_timm, "timm", sizes=OTHER),
    Row(
        "BEiT, one table, reading the class token",
        "timm",
        partial(write_timm, use_rel_pos_bias=False, use_shared_rel_pos_bias=True, global_pool="token"),
        back_timm,
        "timm",
        sizes=OTHER,
    ),
    Row(
        "BEiT",
        "unilm",
        partial(write_original, pretrained=False, container="model"),
        back_timm,
        "timm",
        unseen=(INDEX,),
    ),
    Row(
        "BEiT v2, pre-trained",
        "unilm",
        partial(write_original, pretrained=True, container="module"),
        back_timm,
        "timm",
        unseen=(INDEX, *MASKED_ONLY),
    ),
]
