"""ViT in Google's .npz arrays: vit_jax and big_vision. What reads them beside vitkit is timm."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peers.families.row import Answer, Foreign, Row, timm_answer
from small import randomise
from vitkit.model.spec import VitSpec

SIZES: dict[str, Any] = {"img_size": 48, "embed_dim": 40, "depth": 3, "num_heads": 5, "num_classes": 11}
NOT_WRITTEN = "nothing but its own training reads these arrays as they are"
VIT_JAX = {
    "norm1": "LayerNorm_0",
    "attn": "MultiHeadDotProductAttention_1",
    "norm2": "LayerNorm_2",
    "mlp": "MlpBlock_3",
    "pos_embed": "Transformer/posembed_input/pos_embedding",
}
BIG_VISION = {
    "norm1": "LayerNorm_0",
    "attn": "MultiHeadDotProductAttention_0",
    "norm2": "LayerNorm_1",
    "mlp": "MlpBlock_0",
    "pos_embed": "pos_embedding",
}


def google_arrays(model: Any, names: dict[str, str] = VIT_JAX, root: str = "") -> dict[str, np.ndarray[Any, Any]]:
    """The arrays Google would publish for this timm model, written out from the flax modules' shapes."""
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    D, A = model.embed_dim, model.blocks[0].attn.num_heads
    arrays: dict[str, np.ndarray[Any, Any]] = {}

    def norm(ours: str, theirs: str) -> None:
        arrays[f"{theirs}/scale"], arrays[f"{theirs}/bias"] = state[f"{ours}.weight"], state[f"{ours}.bias"]

    def dense(ours: str, theirs: str) -> None:
        arrays[f"{theirs}/kernel"], arrays[f"{theirs}/bias"] = state[f"{ours}.weight"].T, state[f"{ours}.bias"]

    def heads(weight: np.ndarray[Any, Any], bias: np.ndarray[Any, Any], theirs: str) -> None:
        arrays[f"{theirs}/kernel"] = np.einsum("adi->iad", weight.reshape(A, -1, D))  # weight [A * d, D]
        arrays[f"{theirs}/bias"] = bias.reshape(A, -1)

    def mixed(ours: str, theirs: str) -> None:
        arrays[f"{theirs}/kernel"] = np.einsum("oad->ado", state[f"{ours}.weight"].reshape(D, A, -1))
        arrays[f"{theirs}/bias"] = state[f"{ours}.bias"]

    if model.cls_token is not None:
        arrays["cls"] = state["cls_token"]
    arrays[names["pos_embed"]] = state["pos_embed"]
    arrays["embedding/kernel"] = np.einsum("oihw->hwio", state["patch_embed.proj.weight"])
    arrays["embedding/bias"] = state["patch_embed.proj.bias"]
    for i in range(len(model.blocks)):
        ours, theirs = f"blocks.{i}", f"Transformer/encoderblock_{i}"
        parts = zip(
            ("query", "key", "value"),
            np.split(state[f"{ours}.attn.qkv.weight"], 3),
            np.split(state[f"{ours}.attn.qkv.bias"], 3),
            strict=True,
        )
        for part, weight, bias in parts:
            heads(weight, bias, f"{theirs}/{names['attn']}/{part}")
        mixed(f"{ours}.attn.proj", f"{theirs}/{names['attn']}/out")
        norm(f"{ours}.norm1", f"{theirs}/{names['norm1']}")
        norm(f"{ours}.norm2", f"{theirs}/{names['norm2']}")
        dense(f"{ours}.mlp.fc1", f"{theirs}/{names['mlp']}/Dense_0")
        dense(f"{ours}.mlp.fc2", f"{theirs}/{names['mlp']}/Dense_1")
    norm("norm", "Transformer/encoder_norm")
    dense("head", "head")
    if model.attn_pool is not None:
        pool, attention = "MAPHead_0", "MAPHead_0/MultiHeadDotProductAttention_0"
        arrays[f"{pool}/probe"] = state["attn_pool.latent"]
        heads(state["attn_pool.q.weight"], state["attn_pool.q.bias"], f"{attention}/query")
        both = zip(np.split(state["attn_pool.kv.weight"], 2), np.split(state["attn_pool.kv.bias"], 2), strict=True)
        for part, (weight, bias) in zip(("key", "value"), both, strict=True):
            heads(weight, bias, f"{attention}/{part}")
        mixed("attn_pool.proj", f"{attention}/out")
        norm("attn_pool.norm", f"{pool}/LayerNorm_0")
        dense("attn_pool.mlp.fc1", f"{pool}/MlpBlock_0/Dense_0")
        dense("attn_pool.mlp.fc2", f"{pool}/MlpBlock_0/Dense_1")
    return {root + name: array for name, array in arrays.items()}


def stacked(arrays: dict[str, np.ndarray[Any, Any]], root: str) -> dict[str, np.ndarray[Any, Any]]:
    """The same with all blocks in one, as big_vision's scan over them leaves them."""
    first = f"{root}Transformer/encoderblock_0/"
    others = {name: array for name, array in arrays.items() if "encoderblock_" not in name}
    blocks = {
        name.replace("_0/", "/", 1): np.stack([arrays[name.replace("_0/", f"_{i}/", 1)] for i in range(3)])
        for name in arrays
        if name.startswith(first)
    }
    return {**others, **blocks}


def written(folder: Path, arrays: dict[str, np.ndarray[Any, Any]], spec: VitSpec, **options: Any) -> Foreign:
    """The arrays as a file, which timm's own reader reads."""
    import timm

    folder.mkdir(parents=True)
    np.savez(folder / "weights.npz", **arrays)  # type: ignore[arg-type]
    module = timm.create_model("vit_tiny_patch16_224", **SIZES, **options).eval()
    module.load_pretrained(str(folder / "weights.npz"))
    return Foreign(module, timm_answer, "weights.npz", spec)


def source(**options: Any) -> Any:
    import timm

    return randomise(timm.create_model("vit_tiny_patch16_224", **SIZES, **options))


def spec(**fields: Any) -> VitSpec:
    return VitSpec(image_size=48, embed_dim=40, depth=3, num_heads=5, mlp_dim=160, num_classes=11, **fields)


def write_vit_jax(root: str, folder: Path) -> Foreign:
    return written(folder, google_arrays(source(), root=root), spec())


def write_hidden_layer(folder: Path) -> Foreign:
    """With the pre-training head's hidden layer, which timm leaves out of its own."""
    arrays = google_arrays(source())
    generator = np.random.default_rng(0)
    kernel, bias = generator.normal(0, 0.2, (40, 40)), generator.normal(0, 0.2, 40)
    arrays |= {"pre_logits/kernel": kernel.astype(np.float32), "pre_logits/bias": bias.astype(np.float32)}

    def answer(module: Any, pixels: Tensor) -> Answer:
        tokens = module.forward_features(pixels)
        weight = torch.from_numpy(arrays["pre_logits/kernel"]).to(tokens)
        hidden = torch.tanh(tokens[:, 0] @ weight + torch.from_numpy(arrays["pre_logits/bias"]).to(tokens))
        return {"tokens": tokens, "logits": module.head(hidden)}

    foreign = written(folder, arrays, spec())
    return Foreign(foreign.module, answer, foreign.file, foreign.spec)


def write_class_token(prefix_positions: bool, folder: Path) -> Foreign:
    """big_vision's positions have no row for the class token."""
    arrays = google_arrays(source(no_embed_class=True), BIG_VISION, "params/")
    return written(folder, arrays, spec(prefix_positions=prefix_positions), no_embed_class=True)


def write_mean(folder: Path) -> Foreign:
    """bfloat16 arrays, which NumPy has no type for: timm reads them with jax, so it gets them as float32."""
    options = {"class_token": False, "global_pool": "avg", "fc_norm": False}
    arrays = {
        name: torch.from_numpy(array.copy()).bfloat16()
        for name, array in google_arrays(source(**options), BIG_VISION).items()
    }
    as_float32 = {name: tensor.float().numpy() for name, tensor in arrays.items()}
    foreign = written(folder, as_float32, spec(class_token=False, pool="mean"), **options)
    as_bytes = {name: tensor.view(torch.int16).numpy().view("V2") for name, tensor in arrays.items()}
    np.savez(folder / "weights.npz", **as_bytes)  # type: ignore[arg-type]
    return foreign


def write_two_towers(folder: Path) -> Foreign:
    """SigLIP's kind: pooled by attention, blocks in one array, a text tower beside."""
    options = {"class_token": False, "global_pool": "map"}
    arrays = stacked(google_arrays(source(**options), BIG_VISION, "params/img/"), "params/img/")
    text = {"params/txt/pos_embedding": np.ones((1, 4, 8), np.float32), "params/t": np.ones(1), "params/b": np.ones(1)}
    return written(folder, {**arrays, **text}, spec(class_token=False, pool="attention"), **options)


KEY_BIAS = (r".*/key/bias",)


def row(layout: str, write: Any, *unseen: str, note: str = "") -> Row:
    return Row("ViT", layout, write, why=NOT_WRITTEN, unseen=(*KEY_BIAS, *unseen), note=note)


ROWS = [
    row("vit_jax", partial(write_vit_jax, "")),
    row("vit_jax, training state", partial(write_vit_jax, "opt/target/")),
    row("vit_jax, hidden head layer", write_hidden_layer),
    row("big_vision, class token", partial(write_class_token, False)),
    row("big_vision, class token, read as one with a position", partial(write_class_token, True)),
    row("big_vision, mean of patches, bfloat16", write_mean),
    row("big_vision, stacked blocks, pooled by attention", write_two_towers, "params/txt/.*", "params/[tb]"),
]
