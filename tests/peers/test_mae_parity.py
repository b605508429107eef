"""Reconstructions are those of transformers' ViTMAEForPreTraining and of Meta's modules, under the same masks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import vitkit
from peers.families.mae import MAE_SPEC, Meta, config, write_meta
from peers.families.row import transformers_folder
from small import PREPROCESS, picture, randomise, relative
from vitkit.checkpoint.families import LAYOUTS
from vitkit.checkpoint.families.mae import TRANSFORMERS_MAE
from vitkit.checkpoint.namemap import apply, invert
from vitkit.checkpoint.presets import PRESETS
from vitkit.checkpoint.read import Checkpoint, read
from vitkit.model.mae import MaskedAutoencoder, unpatchify

pytestmark = pytest.mark.peer

TOLERANCE, EXACT, NOTICED = 1e-5, 1e-10, 1e-7


def drawn() -> tuple[Tensor, Tensor]:
    """Pixels [2, 3, 32, 32] and noise [2, 16]."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 32, 32, generator=generator), torch.rand(2, 16, generator=generator)


def autoencoder(checkpoint: Checkpoint) -> MaskedAutoencoder:
    module = checkpoint.module()
    assert isinstance(module, MaskedAutoencoder)
    return module


@pytest.fixture
def theirs(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """A random ViTMAEForPreTraining, saved in tmp_path / "m"; the parameter gives its configuration."""
    import transformers

    changes = getattr(request, "param", {})
    return transformers_folder(tmp_path / "m", transformers.ViTMAEForPreTraining(config(**changes)))


def assert_equal(module: MaskedAutoencoder, theirs: Any, mask_ratio: float = 0.75) -> None:
    pixels, noise = drawn()
    with torch.no_grad():
        expected = theirs(pixels, noise=noise)
        found = module.reconstruct(pixels, mask_ratio=mask_ratio, noise=noise)
        loss = module.loss(pixels, found)
    assert torch.equal(found.mask, expected.mask.bool())
    assert relative(found.patches, expected.logits) < TOLERANCE
    assert relative(loss, expected.loss) < TOLERANCE


@pytest.mark.parametrize(
    "theirs", [{}, {"norm_pix_loss": True, "mask_ratio": 0.5}, {"qkv_bias": False}], indirect=True, ids=str
)
def test_reconstruction_mask_and_loss_are_transformers_and_written_back_they_still_are(
    theirs: Any, tmp_path: Path
) -> None:
    from transformers import ViTMAEForPreTraining

    module = autoencoder(read(tmp_path / "m"))
    assert module.spec.norm_pix_loss == theirs.config.norm_pix_loss
    assert_equal(module, theirs, theirs.config.mask_ratio)
    vitkit.convert(tmp_path / "m", tmp_path / "back", to="hf")
    back = ViTMAEForPreTraining.from_pretrained(tmp_path / "back").eval()
    back.config.mask_ratio = theirs.config.mask_ratio
    back.vit.embeddings.config.mask_ratio = theirs.config.mask_ratio
    assert_equal(module, back, theirs.config.mask_ratio)


@pytest.mark.parametrize("theirs", [{}, {"norm_pix_loss": True}], indirect=True, ids=str)
def test_from_file_to_pictures_it_is_what_transformers_makes_of_the_picture(theirs: Any, tmp_path: Path) -> None:
    """Put together as the authors' demo/mae_visualize.ipynb; normalised patches get their own statistics back."""
    from transformers import AutoImageProcessor

    vit = vitkit.load(tmp_path / "m", device="cpu")
    found = vit.reconstruct(picture(), seed=5, mask_ratio=theirs.config.mask_ratio)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "m", backend="pil")
    pixels = processor(picture(), return_tensors="pt")["pixel_values"]
    noise = torch.rand(1, 16, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = theirs(pixels, noise=noise)
    patches, true = expected.logits, theirs.patchify(pixels)
    if theirs.config.norm_pix_loss:
        patches = patches * (true.var(dim=-1, keepdim=True) + 1e-6) ** 0.5 + true.mean(dim=-1, keepdim=True)
    mask = expected.mask[..., None]
    pictures = {
        "original": true,
        "masked": true * (1 - mask),
        "reconstructed": patches,
        "painted": true * (1 - mask) + patches * mask,
    }
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    for name, parts in pictures.items():
        levels = 255 * (theirs.unpatchify(parts)[0] * std + mean).clip(0, 1)
        shown = torch.from_numpy(getattr(found, name)).permute(2, 0, 1)
        assert (levels - shown).abs().max() < 0.5 + 255 * TOLERANCE, name
    assert np.array_equal(found.mask.flatten(), expected.mask[0].bool().numpy())
    assert found.loss == pytest.approx(float(expected.loss), rel=TOLERANCE)


def test_gradients_are_transformers(theirs: Any, tmp_path: Path) -> None:
    module, theirs = autoencoder(read(tmp_path / "m")).double(), theirs.double()
    pixels, noise = (drawn_.double() for drawn_ in drawn())
    theirs(pixels, noise=noise).loss.backward()
    module.loss(pixels, module.reconstruct(pixels, noise=noise)).backward()
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    assert {name for name, _ in module.named_parameters()} - gradients.keys() == {"pos_embed", "decoder.pos_embed"}
    expected = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    total = sum(float(gradient.square().sum()) for gradient in expected.values())
    assert abs(sum(float(gradient.square().sum()) for gradient in gradients.values()) / total - 1) < EXACT


def test_every_spelling_of_the_decoders_blocks_is_read(theirs: Any, tmp_path: Path) -> None:
    module = autoencoder(read(tmp_path / "m"))
    layout = LAYOUTS["transformers/mae"]
    published = invert(layout.rules, module.state_dict(), module.spec, bound=layout.bound)
    written = load_file(tmp_path / "m" / "model.safetensors")
    in_memory = theirs.state_dict()
    kinds = {
        "decoder.decoder_layers.0.attention.attention.query.weight": published,
        "decoder.decoder_encoder.layer.0.attention.attention.query.weight": {
            name.replace("decoder_layers.", "decoder_encoder.layer."): tensor for name, tensor in published.items()
        },
        "decoder.decoder_layers.0.attention.q_proj.weight": in_memory,
    }
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    for name, tensors in [*kinds.items(), (next(iter(written)), written)]:
        assert name in tensors
        state = apply(layout.rules, tensors, module.spec, shapes, origin="file").state
        assert all(torch.equal(state[key], tensor) for key, tensor in module.state_dict().items())


def test_reconstruction_is_that_of_metas_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = write_meta(tmp_path / "m")
    preset = foreign.preset()
    assert preset is not None and isinstance(foreign.module, Meta)
    monkeypatch.setitem(PRESETS, "made_by_a_test", preset)  # type: ignore[arg-type]
    module = autoencoder(read(tmp_path / "m" / "mae.pth", preset="made_by_a_test", allow_pickle=True))
    pixels, noise = drawn()
    noise = noise[:1].expand(2, -1)
    keep = noise[0].argsort()[:4]
    with torch.no_grad():
        expected = foreign.module.decode(foreign.module.encode(pixels, keep), keep)
        found = module.reconstruct(pixels, noise=noise)
    assert relative(found.patches, expected) < TOLERANCE
    assert (~found.mask).nonzero()[:4, 1].tolist() == sorted(keep.tolist())


def test_no_tensor_of_a_file_is_read_past(theirs: Any, tmp_path: Path) -> None:
    module = autoencoder(read(tmp_path / "m")).double()
    pixels, noise = (drawn_.double() for drawn_ in drawn())
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    tensors = {name: tensor.double() for name, tensor in theirs.state_dict().items()}

    def predicted(changed: dict[str, Tensor]) -> Tensor:
        module.load_state_dict(apply(LAYOUTS["transformers/mae"].rules, changed, module.spec, shapes, origin="").state)
        with torch.no_grad():
            return module.reconstruct(pixels, noise=noise).patches

    expected = predicted(tensors)
    unseen = []
    for name, tensor in tensors.items():
        if relative(predicted({**tensors, name: 1.1 * tensor}), expected) < NOTICED:
            unseen.append(name)
    assert [name for name in unseen if not re.fullmatch(r".*k_proj\.bias", name)] == []


def test_pictures_are_put_together_as_in_transformers(theirs: Any) -> None:
    pixels, _ = drawn()
    patches = theirs.patchify(pixels)
    assert torch.equal(unpatchify(patches, 8, (4, 4)), theirs.unpatchify(patches))
    assert torch.equal(unpatchify(patches, 8, (4, 4)), pixels)


def test_a_new_one_starts_from_transformers_positions() -> None:
    from transformers import ViTMAEForPreTraining

    made = MaskedAutoencoder(**vars(MAE_SPEC))
    theirs = ViTMAEForPreTraining(config())
    theirs.vit.embeddings.patch_embeddings.projection._is_hf_initialized = False
    theirs.vit.embeddings.initialize_weights()
    theirs.decoder.initialize_weights(16)
    assert made.pos_embed is not None
    assert relative(made.pos_embed, theirs.vit.embeddings.position_embeddings) < 1e-6
    assert relative(made.decoder.pos_embed, theirs.decoder.decoder_pos_embed) < 1e-6


def test_the_encoder_alone_is_timms_vit(tmp_path: Path) -> None:
    import timm

    made = MaskedAutoencoder(**vars(MAE_SPEC))
    randomise(made)
    made.encoder().save_pretrained(tmp_path / "encoder", preprocess=PREPROCESS)
    theirs = timm.create_model(f"local-dir:{tmp_path / 'encoder'}", pretrained=True).eval()
    pixels, _ = drawn()
    with torch.no_grad():
        assert relative(made(pixels), theirs(pixels)) < TOLERANCE


@pytest.mark.parametrize("size", ["base", "large", "huge"])
def test_presets_are_transformers_and_timms_models_of_that_size(size: str) -> None:
    import timm
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    whole, encoder, tuned = (
        PRESETS[f"mae_{kind}_vit_{size}"].model.spec for kind in ("visualize", "pretrain", "finetuned")
    )
    patch = 14 if size == "huge" else 16
    with torch.device("meta"):
        autoencoder = ViTMAEForPreTraining(ViTMAEConfig(**TRANSFORMERS_MAE.config(whole)))
        vit = timm.create_model(f"vit_{size}_patch{patch}_224", num_classes=0)
        classifier = timm.create_model(f"vit_{size}_patch{patch}_224", num_classes=1000, global_pool="avg")
    for spec, module in ((whole, autoencoder), (encoder, vit), (tuned, classifier)):
        assert spec.num_parameters() == sum(parameter.numel() for parameter in module.parameters())
    defaults = ViTMAEConfig()
    for name in ("decoder_hidden_size", "decoder_num_hidden_layers", "decoder_num_attention_heads"):
        assert getattr(autoencoder.config, name) == getattr(defaults, name)
