"""What learns when not all does: LoRA's products, or the head alone; the result is an ordinary checkpoint."""

import copy
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import vitkit
from small import PREPROCESS, randomise, small_folder, small_model
from vitkit import ResNet, SwinTransformer
from vitkit.api.train import train
from vitkit.data.samples import Samples
from vitkit.data.sources.arrays import read_arrays
from vitkit.errors import ConfigError, Interrupted
from vitkit.model.base import ImageModel
from vitkit.model.lora import LoraSpec, add_lora, merge_lora
from vitkit.training.objective import Classification
from vitkit.training.optim import build_optimizer
from vitkit.training.spec import TrainSpec
from vitkit.training.state import Progress, find_checkpoint
from vitkit.training.tune import freeze

LORA = LoraSpec(rank=2, alpha=3.0)
SWIN: dict[str, Any] = {"image_size": 32, "patch_size": 4, "num_classes": 5, "embed_dim": 16, "window_size": 4}
SWIN |= {"depths": (1, 1), "num_heads": (2, 4)}
MODELS = {
    "vit": lambda: small_model(),
    "beit": lambda: small_model(position="relative", qkv_bias="qv"),
    "gated": lambda: small_model(gated_mlp=True, pool="attention"),
    "swin": lambda: SwinTransformer(**SWIN),
    "swin v2": lambda: SwinTransformer(**SWIN, version=2),
}


def adapted(name: str, *, mlp: bool = False) -> tuple[ImageModel, ImageModel]:
    """A model in float64 as it was, and with products that are no longer zero."""
    before = randomise(MODELS[name]()).double()
    after = copy.deepcopy(before)
    add_lora(after, LoraSpec(rank=2, alpha=3.0, mlp=mlp))
    return before, after.double()


def changed(old: nn.Module, new: nn.Module) -> set[str]:
    theirs = old.state_dict()
    return {name for name, tensor in new.state_dict().items() if not torch.equal(tensor, theirs[name])}


@pytest.mark.parametrize("mlp", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_product_is_added_to_every_blocks_attention(name: str, mlp: bool) -> None:
    before, after = adapted(name, mlp=mlp)
    pixels = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    assert torch.equal(after(pixels), before(pixels))
    products = {}
    for layer, part in after.named_modules():
        if layer.endswith("parametrizations.weight.0"):
            nn.init.normal_(part.b, std=0.1)
            assert part.a.shape[0] == part.b.shape[1] == 2
            products[layer.removesuffix("parametrizations.weight.0") + "weight"] = 3.0 / 2 * part.b @ part.a
    layers = ("attn.qkv.weight", "attn.proj.weight", *(("mlp.fc1.weight", "mlp.fc2.weight") if mlp else ()))
    in_blocks = {name for name in before.state_dict() if name.endswith(layers) and "blocks." in name}
    assert products.keys() == in_blocks
    logits = after(pixels)
    expected = before.state_dict()
    for weight, product in products.items():
        expected[weight] = expected[weight] + product
    before.load_state_dict(expected)
    torch.testing.assert_close(logits, before(pixels), rtol=1e-12, atol=1e-12)
    merge_lora(after)
    assert torch.equal(after(pixels), logits)
    assert after.state_dict().keys() == expected.keys() and type(after.head) is type(before.head)


def test_the_two_matrices_learn_as_the_papers_branch() -> None:
    """Equation 3: h = W x + (alpha / r) B A x, as a branch of its own."""
    _, model = adapted("vit")
    layer = model.get_submodule("blocks.0.attn.qkv")
    part = layer.parametrizations.weight[0]  # type: ignore[union-attr, index]
    nn.init.normal_(part.b)
    x = torch.randn(4, 32, dtype=torch.float64)
    a, b = (each.detach().clone().requires_grad_() for each in (part.a, part.b))
    weight, bias = (each.detach() for each in (layer.weight, layer.bias))  # type: ignore[operator, union-attr]
    frozen = weight - 1.5 * (b @ a).detach()
    branch = x @ frozen.T + bias + 1.5 * ((x @ a.T) @ b.T)
    out = layer(x)
    torch.testing.assert_close(out, branch)
    out.square().sum().backward()
    branch.square().sum().backward()
    torch.testing.assert_close(part.a.grad, a.grad)
    torch.testing.assert_close(part.b.grad, b.grad)


LEARNS = {
    "full": lambda name: True,
    "head": lambda name: name.startswith("head"),
    "lora": lambda name: name.startswith(("norm.", "head")) or name.endswith((".a", ".b")),
}


@pytest.mark.parametrize("tune", LEARNS)
def test_only_what_learns_is_in_the_optimiser(tune: str) -> None:
    model = small_model(distillation_token=True)
    spec = TrainSpec(tune=tune, lora=LORA if tune == "lora" else LoraSpec())  # type: ignore[arg-type]
    freeze(model, spec)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = build_optimizer(model, Classification(), spec).param_groups
    found = {names[id(parameter)] for group in groups for parameter in group["params"]}
    assert found == {name for name in names.values() if LEARNS[tune](name)}
    assert any("head_dist" in name for name in found)


def test_frozen_parts_are_as_in_use() -> None:
    model = small_model(dropout=0.5, drop_path=0.5)
    pixels = torch.randn(8, 3, 32, 32)
    still = model.embed(pixels)
    model.train()
    assert not torch.equal(model.embed(pixels), still)
    freeze(model, TrainSpec(tune="lora"))
    model.train()
    assert not model.patch_embed.training and model.head.training and model.blocks[0].drop_path.training
    model.requires_grad_(False).head.requires_grad_(True)
    model.pos_drop.p = 0.0
    model.train()
    assert torch.equal(model.embed(pixels), still)


def pictures() -> Samples:
    """Left halves bright or dark, by turns."""
    pixels = np.random.default_rng(0).integers(0, 60, (40, 32, 32, 3), dtype=np.uint8)
    pixels[::2, :, :16] += 150
    return read_arrays(pixels, np.arange(40) % 2, ["bright", "dark"])


def ending(run: Path) -> dict[str, torch.Tensor]:
    last = find_checkpoint(run / "checkpoints")
    assert last is not None
    files = [*last.glob("*.safetensors"), run / "model" / "model.safetensors"]
    return {f"{file.stem}/{name}": value for file in files for name, value in load_file(file).items()}


@pytest.mark.parametrize("tune", ["head", "lora"])
def test_a_run_leaves_an_ordinary_checkpoint_and_resumes_to_the_bit(tune: str, tmp_path: Path) -> None:
    start = small_folder(tmp_path / "start")
    settings: dict[str, Any] = {"tune": tune, "epochs": 4, "batch_size": 8, "lr": 0.1, "ema_decay": 0.5}
    settings["augment"] = {"flip": 0.0, "crop_scale": None}  # halves stay where they are
    if tune == "lora":
        settings["lora"] = {"rank": 2}

    def interrupt(progress: Progress, row: dict[str, float]) -> None:
        if progress.step == 7:
            signal.raise_signal(signal.SIGINT)

    whole = train(pictures(), model=start, settings=settings, output=tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(pictures(), model=start, settings=settings, output=tmp_path / "cut", on_step=interrupt)
    train(pictures(), model=start, resume=tmp_path / "cut")
    expected, found = ending(whole.folder), ending(tmp_path / "cut")
    assert found.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []

    old, new = vitkit.load(start, device="cpu").module, vitkit.load(whole.model, device="cpu").module
    moved = changed(old.reset_head(2), new)
    attention = {f"blocks.{i}.attn.{layer}.weight" for i in (0, 1) for layer in ("qkv", "proj")}
    heads = {"head.weight", "head.bias"}
    assert moved == (heads if tune == "head" else heads | attention | {"norm.weight", "norm.bias"})
    for name in attention & moved:
        assert torch.linalg.matrix_rank(new.state_dict()[name] - old.state_dict()[name], rtol=1e-3) <= 2
    assert whole.scores["accuracy"] > 0.8


def test_statistics_of_frozen_batch_norms_stay(tmp_path: Path) -> None:
    torch.manual_seed(0)
    resnet = ResNet(image_size=32, num_classes=2, block="basic", width=32, depths=(1, 1))
    resnet.eval().save_pretrained(tmp_path / "start", preprocess=PREPROCESS)
    settings = {"tune": "head", "epochs": 1, "batch_size": 8}
    result = train(pictures(), model=tmp_path / "start", settings=settings, output=tmp_path / "run")
    assert changed(resnet, vitkit.load(result.model, device="cpu").module) == {"head.weight", "head.bias"}
    with pytest.raises(ConfigError, match="LoRA changes attention, and a ResNet has none; tune it 'full' or its"):
        train(pictures(), model=tmp_path / "start", settings={"tune": "lora"}, output=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_contradictions_are_named_before_any_work(tmp_path: Path) -> None:
    said = "tune 'head' keeps what a checkpoint has learned; name one with --model; lora is set, but tune is 'head'"
    with pytest.raises(ConfigError, match=said):
        train(pictures(), settings={"tune": "head", "lora": {"rank": 4}}, output=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"lora: rank is 0; at least 1; alpha is -1.0; it must be larger than 0"):
        train(pictures(), settings={"lora": {"rank": 0, "alpha": -1.0}}, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
