"""Zero-shot classification as transformers does it: token ids, similarities, probabilities; OpenCLIP's folders."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import vitkit
from hub_server import HubServer
from peers.families.clip import TEXTS, OpenAI, OpenClipSiglip
from peers.families.row import bare_file
from small import picture, randomise, relative
from texts import AWKWARD, END, clip_folder, clip_vocabulary, siglip_folder
from vitkit.checkpoint.identify import spec_from_openclip
from vitkit.model.clip import Clip
from vitkit.text.tokenizer import Tokenizer, tokenizer_files

pytestmark = pytest.mark.peer

LABELS = ["a cat", "two dogs", "the small bird"]


def ours(folder: Path, *, length: int, fill: bool) -> Tokenizer:
    files = {name: (folder / name).read_bytes() for name in tokenizer_files([f.name for f in folder.iterdir()])}
    return Tokenizer(files, length=length, fill=fill, origin="test")


def assert_alike(found: list[vitkit.Prediction], expected: list[vitkit.Prediction]) -> None:
    assert [p.class_name for p in found] == [p.class_name for p in expected]
    np.testing.assert_allclose([p.probability for p in found], [p.probability for p in expected], rtol=1e-6)


@pytest.fixture
def canonical(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """What transformers' SiglipTokenizer does to a text first; the library it imports for the rest isn't needed."""
    fake = ModuleType("sentencepiece")
    fake.SentencePieceProcessor = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentencepiece", fake)
    from transformers.models.siglip.tokenization_siglip import SiglipTokenizer

    plain = SimpleNamespace(
        do_lower_case=True, remove_punctuation=lambda text: SiglipTokenizer.remove_punctuation(None, text)
    )
    return lambda text: SiglipTokenizer.canonicalize_text(plain, text)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["tokenizer.json", "vocab.json and merges.txt"])
def test_clips_token_ids_are_transformers(tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture) -> None:
    from transformers import AutoTokenizer

    clip_folder(tmp_path)
    if form != "tokenizer.json":
        vocabulary, merges = clip_vocabulary()
        (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
        (tmp_path / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
        (tmp_path / "tokenizer.json").unlink()
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert type(theirs).__name__ == "CLIPTokenizer" and len(AWKWARD) > 30
    texts = [*AWKWARD, f"a {END} inside", "a <|STARTOFTEXT|> b"]
    expected = theirs(texts, padding=True, truncation=True, max_length=77, return_tensors="np").input_ids
    np.testing.assert_array_equal(ours(tmp_path, length=77, fill=False)(texts), expected)
    assert len(set(map(tuple, expected.tolist()))) > 30
    assert caplog.text.count("its end is left out") == 3


def test_siglips_token_ids_are_transformers(tmp_path: Path, canonical: Callable[[str], str]) -> None:
    from transformers import PreTrainedTokenizerFast

    siglip_folder(tmp_path)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), pad_token="</s>")
    texts = [canonical(text) for text in AWKWARD]
    assert texts != AWKWARD
    expected = theirs(texts, padding="max_length", truncation=True, max_length=64, return_tensors="np").input_ids
    np.testing.assert_array_equal(ours(tmp_path, length=64, fill=True)(AWKWARD), expected)
    assert expected.shape == (len(AWKWARD), 64)


def test_padding_is_where_and_what_the_files_say(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    siglip_folder(tmp_path)
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "left", "pad_token": "<pad>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**said, "model_max_length": 9}))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    expected = theirs(AWKWARD, padding="max_length", truncation=True, return_tensors="np").input_ids
    found = ours(tmp_path, length=64, fill=True)(AWKWARD)
    np.testing.assert_array_equal(found, expected)
    assert found.shape[1] == 9 and found[0, 0] == 0


def processor(family: str) -> Any:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    statistics = {"image_mean": [0.5, 0.4, 0.6], "image_std": [0.3, 0.2, 0.25]}
    if family == "clip":
        return CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}, **statistics)
    return SiglipImageProcessorPil(size={"height": 48, "width": 48}, **statistics)


def tokenizer(folder: Path) -> Any:
    from transformers import CLIPTokenizer, PreTrainedTokenizerFast

    if (folder / "tokenizer_config.json").read_text().find("SiglipTokenizer") < 0:
        return CLIPTokenizer.from_pretrained(folder)
    # The published repositories of SigLIP name no other input: its text tower was trained without a mask.
    given = {"pad_token": "</s>", "model_input_names": ["input_ids"]}
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **given)


FOLDERS = {"clip": clip_folder, "siglip": siglip_folder}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FOLDERS)
def test_logits_and_text_embeddings_are_transformers(tmp_path: Path, family: str) -> None:
    model = FOLDERS[family](tmp_path)
    vit = vitkit.load(tmp_path, exact=True)
    texts = [f"this is a photo of {label}" for label in LABELS]
    padding = {"padding": "max_length", "max_length": 64} if family == "siglip" else {"padding": True}
    ids = tokenizer(tmp_path)(texts, return_tensors="pt", **padding).input_ids
    pictures = [picture(60, 80, seed=1), picture(90, 50, seed=2)]
    pixels = torch.stack([vit.preprocess(each) for each in pictures])
    with torch.no_grad():
        out = model(input_ids=ids, pixel_values=pixels)
    labelled = vit.with_labels(LABELS, templates=["this is a photo of {}"])
    logits = torch.stack([torch.from_numpy(answer.logits) for answer in labelled.answers(pictures)])  # type: ignore[arg-type]
    assert relative(logits, out.logits_per_image) <= 1e-5
    unit = F.normalize(torch.from_numpy(vit.embed_text(texts)), dim=-1)
    assert relative(unit, out.text_embeds) <= 1e-5
    single = vit.embed_text(texts[0])
    assert single.shape == (vit.spec.feature_dim,)
    np.testing.assert_allclose(single, vit.embed_text(texts)[0], rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("template", [None, "a bad photo of the {}"])
@pytest.mark.parametrize("family", FOLDERS)
def test_probabilities_are_those_of_transformers_pipeline(tmp_path: Path, family: str, template: str | None) -> None:
    from transformers import pipeline

    model = FOLDERS[family](tmp_path)
    theirs = tokenizer(tmp_path)
    if family == "siglip" and template is None:
        template = "this is a photo of {}"  # without what SiglipTokenizer takes away, which this stand-in doesn't
    zero_shot = pipeline(
        "zero-shot-image-classification", model=model, tokenizer=theirs, image_processor=processor(family)
    )
    shown = picture(70, 100, seed=3)
    expected = zero_shot(shown, LABELS, **({} if template is None else {"hypothesis_template": template}))
    options = {} if template is None else {"templates": [template]}
    found = vitkit.load(tmp_path, exact=True).with_labels(LABELS, **options).classify(shown)
    assert [p.class_name for p in found] == [each["label"] for each in expected]
    np.testing.assert_allclose([p.probability for p in found], [each["score"] for each in expected], rtol=2e-5)
    total = sum(p.probability for p in found)
    assert (abs(total - 1) < 1e-9) == (family == "clip")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FOLDERS)
def test_a_native_folder_and_transformers_keep_the_tokenizer(tmp_path: Path, family: str) -> None:
    from transformers import AutoModel

    FOLDERS[family](tmp_path / "theirs")
    vitkit.convert(tmp_path / "theirs", tmp_path / "native")
    vitkit.convert(tmp_path / "native", tmp_path / "hf", to="hf")
    shown, answers = picture(seed=4), []
    for name in ("theirs", "native", "hf"):
        answers.append(vitkit.load(tmp_path / name, exact=True).with_labels(LABELS).classify(shown))
        for file in ("tokenizer.json", "tokenizer_config.json"):
            assert (tmp_path / name / file).read_bytes() == (tmp_path / "theirs" / file).read_bytes()
    for other in answers[1:]:
        assert_alike(other, answers[0])
    assert "tokenizer.json" in json.loads((tmp_path / "native/vitkit.json").read_text())["sha256"]
    AutoModel.from_pretrained(tmp_path / "hf")


OPENCLIP_TEXT = {"context_length": 8, "vocab_size": 20, "width": 32, "heads": 4, "layers": 2}
OPENCLIP: dict[str, tuple[Any, dict[str, Any]]] = {
    "clip": (
        OpenAI,
        {
            "embed_dim": 24,
            "quick_gelu": True,
            "vision_cfg": {"image_size": 48, "layers": 2, "width": 40, "head_width": 8, "patch_size": 16},
            "text_cfg": OPENCLIP_TEXT,
        },
    ),
    "siglip": (
        OpenClipSiglip,
        {
            "embed_dim": 40,
            "init_logit_bias": -10,
            "custom_text": True,
            "vision_cfg": {
                "image_size": 48,
                "timm_model_name": "vit_base_patch16_siglip_224",
                "timm_model_pretrained": False,
                "timm_model_kwargs": {"embed_dim": 40, "depth": 2, "num_heads": 5},
                "timm_pool": "map",
                "timm_proj": "none",
            },
            "text_cfg": {
                **OPENCLIP_TEXT,
                "hf_tokenizer_name": "org/model",
                "tokenizer_kwargs": {"clean": "canonicalize"},
                "no_causal_mask": True,
                "proj_bias": True,
                "pool_type": "last",
                "norm_kwargs": {"eps": 1e-6},
            },
        },
    ),
}
STATISTICS = {"mean": [0.5, 0.4, 0.6], "std": [0.3, 0.2, 0.25]}


def openclip_folder(folder: Path, model: dict[str, Any], state: dict[str, torch.Tensor], **preprocess: Any) -> Path:
    bare_file(folder, state, "open_clip_model.safetensors")
    content = {"model_cfg": model, "preprocess_cfg": {**STATISTICS, **preprocess}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("family", OPENCLIP)
def test_a_folder_of_openclip_needs_no_preset(tmp_path: Path, family: str) -> None:
    kind, config = OPENCLIP[family]
    module = randomise(kind())
    vit = vitkit.load(openclip_folder(tmp_path, config, module.state_dict()), exact=True)
    assert set(vit.report.origins.values()) == {"open_clip_config.json"}
    clip, pixels = vit.module, torch.randn(2, 3, 48, 48)
    assert isinstance(clip, Clip)
    with torch.no_grad():
        expected = module(pixels)
        images, texts = clip.embed(pixels), clip.embed_text(TEXTS)
        assert relative(images, expected["embedding"]) <= 1e-5
        assert relative(texts, expected["text_embedding"]) <= 1e-5
        assert relative(clip.similarity(images, texts), expected["similarity"]) <= 1e-5


def test_a_repository_of_openclip_is_found_on_the_hub(hub: HubServer, tmp_path: Path) -> None:
    kind, config = OPENCLIP["clip"]
    module = randomise(kind())
    openclip_folder(tmp_path / "both", config, module.state_dict())
    files = {file.name: file.read_bytes() for file in (tmp_path / "both").iterdir()}
    torch.save(module.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    pickled = {"open_clip_pytorch_model.bin": (tmp_path / "open_clip_pytorch_model.bin").read_bytes()}
    hub.add("org/both", {**files, **pickled})
    hub.add("org/pickled", {"open_clip_config.json": files["open_clip_config.json"], **pickled})
    vit, shown = vitkit.load("org/both", exact=True), picture()
    assert "open_clip_pytorch_model.bin" not in hub.downloads()
    with pytest.raises(vitkit.CheckpointError, match="vitkit convert org/pickled"):
        vitkit.load("org/pickled")
    vitkit.convert("org/pickled", tmp_path / "native")
    np.testing.assert_allclose(
        vitkit.load(tmp_path / "native", exact=True).embed(shown), vit.embed(shown), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_openclips_pixels_are_its_transforms(tmp_path: Path, mode: str, interpolation: str) -> None:
    """The steps of open_clip/transform.py, `image_transform`, in evaluation."""
    from torchvision import transforms

    kind, config = OPENCLIP["clip"]
    said = {"resize_mode": mode, "interpolation": interpolation}
    vit = vitkit.load(openclip_folder(tmp_path, config, randomise(kind()).state_dict(), **said))
    theirs = transforms.Compose(
        [
            transforms.Resize(48 if mode == "shortest" else (48, 48), transforms.InterpolationMode(interpolation)),
            *([transforms.CenterCrop(48)] if mode == "shortest" else []),
            transforms.ToTensor(),
            transforms.Normalize(**STATISTICS),
        ]
    )
    for shown in (picture(61, 97), picture(90, 53), picture(40, 41)):
        assert (vit.preprocess(shown) - theirs(shown)).abs().max() <= 1e-6


@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        ({"vision_cfg": {"attentional_pool": True, "ls_init_value": 0.1}}, ("'attentional_pool'", "'ls_init_value'")),
        ({"vision_cfg": {"timm_model_name": "vit_base_patch16_siglip_22"}}, ("vit_base_patch16_siglip_22",)),
        ({"text_cfg": {"hf_model_name": "roberta-base", "pool_type": "cls"}}, ("'hf_model_name'", "pool_type 'cls'")),
        ({"multimodal_cfg": {"width": 8}}, ("'multimodal_cfg'",)),
    ],
)
def test_what_openclip_configures_beyond_this_is_named(
    tmp_path: Path, changes: dict[str, Any], faults: tuple[str, ...]
) -> None:
    kind, config = OPENCLIP["clip"]
    changed = {key: {**config.get(key, {}), **value} for key, value in changes.items()}
    openclip_folder(tmp_path, {**config, **changed}, randomise(kind()).state_dict())
    with pytest.raises(vitkit.CheckpointError) as error:
        vitkit.load(tmp_path)
    assert all(fault in str(error.value) for fault in faults) and "open_clip_config.json" in str(error.value)


PUBLISHED_OPENCLIP: dict[str, tuple[dict[str, Any], float]] = {
    "ViT-B-32-quickgelu": (
        {
            "embed_dim": 512,
            "quick_gelu": True,
            "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
            "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
        },
        151.28,
    ),
    "ViT-H-14": (
        {
            "embed_dim": 1024,
            "vision_cfg": {"image_size": 224, "layers": 32, "width": 1280, "head_width": 80, "patch_size": 14},
            "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 1024, "heads": 16, "layers": 24},
        },
        986.11,
    ),
    "ViT-B-16-SigLIP": (
        {
            **OPENCLIP["siglip"][1],
            "embed_dim": 768,
            "vision_cfg": {
                "image_size": 224,
                "timm_model_name": "vit_base_patch16_siglip_224",
                "timm_model_pretrained": False,
                "timm_pool": "map",
                "timm_proj": "none",
            },
            "text_cfg": {
                **OPENCLIP["siglip"][1]["text_cfg"],
                "context_length": 64,
                "vocab_size": 32000,
                "width": 768,
                "heads": 12,
                "layers": 12,
            },
        },
        203.16,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED_OPENCLIP)
def test_openclips_published_configurations_have_their_published_sizes(name: str) -> None:
    config, millions = PUBLISHED_OPENCLIP[name]
    spec = spec_from_openclip(config, origin=name)
    assert round(spec.num_parameters() / 1e6, 2) == millions


def test_a_text_is_cleaned_as_openclip_does(tmp_path: Path) -> None:
    """open_clip/tokenizer.py, `canonicalize_text`: an underscore is a blank there, and nothing in transformers."""
    siglip_folder(tmp_path)
    clean = {"model_cfg": {"text_cfg": {"tokenizer_kwargs": {"clean": "canonicalize"}}}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(clean))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer"}))
    tokens = ours(tmp_path, length=64, fill=True)
    assert tokens(["A_cat, of   THE dog!"]).tolist() == tokens(["a cat of the dog"]).tolist()
    assert tokens(["a cat"]).tolist() != tokens(["acat"]).tolist()


@pytest.mark.filterwarnings("ignore")
def test_a_folder_of_transformers_own_processor_is_read_whole(tmp_path: Path) -> None:
    """CLIPProcessor keeps the image processor's settings in processor_config.json since transformers 5."""
    from transformers import CLIPProcessor

    clip_folder(tmp_path)
    before = vitkit.load(tmp_path, exact=True)
    (tmp_path / "preprocessor_config.json").unlink()
    CLIPProcessor(image_processor=processor("clip"), tokenizer=tokenizer(tmp_path)).save_pretrained(tmp_path)
    vit = vitkit.load(tmp_path, exact=True)
    assert vit.report.origins["preprocess"] == "processor_config.json"
    assert_alike(vit.with_labels(LABELS).classify(picture()), before.with_labels(LABELS).classify(picture()))
