"""The two towers: counts, the text tower written out plainly, and what neither half can do alone."""

import inspect
from typing import Any

import pytest
import torch

from small import SMALL, randomise, relative
from vitkit import ConfigError
from vitkit.config import from_dict, to_dict
from vitkit.model.build import build, build_empty, model_spec
from vitkit.model.clip import Clip
from vitkit.model.spec import ClipFields, ClipSpec, ModelSpec
from vitkit.model.text import TextTransformer
from vitkit.model.text_spec import TextSpec

TEXT: dict[str, Any] = {
    "vocab_size": 12,
    "context_length": 6,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "mlp_dim": 24,
    "end_token": 11,
}
IMAGE: dict[str, Any] = {**SMALL, "num_classes": 0, "projection_dim": 20}


def small_clip(**changes: Any) -> Clip:
    """A random model of both towers."""
    clip = Clip(**{**IMAGE, "text": TextSpec(**TEXT), **changes})
    randomise(clip)
    return clip


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"text": None},
        {"text": None, "num_classes": 5},
        {"text": TextSpec(**{**TEXT, "output_bias": True}), "logit_bias": True, "projection_dim": 0},
        {"pool": "attention", "class_token": False, "pre_norm": True},
    ],
)
def test_the_closed_form_count_is_the_modules_and_the_spec_survives_json(changes: dict[str, Any]) -> None:
    clip = small_clip(**changes)
    assert clip.spec.num_parameters() == sum(parameter.numel() for parameter in clip.parameters())
    model = model_spec(clip.spec)
    assert from_dict(ModelSpec, to_dict(model), origin="test") == model
    assert build(model).state_dict().keys() == clip.state_dict().keys()


def test_openais_smallest_model_has_the_published_151_million_parameters() -> None:
    spec = ClipSpec(patch_size=32, pre_norm=True, projection_dim=512, text=TextSpec())
    assert sum(parameter.numel() for parameter in build_empty(model_spec(spec)).parameters()) == 151_277_313


def test_the_keywords_are_the_specs_fields() -> None:
    assert ClipFields.__optional_keys__ == set(inspect.signature(ClipSpec).parameters)


def plain_text(tower: TextTransformer, ids: list[int], speaker: int) -> torch.Tensor:
    """One text, one head and one token at a time, in float64: only tokens up to itself where causal."""
    spec, state = tower.spec, {name: tensor.double() for name, tensor in tower.state_dict().items()}

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        deviation = (centred.pow(2).mean(-1, keepdim=True) + spec.norm_eps).sqrt()
        return centred / deviation * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0)

    z = torch.stack([state["token_embedding.weight"][t] + state["pos_embed"][0, n] for n, t in enumerate(ids)])
    width = spec.embed_dim // spec.num_heads
    for i in range(spec.depth):
        q, k, v = linear(norm(z, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv").split(spec.embed_dim, dim=-1)
        rows = []
        for n in range(len(ids)):
            seen = n + 1 if spec.causal else len(ids)
            heads = [slice(a * width, (a + 1) * width) for a in range(spec.num_heads)]
            rows.append(torch.cat([(q[n, a] @ k[:seen, a].T / width**0.5).softmax(-1) @ v[:seen, a] for a in heads]))
        z = z + linear(torch.stack(rows), f"blocks.{i}.attn.proj")
        hidden = linear(norm(z, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")
        z = z + linear(hidden * torch.sigmoid(1.702 * hidden), f"blocks.{i}.mlp.fc2")
    return linear(norm(z[speaker], "norm"), "projection")


@pytest.mark.parametrize(
    ("changes", "ids", "speaker"),
    [
        ({}, [1, 2, 11, 11, 11], 2),
        ({"end_token": 3}, [1, 3, 11, 3], 1),
        ({"pool": "highest"}, [1, 3, 9, 0], 2),
        ({"pool": "last", "causal": False, "output_bias": True}, [1, 3, 11, 3, 0, 0], 5),
    ],
)
def test_a_texts_embedding_is_the_speaking_tokens_written_out(
    changes: dict[str, Any], ids: list[int], speaker: int
) -> None:
    tower = small_clip(text=TextSpec(**{**TEXT, **changes})).text
    assert tower is not None
    expected = plain_text(tower, ids, speaker)
    assert relative(tower(torch.tensor([ids]))[0].double(), expected) < 1e-5


def test_similarity_is_the_scaled_cosine_with_its_bias() -> None:
    clip = small_clip(logit_bias=True)
    images, texts = torch.randn(2, 20), torch.randn(3, 20)
    assert clip.logit_scale is not None and clip.logit_bias is not None
    for b in range(2):
        for t in range(3):
            cosine = torch.cosine_similarity(images[b], texts[t], dim=0)
            expected = cosine * clip.logit_scale.exp() + clip.logit_bias
            torch.testing.assert_close(clip.similarity(images, texts)[b, t], expected)


def test_what_a_tower_cant_do_is_said() -> None:
    with pytest.raises(ConfigError, match="no text tower"):
        small_clip(text=None).embed_text(torch.zeros(1, 3, dtype=torch.int64))
    with pytest.raises(ConfigError, match="N from 1 to 6"):
        small_clip().embed_text(torch.zeros(1, 7, dtype=torch.int64))
    with pytest.raises(ConfigError, match="end_token 12 is beyond vocab_size 12"):
        TextSpec(**{**TEXT, "end_token": 12})
    with pytest.raises(ConfigError, match="it needs a text tower"):
        small_clip(text=None, logit_bias=True)
    with pytest.raises(ConfigError, match="text is 3, not a TextSpec"):
        small_clip(text=3)


def test_a_native_folder_keeps_both_towers(tmp_path: Any) -> None:
    import vitkit
    from small import PREPROCESS

    clip = small_clip()
    vitkit.save(clip, tmp_path / "m", preprocess=PREPROCESS)
    again = vitkit.load(tmp_path / "m", device="cpu")
    assert isinstance(again.module, Clip)
    pixels, ids = torch.randn(1, 3, 32, 32), torch.tensor([[1, 2, 11]])
    with torch.no_grad():
        torch.testing.assert_close(again.module.embed(pixels), clip.embed(pixels))
        torch.testing.assert_close(again.module.embed_text(ids), clip.embed_text(ids))
