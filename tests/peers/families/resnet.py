"""ResNet and BiT: as transformers, timm and torchvision write them, and in Google's .npz arrays, which timm reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from peers.families.google import NOT_WRITTEN
from peers.families.row import STATISTICS, Answer, Foreign, Row
from small import randomise
from vitkit.model.resnet_spec import ResNetSpec

SIDE, OTHERS = 48, ((33, 47), (64, 64), (96, 20))
COUNTS = (r".*num_batches_tracked",)
RESNET: Mapping[str, Any] = {"embedding_size": 8, "hidden_sizes": [32, 64, 128], "depths": [2, 1, 2]}
BASIC: Mapping[str, Any] = {**RESNET, "hidden_sizes": [8, 16, 32], "layer_type": "basic"}
BIT: Mapping[str, Any] = {"embedding_size": 32, "hidden_sizes": [128, 256], "depths": [2, 1]}


def lively(module: Any) -> Any:
    """Random parameters, and statistics near those of random pictures, so that ReLUs are open here and closed there.

    A group norm takes away what adds to a whole channel, which shows only where a ReLU came in between.
    """
    generator = torch.Generator().manual_seed(1)
    norms = [part for part in randomise(module).modules() if isinstance(part, nn.BatchNorm2d | nn.GroupNorm)]
    for part in norms:
        part.bias.data.abs_().add_(0.5)
        part.weight.data.mul_(1 if isinstance(part, nn.BatchNorm2d) else 5)
    batch_norms = [part for part in norms if isinstance(part, nn.BatchNorm2d)]
    for part in batch_norms:
        part.momentum = 0.9
    with torch.no_grad():
        module.train()(torch.randn(8, 3, SIDE, SIDE, generator=generator))
    for part in batch_norms:
        assert part.running_mean is not None and part.running_var is not None
        scatter = torch.rand(2, part.num_features, generator=generator)
        part.running_mean += (scatter[0] - 0.5) * part.running_var.sqrt()
        part.running_var *= 0.5 + scatter[1]
    return module.eval()


def answer(module: Any, pixels: Tensor) -> Answer:
    """Of transformers' classes, with a head or without."""
    out = module.base_model(pixels)
    logits = {"logits": module.classifier(out.pooler_output)} if hasattr(module, "classifier") else {}
    return {"tokens": out.last_hidden_state.flatten(2).mT, "embedding": out.pooler_output.flatten(1), **logits}


def write_transformers(folder: Path, *, kind: str, **config: Any) -> Foreign:
    """What says how large pictures are is the image processor alone."""
    import transformers

    made = getattr(transformers, f"{kind.partition('For')[0].removesuffix('Model')}Config")
    module = lively(getattr(transformers, kind)(made(num_labels=11, **config)))
    module.save_pretrained(folder)
    processor = {"feature_extractor_type": "ConvNextFeatureExtractor", "size": SIDE, "crop_pct": 0.875, **STATISTICS}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return Foreign(module, answer)


def back_transformers(folder: Path, *, kind: str) -> Foreign:
    import transformers

    return Foreign(getattr(transformers, kind).from_pretrained(folder).eval(), answer)


def timm_answer(module: Any, pixels: Tensor) -> Answer:
    """Tokens and logits of timm's classes, whose features are maps."""
    features = module.forward_features(pixels)
    return {"tokens": features.flatten(2).mT, "logits": module.forward_head(features)}


def write_timm(folder: Path, *, architecture: str, **arguments: Any) -> Foreign:
    import timm
    from timm.models import save_for_hf

    overlay = {"input_size": (3, SIDE, SIDE)}
    module = lively(timm.create_model(architecture, num_classes=11, pretrained_cfg_overlay=overlay, **arguments))
    save_for_hf(module, folder, safe_serialization=True)
    return Foreign(module, timm_answer)


def back_timm(folder: Path) -> Foreign:
    import timm

    return Foreign(timm.create_model(f"local-dir:{folder}", pretrained=True).eval(), timm_answer)


def torchvision_resnet(block: str) -> Any:
    from torchvision.models import resnet

    return resnet.ResNet(getattr(resnet, block), [1, 1, 1, 1], num_classes=11).eval()


def torchvision_answer(module: Any, pixels: Tensor) -> Answer:
    x = module.maxpool(module.bn1(module.conv1(pixels)).relu())
    x = module.layer4(module.layer3(module.layer2(module.layer1(x))))
    return {"tokens": x.flatten(2).mT, "logits": module(pixels)}


def write_torchvision(folder: Path, *, block: str, counted: bool) -> Foreign:
    """A .pth, as it was once written without the counts of batches; torchvision itself reads it."""
    state = lively(torchvision_resnet(block)).state_dict()
    folder.mkdir(parents=True)
    kept = {name: tensor for name, tensor in state.items() if counted or "num_batches" not in name}
    torch.save(kept, folder / "resnet.pth")
    module = torchvision_resnet(block)
    module.load_state_dict(torch.load(folder / "resnet.pth"))
    kind = "basic" if block == "BasicBlock" else "bottleneck"
    spec = ResNetSpec(image_size=SIDE, num_classes=11, block=kind, depths=(1, 1, 1, 1))
    return Foreign(module, torchvision_answer, "resnet.pth", spec)


def back_torchvision(folder: Path, *, block: str) -> Foreign:
    """What is written for timm has torchvision's names."""
    module = torchvision_resnet(block)
    module.load_state_dict(load_file(folder / "model.safetensors"))
    return Foreign(module, torchvision_answer)


def bit_arrays(model: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of timm's BiT as big_transfer names them: kernels HWIO, all counted from 1, units with two digits."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}

    def conv(part: nn.Conv2d, name: str) -> None:
        arrays[f"{name}/kernel"] = np.einsum("oihw->hwio", part.weight.detach().numpy())

    def norm(part: nn.GroupNorm, name: str) -> None:
        arrays[f"{name}/group_norm/gamma"] = part.weight.detach().numpy()
        arrays[f"{name}/group_norm/beta"] = part.bias.detach().numpy()

    conv(model.stem.conv, "resnet/root_block/standardized_conv2d")
    for stage, blocks in enumerate(model.stages, start=1):
        for unit, block in enumerate(blocks.blocks, start=1):
            name = f"resnet/block{stage}/unit{unit:02}"
            for n, letter in enumerate("abc", start=1):
                conv(getattr(block, f"conv{n}"), f"{name}/{letter}/standardized_conv2d")
                norm(getattr(block, f"norm{n}"), f"{name}/{letter}")
            if block.downsample is not None:
                conv(block.downsample.conv, f"{name}/a/proj/standardized_conv2d")
    norm(model.norm, "resnet")
    conv(model.head.fc, "resnet/head/conv2d")
    arrays["resnet/head/conv2d/bias"] = model.head.fc.bias.detach().numpy()
    return arrays


def write_arrays(folder: Path) -> Foreign:
    """The file of a random model, which a new one of timm reads by its own reader."""
    from timm.layers import StdConv2d
    from timm.models.resnetv2 import ResNetV2

    def made() -> Any:
        conv = partial(StdConv2d, eps=1e-8)
        sizes = {"layers": [2, 1], "channels": (128, 256), "stem_chs": 32, "num_classes": 11}
        return ResNetV2(stem_type="fixed", conv_layer=conv, **sizes).eval()

    folder.mkdir(parents=True)
    np.savez(folder / "bit.npz", **bit_arrays(lively(made())))  # type: ignore[arg-type]
    module = made()
    module.load_pretrained(str(folder / "bit.npz"))
    spec = ResNetSpec(image_size=SIDE, num_classes=11, block="preactivation", width=32, depths=(2, 1))
    return Foreign(module, timm_answer, "bit.npz", spec)


def transformers_row(family: str, kind: str, config: Mapping[str, Any], *, gradients: bool = False) -> Row:
    write, back = partial(write_transformers, kind=kind, **config), partial(back_transformers, kind=kind)
    return Row(family, "transformers", write, back, "hf", sizes=OTHERS, unseen=COUNTS, gradients=gradients)


def timm_row(family: str, architecture: str, **arguments: Any) -> Row:
    write = partial(write_timm, architecture=architecture, **arguments)
    return Row(family, "timm", write, back_timm, "timm", sizes=OTHERS, unseen=COUNTS)


def torchvision_row(family: str, layout: str, *, block: str, counted: bool) -> Row:
    write, back = partial(write_torchvision, block=block, counted=counted), partial(back_torchvision, block=block)
    return Row(family, layout, write, back, "timm", sizes=OTHERS, unseen=COUNTS)


LAYERS = {"layers": (1, 1, 1, 1)}
ROWS = [
    transformers_row("ResNet", "ResNetForImageClassification", RESNET, gradients=True),
    transformers_row("ResNet, without a head", "ResNetModel", RESNET),
    transformers_row("ResNet of basic blocks", "ResNetForImageClassification", BASIC),
    timm_row("ResNet", "resnet50", **LAYERS),
    timm_row("ResNet of basic blocks", "resnet18", **LAYERS),
    torchvision_row("ResNet", "torchvision", block="Bottleneck", counted=True),
    torchvision_row("ResNet of basic blocks", "torchvision, batches not counted", block="BasicBlock", counted=False),
    transformers_row("BiT", "BitForImageClassification", BIT, gradients=True),
    transformers_row("BiT, without a head", "BitModel", BIT),
    timm_row("BiT", "resnetv2_50x1_bit", stem_chs=32, channels=(128, 256, 512, 1024)),
    Row("BiT", "big_transfer", write_arrays, why=NOT_WRITTEN, sizes=OTHERS),
]
