"""CLIP and SigLIP: image towers alone, image halves with their projection, and both towers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from peers.families.row import Answer, Foreign, Row, bare_file, timm_answer, timm_back, timm_folder, transformers_folder
from small import randomise, relative
from vitkit.model.spec import ClipSpec
from vitkit.model.text_spec import TextSpec

IMAGE = {
    "hidden_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "intermediate_size": 96,
    "image_size": 48,
    "patch_size": 16,
}
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "vocab_size": 20,
    "max_position_embeddings": 8,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 19,
}
END = 19
TEXTS = torch.tensor(
    [
        [*range(7), END],
        [*range(7, 14), END],
        [14, 15, 16, 17, 18, END, END, END],  # padded with the end token, as CLIP's tokenizer does
    ]
)
OTHER = ((64, 64), (32, 32), (80, 48))


def image_answer(module: Any, pixels: Tensor) -> Answer:
    """Of transformers' CLIPVisionModel and SiglipVisionModel; only the former leaves the last norm of tokens out."""
    out = module(pixels, interpolate_pos_encoding=True)
    tokens = module.post_layernorm(out.last_hidden_state) if hasattr(module, "pre_layrnorm") else out.last_hidden_state
    return {"tokens": tokens, "embedding": out.pooler_output}


def half_answer(module: Any, pixels: Tensor) -> Answer:
    """Of transformers' CLIPVisionModelWithProjection."""
    tokens = image_answer(module.vision_model, pixels)["tokens"]
    return {"tokens": tokens, "embedding": module(pixels, interpolate_pos_encoding=True).image_embeds}


def both_answer(module: Any, pixels: Tensor) -> Answer:
    """Of transformers' CLIPModel and SiglipModel."""
    both = module(input_ids=TEXTS, pixel_values=pixels, interpolate_pos_encoding=True)
    return {
        "tokens": image_answer(module.vision_model, pixels)["tokens"],
        "embedding": module.get_image_features(pixel_values=pixels, interpolate_pos_encoding=True).pooler_output,
        "text_embedding": module.get_text_features(input_ids=TEXTS).pooler_output,
        "similarity": both.logits_per_image,
    }


def clip_classifier_answer(module: Any, pixels: Tensor) -> Answer:
    """Of transformers' CLIPForImageClassification."""
    out = module.vision_model(pixels, interpolate_pos_encoding=True)
    return {"tokens": out.last_hidden_state, "logits": module(pixels, interpolate_pos_encoding=True).logits}


def siglip_classifier_answer(module: Any, pixels: Tensor) -> Answer:
    """Of transformers' SiglipForImageClassification."""
    tokens = image_answer(module.vision_model, pixels)["tokens"]
    return {"tokens": tokens, "logits": module(pixels, interpolate_pos_encoding=True).logits}


def write_image(folder: Path, kind: str, answer: Any, **changes: Any) -> Foreign:
    import transformers

    config = transformers.CLIPVisionConfig if kind.startswith("CLIP") else transformers.SiglipVisionConfig
    module = getattr(transformers, kind)(config(**IMAGE, **changes))
    return Foreign(transformers_folder(folder, module), answer)


def write_older_image(folder: Path) -> Foreign:
    """As transformers 4 wrote it: the tower inside, its numbers of positions beside the weights."""
    foreign = write_image(folder, "CLIPVisionModel", image_answer)
    state = {f"vision_model.{name}": tensor for name, tensor in foreign.module.state_dict().items()}
    bare_file(folder, {**state, "vision_model.embeddings.position_ids": torch.arange(10)[None]}, "model.safetensors")
    again, pixels = back(folder, "CLIPVisionModel", image_answer), torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        assert torch.equal(again.module(pixels).pooler_output, foreign.module(pixels).pooler_output)
    return foreign


def write_both(
    folder: Path, kind: str, answer: Any, *, text: Mapping[str, Any] | None = None, **changes: Any
) -> Foreign:
    import transformers

    config = transformers.CLIPConfig if kind.startswith("CLIP") else transformers.SiglipConfig
    made = config(vision_config=dict(IMAGE), text_config={**TEXT, **(text or {})}, **changes)
    return Foreign(transformers_folder(folder, getattr(transformers, kind)(made)), answer, texts=texts_of(kind))


def texts_of(kind: str) -> Tensor | None:
    return TEXTS if kind.endswith("Model") and "Vision" not in kind else None


def back(folder: Path, kind: str, answer: Any) -> Foreign:
    import transformers

    module, info = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    return Foreign(module.eval(), answer, texts=texts_of(kind))


def row(family: str, kind: str, answer: Any, write: Any, **options: Any) -> Row:
    return Row(
        family,
        "transformers",
        partial(write, kind=kind, answer=answer),
        partial(back, kind=kind, answer=answer),
        "hf",
        sizes=OTHER,
        **options,
    )


def write_timm(folder: Path, architecture: str) -> Foreign:
    import timm

    sizes: dict[str, Any] = {"img_size": 48, "embed_dim": 40, "depth": 2, "num_heads": 5, "num_classes": 11}
    module = timm.create_model(architecture, patch_size=16, dynamic_img_size=True, **sizes)
    return Foreign(timm_folder(folder, module), timm_answer)


class QuickGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class ResidualBlock(nn.Module):
    """Under the names of clip/model.py."""

    def __init__(self, width: int, heads: int, *, act: type[nn.Module], eps: float) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        layers = [("c_fc", nn.Linear(width, 4 * width)), ("gelu", act()), ("c_proj", nn.Linear(4 * width, width))]
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


def resblocks(width: int, heads: int, *, act: type[nn.Module], eps: float) -> nn.Module:
    transformer = nn.Module()
    transformer.resblocks = nn.ModuleList(ResidualBlock(width, heads, act=act, eps=eps) for _ in range(2))
    return transformer


class OpenAI(nn.Module):
    """clip/model.py's CLIP of the test's sizes."""

    def __init__(self) -> None:
        super().__init__()
        visual, act, eps = nn.Module(), QuickGelu, 1e-5
        visual.conv1 = nn.Conv2d(3, 40, 16, 16, bias=False)
        visual.class_embedding = nn.Parameter(torch.zeros(40))
        visual.positional_embedding = nn.Parameter(torch.zeros(10, 40))
        visual.ln_pre, visual.ln_post = nn.LayerNorm(40), nn.LayerNorm(40)
        visual.transformer = resblocks(40, 5, act=act, eps=eps)
        visual.proj = nn.Parameter(torch.zeros(40, 24))
        self.visual = visual
        self.token_embedding = nn.Embedding(20, 32)
        self.positional_embedding = nn.Parameter(torch.zeros(8, 32))
        self.transformer = resblocks(32, 4, act=act, eps=eps)
        self.ln_final = nn.LayerNorm(32)
        self.text_projection = nn.Parameter(torch.zeros(32, 24))
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def forward(self, pixels: Tensor) -> Answer:
        v: Any = self.visual
        patches = v.conv1(pixels).flatten(2).mT
        x = torch.cat([v.class_embedding.expand(len(pixels), 1, -1), patches], dim=1)
        x = v.ln_pre(x + v.positional_embedding)
        for block in v.transformer.resblocks:
            x = block(x)
        image = v.ln_post(x[:, 0]) @ v.proj
        t = self.token_embedding(TEXTS) + self.positional_embedding
        mask = torch.full((8, 8), float("-inf"), dtype=t.dtype).triu(1)
        for block in self.transformer.resblocks:  # type: ignore[union-attr]
            t = block(t, mask)
        text = self.ln_final(t)[torch.arange(len(TEXTS)), TEXTS.argmax(dim=-1)] @ self.text_projection
        return {
            "tokens": v.ln_post(x),
            "embedding": image,
            "text_embedding": text,
            "similarity": self.logits(image, text),
        }

    def logits(self, image: Tensor, text: Tensor) -> Tensor:
        image, text = (part / part.norm(dim=1, keepdim=True) for part in (image, text))
        return self.logit_scale.exp() * image @ text.t()


def write_openai(folder: Path) -> Foreign:
    """As a state_dict; timm's own filter for these files reads the image half to the same answers."""
    import timm
    from timm.models.vision_transformer import checkpoint_filter_fn

    module = randomise(OpenAI())
    sizes = {"input_resolution": 48, "context_length": 8, "vocab_size": 20}
    state = {**module.state_dict(), **{name: torch.tensor(size) for name, size in sizes.items()}}
    name = bare_file(folder, state)
    arguments: dict[str, Any] = {"img_size": 48, "patch_size": 16, "embed_dim": 40, "depth": 2, "num_heads": 5}
    theirs = timm.create_model("vit_base_patch32_clip_quickgelu_224", num_classes=24, **arguments).eval()
    theirs.load_state_dict(checkpoint_filter_fn(dict(state), theirs))
    pixels = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        assert relative(theirs(pixels), module(pixels)["embedding"]) < 1e-5
    text = TextSpec(
        vocab_size=20, context_length=8, embed_dim=32, depth=2, num_heads=4, mlp_dim=128, pool="highest", end_token=0
    )
    spec = ClipSpec(
        image_size=48,
        embed_dim=40,
        depth=2,
        num_heads=5,
        mlp_dim=160,
        pre_norm=True,
        activation="quick_gelu",
        norm_eps=1e-5,
        projection_dim=24,
        text=text,
    )
    return Foreign(module, lambda module, pixels: module(pixels), name, spec, texts=TEXTS)


class OpenClipSiglip(nn.Module):
    """open_clip's CustomTextCLIP with timm's SigLIP tower, of the test's sizes."""

    def __init__(self) -> None:
        import timm

        super().__init__()
        sizes: dict[str, Any] = {"img_size": 48, "embed_dim": 40, "depth": 2, "num_heads": 5}
        self.visual = nn.Module()
        self.visual.trunk = timm.create_model(
            "vit_base_patch16_siglip_224", num_classes=0, dynamic_img_size=True, **sizes
        )
        text = nn.Module()
        text.token_embedding = nn.Embedding(20, 32)
        text.positional_embedding = nn.Parameter(torch.zeros(8, 32))
        text.transformer = resblocks(32, 4, act=nn.GELU, eps=1e-6)
        text.ln_final, text.text_projection = nn.LayerNorm(32, eps=1e-6), nn.Linear(32, 40)
        self.text = text
        self.logit_scale, self.logit_bias = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def forward(self, pixels: Tensor) -> Answer:
        trunk: Any = self.visual.trunk
        t: Any = self.text
        x = t.token_embedding(TEXTS) + t.positional_embedding
        for block in t.transformer.resblocks:
            x = block(x)
        image, text = trunk(pixels), t.text_projection(t.ln_final(x)[:, -1])
        normed = [part / part.norm(dim=1, keepdim=True) for part in (image, text)]
        similarity = self.logit_scale.exp() * normed[0] @ normed[1].T + self.logit_bias
        tokens = trunk.forward_features(pixels)
        return {"tokens": tokens, "embedding": image, "text_embedding": text, "similarity": similarity}


def write_openclip(folder: Path) -> Foreign:
    module = randomise(OpenClipSiglip())
    text = TextSpec(
        vocab_size=20,
        context_length=8,
        embed_dim=32,
        depth=2,
        num_heads=4,
        mlp_dim=128,
        causal=False,
        pool="last",
        end_token=0,
        output_bias=True,
        activation="gelu",
        norm_eps=1e-6,
    )
    spec = ClipSpec(
        image_size=48,
        embed_dim=40,
        depth=2,
        num_heads=5,
        mlp_dim=160,
        class_token=False,
        pool="attention",
        text=text,
        logit_bias=True,
    )
    return Foreign(
        module, lambda module, pixels: module(pixels), bare_file(folder, module.state_dict()), spec, texts=TEXTS
    )


KEY_BIAS = (r".*k_proj\.bias",)
COUNTS = (r"input_resolution", r"context_length", r"vocab_size")
UNREAD = r"vision_model\.(post_layernorm|head)\..*"
READ_ONLY = "its classifiers are only read"

ROWS = [
    row("CLIP", "CLIPModel", both_answer, partial(write_both, projection_dim=24), unseen=KEY_BIAS, gradients=True),
    row(
        "CLIP, reading the highest id",
        "CLIPModel",
        both_answer,
        partial(write_both, projection_dim=24, text={"eos_token_id": 2}),
        unseen=KEY_BIAS,
    ),
    row(
        "CLIP's image half",
        "CLIPVisionModelWithProjection",
        half_answer,
        partial(write_image, projection_dim=24),
        unseen=KEY_BIAS,
    ),
    row("CLIP's image tower", "CLIPVisionModel", image_answer, write_image, unseen=KEY_BIAS),
    Row(
        "CLIP's image tower",
        "transformers 4",
        write_older_image,
        partial(back, kind="CLIPVisionModel", answer=image_answer),
        "hf",
        sizes=OTHER,
        unseen=(*KEY_BIAS, r".*position_ids"),
    ),
    row(
        "SigLIP",
        "SiglipModel",
        both_answer,
        partial(write_both, text={"projection_size": 40}),
        unseen=KEY_BIAS,
        gradients=True,
    ),
    row("SigLIP's image tower", "SiglipVisionModel", image_answer, write_image, unseen=KEY_BIAS),
    Row(
        "CLIP, classifier",
        "transformers",
        partial(write_both, kind="CLIPForImageClassification", answer=clip_classifier_answer, num_labels=11),
        why=READ_ONLY,
        unseen=(*KEY_BIAS, UNREAD),
    ),
    Row(
        "SigLIP, classifier",
        "transformers",
        partial(write_both, kind="SiglipForImageClassification", answer=siglip_classifier_answer, num_labels=11),
        why=READ_ONLY,
        sizes=OTHER,
        unseen=(*KEY_BIAS, UNREAD),
    ),
    *(
        Row(family, "timm", partial(write_timm, architecture=name), timm_back, "timm", sizes=OTHER)
        for family, name in (
            ("CLIP's image tower", "vit_base_patch32_clip_224"),
            ("CLIP's image tower, QuickGELU", "vit_base_patch32_clip_quickgelu_224"),
            ("SigLIP's image tower", "vit_base_patch16_siglip_224"),
        )
    ),
    Row(
        "CLIP",
        "OpenAI",
        write_openai,
        partial(back, kind="CLIPModel", answer=both_answer),
        "hf",
        unseen=COUNTS,
    ),
    Row(
        "SigLIP",
        "OpenCLIP",
        write_openclip,
        partial(back, kind="SiglipModel", answer=both_answer),
        "hf",
        sizes=OTHER,
    ),
]
