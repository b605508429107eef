"""MAE: the encoder and the whole autoencoder, as Meta and transformers write them, and timm reads Meta's."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from peers.families.row import Answer, Foreign, Row, bare_file, timm_answer, timm_back, transformers_folder
from small import randomise
from vitkit.model.spec import MaeSpec, VitSpec

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
DECODER = {
    "decoder_hidden_size": 24,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 3,
    "decoder_intermediate_size": 48,
}
SPEC = {"image_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_dim": 64}
MAE_SPEC = MaeSpec(
    **SPEC,  # type: ignore[arg-type]
    decoder_dim=24,
    decoder_depth=2,
    decoder_heads=3,
    decoder_mlp_dim=48,
    position_resample="bicubic",
)
OTHER = ((48, 48), (24, 24), (40, 48))
KEY_BIAS = r".*(key|k_proj)\.bias"


def answer(module: Any, pixels: Tensor) -> Answer:
    """Of transformers' models, seeing every patch in its place."""
    encoder, size = getattr(module, "vit", module), module.config.patch_size
    ratio, encoder.config.mask_ratio = encoder.config.mask_ratio, 0.0
    noise = torch.arange(pixels.shape[2] // size * (pixels.shape[3] // size)).expand(len(pixels), -1)
    tokens = encoder(pixels, noise=noise, interpolate_pos_encoding=True).last_hidden_state
    encoder.config.mask_ratio = ratio
    return {"tokens": tokens}


def config(**changes: Any) -> Any:
    """transformers' configuration of a small autoencoder."""
    from transformers import ViTMAEConfig

    return ViTMAEConfig(image_size=32, patch_size=8, **SIZES, **DECODER, **changes)


def write_transformers(folder: Path, *, kind: str, in_memory: bool = False) -> Foreign:
    """The names on disk, or, of a state_dict(), those in memory."""
    import transformers

    module = transformers_folder(folder, getattr(transformers, kind)(config()))
    if in_memory:
        bare_file(folder, module.state_dict(), "model.safetensors")
    return Foreign(module, answer)


def back_transformers(folder: Path) -> Foreign:
    import transformers

    return Foreign(transformers.ViTMAEForPreTraining.from_pretrained(folder).eval(), answer)


def back_vit(folder: Path) -> Foreign:
    """The encoder as the ViT that it is."""
    import transformers

    def vit_answer(module: Any, pixels: Tensor) -> Answer:
        return {"tokens": module(pixels).last_hidden_state}

    return Foreign(transformers.ViTModel.from_pretrained(folder, add_pooling_layer=False).eval(), vit_answer)


class Meta(nn.Module):
    """The original's modules under its names; its blocks are timm's, as there."""

    def __init__(self) -> None:
        super().__init__()
        from timm.layers import PatchEmbed
        from timm.models.vision_transformer import Block

        norm = partial(nn.LayerNorm, eps=1e-6)
        self.patch_embed = PatchEmbed(32, 8, 3, 32)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 32))
        self.pos_embed = nn.Parameter(torch.zeros(1, 17, 32), requires_grad=False)
        self.blocks = nn.ModuleList(Block(32, 4, 2.0, qkv_bias=True, norm_layer=norm) for _ in range(2))
        self.norm = norm(32)
        self.decoder_embed = nn.Linear(32, 24)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 24))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, 17, 24), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(Block(24, 3, 2.0, qkv_bias=True, norm_layer=norm) for _ in range(2))
        self.decoder_norm = norm(24)
        self.decoder_pred = nn.Linear(24, 192)

    def encode(self, pixels: Tensor, keep: Tensor) -> Tensor:
        """Pixels to the tokens of the class and of the patches `keep` [V], the same of every picture."""
        x = self.patch_embed(pixels) + self.pos_embed[:, 1:]
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([cls, x[:, keep]], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)  # type: ignore[no-any-return]

    def decode(self, encoded: Tensor, keep: Tensor) -> Tensor:
        """These tokens to the pixels of all patches."""
        known = self.decoder_embed(encoded)
        rows = [self.mask_token[:, 0].expand(len(known), -1)] * 16
        for number, place in enumerate(keep.tolist()):
            rows[place] = known[:, 1 + number]
        x = torch.stack([known[:, 0], *rows], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:]  # type: ignore[no-any-return]


def meta_answer(module: Any, pixels: Tensor) -> Answer:
    return {"tokens": module.encode(pixels, torch.arange(16))}


def write_meta(folder: Path) -> Foreign:
    """As mae_visualize_*.pth: a pickle with "model"."""
    module = randomise(Meta())
    folder.mkdir(parents=True)
    torch.save({"model": module.state_dict()}, folder / "mae.pth")
    return Foreign(module, meta_answer, file="mae.pth", spec=MAE_SPEC)


def write_meta_encoder(folder: Path, *, pool: str) -> Foreign:
    """As mae_pretrain_*.pth and mae_finetuned_*.pth, which have timm's names and timm reads: pool "token" and "avg"."""
    import timm

    tuned = pool == "avg"
    sizes: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}
    module = timm.create_model(
        "vit_base_patch16_224", mlp_ratio=2.0, num_classes=5 if tuned else 0, global_pool=pool, **sizes
    )
    written = {"model": randomise(module).state_dict()}
    folder.mkdir(parents=True)
    torch.save(written, folder / "mae.pth")
    spec = VitSpec(
        **SPEC,  # type: ignore[arg-type]
        num_classes=5 if tuned else 0,
        position_resample="bicubic",
        pool="mean" if tuned else "cls",
        final_norm="pooled" if tuned else "tokens",
    )
    return Foreign(module, timm_answer, file="mae.pth", spec=spec)


UNSEEN = (r"decoder.*", "mask_token")  # test_mae_parity.py looks at what only reconstructions show
ROWS = [
    Row(
        "MAE",
        "transformers",
        partial(write_transformers, kind="ViTMAEForPreTraining"),
        back_transformers,
        "hf",
        sizes=OTHER,
        unseen=(KEY_BIAS, *UNSEEN),
        gradients=True,
    ),
    Row(
        "MAE",
        "transformers 5 in memory",
        partial(write_transformers, kind="ViTMAEForPreTraining", in_memory=True),
        back_transformers,
        "hf",
        unseen=(KEY_BIAS, *UNSEEN),
    ),
    Row("MAE", "Meta", write_meta, back_transformers, "hf", unseen=UNSEEN),
    Row(
        "MAE, encoder",
        "transformers",
        partial(write_transformers, kind="ViTMAEModel"),
        back_vit,
        "hf",
        sizes=OTHER,
        unseen=(KEY_BIAS,),
    ),
    Row("MAE, encoder", "Meta", partial(write_meta_encoder, pool="token"), timm_back, "timm"),
    Row("MAE, fine-tuned", "Meta", partial(write_meta_encoder, pool="avg"), timm_back, "timm"),
]
