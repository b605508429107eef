# ruff: noqa: RUF001
"""Small tokenizers and two-tower models for the tests, written to a folder by the libraries that publish such models.

The tokenizers are trained on a few sentences; CLIP's vocabulary is in OpenAI's order: bytes, bytes that end a word,
merges, special tokens. The models are transformers', every parameter random.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from small import PREPROCESS, SMALL, randomise
from vitkit.checkpoint.card import Card
from vitkit.model.clip import Clip
from vitkit.model.text_spec import TextSpec

CORPUS = """
a photo of a cat
a photo of a dog
this is a photo of two cats, and of one dog
a bad photo of the cat
a drawing of the small bird
the origami animals
it's a cat's photo
naïve café, 日本語, 3 of 14
""".splitlines()

AWKWARD = [
    *("", " ", "  blanks   inside\tand\nlines  ", "a\u00a0cat\u2003and\u3000a dog", "\u200bzero\u200dwidth"),
    *("tab\x0band\x1cmore", "nai\u0308ve cafe\u0301", "\u202eright to left: שלום مرحبا"),
    *("photo " * 100, "x" * 400, "日" * 90),
    *"""a
a cat
A Photo Of A CAT
this is a photo of two cats, and of one dog.
naïve café
ﬁne ﬂuﬀ
ß İ ı ǅ Σίσυφος
日本語のテキスト
mixed 中文 and English
🐱🐶
𝔘𝔫𝔦𝔠𝔬𝔡𝔢
¿Qué? ¡Sí! «non»
I'm, you're, he'd, they'll, it's, we've
DON'T STOP
snake_case kebab-case a/b
!!!
?!.,;:()[]{}
100% of 3.14 €
"double" and 'single'
＂ｆｕｌｌ　ｗｉｄｔｈ＂
a<b>c&amp;d
back\\slash `tick` ~ ^ |""".splitlines(),
]
START, END = "<|startoftext|>", "<|endoftext|>"

IMAGE = {
    "hidden_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "intermediate_size": 96,
    "image_size": 48,
    "patch_size": 16,
}
TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 80}


def clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a byte-level BPE as CLIP's, trained on CORPUS."""
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.normalizer = normalizers.Lowercase()
    words = pre_tokenizers.Split(Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), "removed", invert=True)
    trained.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    trainer = trainers.BpeTrainer(vocab_size=400, end_of_word_suffix="</w>", show_progress=False)
    trained.train_from_iterator(CORPUS, trainer)
    merges = [(first, second) for first, second in json.loads(trained.to_str())["model"]["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges), START, END]
    return {entry: number for number, entry in enumerate(dict.fromkeys(entries))}, merges


def siglip_tokenizer() -> Tokenizer:
    """A Unigram tokenizer with the special tokens of T5's, whose vocabulary SigLIP took: <pad>, </s>, <unk>."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return made


def clip_folder(folder: Path, **changes: Any) -> Any:
    """transformers' CLIPModel, tokenizer and image processor in a folder; returns the model."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    vocabulary, merges = clip_vocabulary()
    CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77).save_pretrained(folder)
    ids = {"vocab_size": len(vocabulary), "bos_token_id": vocabulary[START], "eos_token_id": vocabulary[END]}
    config = CLIPConfig(vision_config=dict(IMAGE), text_config={**TEXT, **ids, **changes}, projection_dim=24)
    model = telling(CLIPModel(config))
    model.save_pretrained(folder)  # type: ignore[operator]
    write_processor(folder, {"image_processor_type": "CLIPImageProcessor", "size": 48, "crop_size": 48})
    return model


def siglip_folder(folder: Path, **changes: Any) -> Any:
    """transformers' SiglipModel, tokenizer and image processor in a folder; returns the model."""
    from transformers import SiglipConfig, SiglipModel

    tokenizer = siglip_tokenizer()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    said = {"tokenizer_class": "SiglipTokenizer", "do_lower_case": True, "model_max_length": 64}
    special = {"eos_token": "</s>", "pad_token": {"content": "</s>", "lstrip": True}, "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**said, **special}))
    ids = {"vocab_size": tokenizer.get_vocab_size(), "pad_token_id": 1, "bos_token_id": 1, "eos_token_id": 1}
    text = {**TEXT, **ids, "projection_size": 40, "max_position_embeddings": 64, **changes}
    model = telling(SiglipModel(SiglipConfig(vision_config=dict(IMAGE), text_config=text)))
    model.save_pretrained(folder)  # type: ignore[operator]
    write_processor(folder, {"image_processor_type": "SiglipImageProcessor", "size": {"height": 48, "width": 48}})
    return model


def telling(module: Any) -> Any:
    """Every parameter random, and a temperature at which similarities make a difference."""
    randomise(module)
    with torch.no_grad():
        module.logit_scale.fill_(3.0)
    return module


def two_towers(**changes: Any) -> Clip:
    """A random model of both towers of our own, its card with CLIP's small tokenizer in two files."""
    vocabulary, merges = clip_vocabulary()
    text = TextSpec(
        **{
            "vocab_size": len(vocabulary),
            "embed_dim": 32,
            "depth": 2,
            "num_heads": 4,
            "mlp_dim": 48,
            "end_token": vocabulary[END],
            **changes.pop("text", {}),
        }
    )
    clip = Clip(**{**SMALL, "num_classes": 0, "projection_dim": 24, "text": text, **changes})
    telling(clip)
    lines = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)])
    files = {"vocab.json": json.dumps(vocabulary).encode(), "merges.txt": lines.encode()}
    clip.card = Card(preprocess=PREPROCESS, tokenizer=files)
    return clip


def write_processor(folder: Path, content: dict[str, Any]) -> None:
    """The preprocessor_config.json of an image processor."""
    statistics = {"image_mean": [0.5, 0.4, 0.6], "image_std": [0.3, 0.2, 0.25]}
    (folder / "preprocessor_config.json").write_text(json.dumps({**content, **statistics}))
