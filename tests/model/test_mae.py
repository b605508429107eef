"""The masked autoencoder: counts, what is hidden stays hidden, the loss and pictures in plain words, other sizes."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

from small import PREPROCESS, SMALL, randomise, relative
from vitkit import ConfigError, VisionTransformer
from vitkit.config import from_dict, to_dict
from vitkit.model.build import build, build_empty, model_spec
from vitkit.model.mae import MaskedAutoencoder, patchify, unpatchify
from vitkit.model.spec import MaeFields, MaeSpec, ModelSpec

DECODER: dict[str, Any] = {"decoder_dim": 24, "decoder_depth": 3, "decoder_heads": 3, "decoder_mlp_dim": 40}


def small_mae(**changes: Any) -> MaskedAutoencoder:
    """A random model of 16 patches of 8."""
    mae = MaskedAutoencoder(**{**SMALL, "num_classes": 0, **DECODER, **changes})
    randomise(mae)
    return mae


def drawn(batch: int = 2, side: int = 32) -> tuple[Tensor, Tensor]:
    """Pixels [B, 3, side, side], and noise [B, N]."""
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(batch, 3, side, side, generator=generator)
    return pixels, torch.rand(batch, (side // 8) ** 2, generator=generator)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_classes": 5},
        {"qkv_bias": "none", "in_channels": 1, "norm_pix_loss": True},
        {"gated_mlp": True, "layer_scale": 0.1, "image_size": (32, 48)},
        {"pre_norm": True, "pool": "mean", "final_norm": "pooled"},
    ],
)
def test_the_closed_form_count_is_the_modules_and_the_spec_survives_json(changes: dict[str, Any]) -> None:
    mae = small_mae(**changes)
    assert mae.spec.num_parameters() == sum(parameter.numel() for parameter in mae.parameters())
    model = model_spec(mae.spec)
    assert from_dict(ModelSpec, to_dict(model), origin="test") == model
    assert build(model).state_dict().keys() == mae.state_dict().keys()


def test_the_keywords_are_the_specs_fields() -> None:
    assert MaeFields.__optional_keys__ == set(inspect.signature(MaeSpec).parameters)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"position": "rope"}, "table of positions"),
        ({"num_registers": 2}, "one prefix token"),
        ({"decoder_heads": 5}, "decoder_dim 24 is not a multiple of decoder_heads 5"),
        ({"decoder_dim": 30}, "decoder_dim 30 is not a multiple of 4"),
    ],
)
def test_contradictions_are_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        small_mae(**changes)


def test_hidden_pixels_change_nothing_and_any_seen_one_does() -> None:
    mae = small_mae()
    pixels, noise = drawn()
    with torch.no_grad():
        patches, mask = mae.reconstruct(pixels, noise=noise)
        assert mask.sum(dim=1).tolist() == [12, 12]
        assert all(noise[b][mask[b]].min() > noise[b][~mask[b]].max() for b in range(2))
        cut = patchify(pixels, 8)
        hidden = unpatchify(torch.where(mask[..., None], torch.full_like(cut, 9.0), cut), 8, (4, 4))
        assert torch.equal(mae.reconstruct(hidden, noise=noise).patches, patches)
        for place in (~mask[0]).nonzero().flatten().tolist():
            changed = cut.clone()
            changed[0, place, 5] += 1
            other = mae.reconstruct(unpatchify(changed, 8, (4, 4)), noise=noise).patches
            assert not torch.allclose(other[0], patches[0]) and torch.equal(other[1], patches[1])


@pytest.mark.parametrize(("ratio", "count"), [(0.0, 0), (0.5, 8), (0.75, 12), (0.9, 15)])
def test_a_share_of_the_patches_is_hidden_drawn_from_torchs_generator(ratio: float, count: int) -> None:
    mae, (pixels, _) = small_mae(), drawn()
    torch.manual_seed(4)
    first = mae.reconstruct(pixels, mask_ratio=ratio)
    assert first.mask.sum(dim=1).tolist() == [count, count]
    torch.manual_seed(4)
    assert torch.equal(mae.reconstruct(pixels, mask_ratio=ratio).mask, first.mask)


@pytest.mark.parametrize("asked", [{"mask_ratio": 1.0}, {"mask_ratio": -0.1}, {"noise": torch.rand(2, 15)}])
def test_a_wrong_share_or_noise_is_named(asked: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"allowed: a share from 0 to below 1, and \[2, 16\]"):
        small_mae().reconstruct(drawn()[0], **asked)


@pytest.mark.parametrize("normalised", [False, True])
def test_the_loss_is_its_definition_and_zero_for_the_picture_itself(normalised: bool) -> None:
    mae = small_mae(norm_pix_loss=normalised)
    pixels, noise = drawn()
    with torch.no_grad():
        found = mae.reconstruct(pixels, noise=noise)
    errors = []
    for b in range(2):
        for n in (n for n in range(16) if found.mask[b, n]):
            row, column = divmod(n, 4)
            square = (
                pixels[b, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].permute(1, 2, 0).flatten().double()
            )
            if normalised:
                square = (square - square.mean()) / (square.var() + 1e-6).sqrt()
            errors.append(float((found.patches[b, n].double() - square).square().mean()))
    assert float(mae.loss(pixels, found)) == pytest.approx(sum(errors) / 24, rel=1e-5)
    true = patchify(pixels, 8)
    scale = true.var(dim=-1, keepdim=True).add(1e-6).sqrt() if normalised else 1
    shift = true.mean(dim=-1, keepdim=True) if normalised else 0
    perfect = found._replace(patches=(true - shift) / scale)
    assert float(mae.loss(pixels, perfect)) == 0
    assert relative(mae.painted(pixels, perfect), pixels) < 1e-6


def test_only_hidden_patches_are_painted() -> None:
    mae = small_mae()
    pixels, noise = drawn()
    found = mae.reconstruct(pixels, noise=noise)
    painted = patchify(mae.painted(pixels, found), 8)
    assert torch.equal(painted[~found.mask], patchify(pixels, 8)[~found.mask])
    assert torch.equal(painted[found.mask], found.patches[found.mask])


def test_another_size_answers_as_the_model_resized_to_it() -> None:
    mae = small_mae()
    pixels, noise = drawn(side=48)
    model = model_spec(MaeSpec(**{**vars(mae.spec), "image_size": 48}))
    resized = build_empty(model)
    assert isinstance(resized, MaskedAutoencoder)
    resized.load_state_dict(mae.resized_state(mae.state_dict(), mae.spec, resized.spec), assign=True)
    expected = mae.reconstruct(pixels, noise=noise)
    found = resized.eval().reconstruct(pixels, noise=noise)
    assert torch.equal(found.patches, expected.patches) and torch.equal(found.mask, expected.mask)


def test_the_encoder_answers_the_same_and_shares_its_weights() -> None:
    mae = small_mae()
    mae.card = None
    encoder, (pixels, _) = mae.encoder(), drawn()
    assert type(encoder) is VisionTransformer and not encoder.training
    assert torch.equal(encoder(pixels), mae(pixels))
    with torch.no_grad():
        mae.cls_token.add_(1)  # type: ignore[union-attr]
    assert torch.equal(encoder(pixels), mae(pixels))


def test_positions_are_not_trained_and_everything_else_is(tmp_path: Any) -> None:
    mae = small_mae(num_classes=3)
    mae.save_pretrained(tmp_path / "mae", preprocess=PREPROCESS)
    loaded = MaskedAutoencoder.from_pretrained(tmp_path / "mae")
    for module in (mae, loaded):
        fixed = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
        assert fixed == {"pos_embed", "decoder.pos_embed"}
    pixels, noise = drawn()
    assert torch.equal(loaded.reconstruct(pixels, noise=noise).patches, mae.reconstruct(pixels, noise=noise).patches)
    assert {loaded.layer_of(name) for name, _ in loaded.decoder.named_parameters(prefix="decoder")} == {3}
