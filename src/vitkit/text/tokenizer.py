"""A checkpoint's own tokenizer: its files, read with the tokenizers library, give the token ids transformers gives.

Checked against transformers 5.23: CLIPTokenizer, SiglipTokenizer (whose text is canonicalised as big_vision's
evaluators/proj/image_text/prompt_engineering.py does) and tokenizers that are nothing but their tokenizer.json; and
OpenCLIP's HFTokenizer (src/open_clip/tokenizer.py), but for its repair of wrongly decoded letters by ftfy.
"""

from __future__ import annotations

import json
import logging
import string
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vitkit.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    import tokenizers

__all__ = ["Tokenizer", "tokenizer_files"]

WHOLE, PARTS = "tokenizer.json", ("vocab.json", "merges.txt")
CONFIG, SPECIAL, OPENCLIP = "tokenizer_config.json", "special_tokens_map.json", "open_clip_config.json"
START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What CLIP takes for a word: clip/simple_tokenizer.py."""

logger = logging.getLogger("vitkit")


def tokenizer_files(names: Collection[str]) -> list[str]:
    """Those of a folder's file `names` that its tokenizer is made of; none where it has no tokenizer we can read."""
    if WHOLE not in names and not set(PARTS) <= set(names):
        return []
    model = (WHOLE,) if WHOLE in names else PARTS
    return [name for name in (*model, CONFIG, SPECIAL, OPENCLIP) if name in names]


class Tokenizer:
    """Texts to token ids, as `files` (name to content, see `tokenizer_files`) say.

    A text has at most `length` tokens, or as many as the files allow if that is less; a longer one keeps its beginning
    and its end token, with a warning. Shorter ones are padded to the longest, or, with `fill`, to the full length.
    Raises CheckpointError, naming `origin`, for files that are missing or damaged.
    """

    def __init__(self, files: Mapping[str, bytes], *, length: int, fill: bool, origin: str) -> None:
        if not tokenizer_files(files):
            raise CheckpointError(
                f"{origin}: it holds no tokenizer, which texts need ({WHOLE}, or {' and '.join(PARTS)}); put the "
                f"{WHOLE} of the model's published repository into its folder (a bare weight file: convert it first)"
            )
        config = {**_object(files, SPECIAL, origin), **_object(files, CONFIG, origin)}
        self.origin = origin
        self._clean = _cleaning(config, _object(files, OPENCLIP, origin), origin)
        self._model = _build(files, origin)
        self._length = min(length, config.get("model_max_length") or length)
        ids = self._model.encode("").ids
        pad = self._model.token_to_id(_content(config.get("pad_token")) or "")
        if pad is None and not ids:
            raise CheckpointError(
                f"{origin}: the tokenizer names no padding token (pad_token); {WHOLE} must be the model's"
            )
        # Where nothing else is said, transformers' classes for CLIP and SigLIP pad with the token that ends a text.
        pad = ids[-1] if pad is None else pad
        side = config.get("padding_side") or (self._model.padding or {}).get("direction", "right")
        self._model.enable_truncation(self._length)
        self._model.enable_padding(direction=side, pad_id=pad, length=self._length if fill else None)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Token ids, int64 [T, N], of T texts."""
        found = self._model.encode_batch([self._clean(text) for text in texts])
        for text, encoding in zip(texts, found, strict=True):
            if encoding.overflowing:
                logger.warning("%s: %r has more than %d tokens; its end is left out", self.origin, text, self._length)
        return np.array([encoding.ids for encoding in found], np.int64)


def _build(files: Mapping[str, bytes], origin: str) -> tokenizers.Tokenizer:
    """The tokenizer of tokenizer.json, else CLIP's of its vocabulary and merges."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ConfigError("texts need the tokenizers library: pip install 'vitkit[text]'") from None
    try:
        if WHOLE in files:
            return Tokenizer.from_buffer(files[WHOLE])
        vocab, merges = (files[name].decode("utf-8") for name in PARTS)
        return _clip(json.loads(vocab), [line for line in merges.splitlines() if not line.startswith("#version")])
    except Exception as error:  # the library raises Exception itself
        names = " or ".join([WHOLE] if WHOLE in files else PARTS)
        raise CheckpointError(f"{origin}: {names} is damaged ({error}); fetch it again") from error


def _clip(vocab: dict[str, int], merges: Sequence[str]) -> tokenizers.Tokenizer:
    """CLIP's byte-level BPE, as transformers' CLIPTokenizer builds it."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    pairs = [(first, second) for first, second in (line.split() for line in merges if line.strip())]
    made = Tokenizer(models.BPE(vocab, pairs, unk_token=END, continuing_subword_prefix="", end_of_word_suffix="</w>"))
    made.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    made.add_special_tokens([AddedToken(token, special=True) for token in (START, END)])
    made.post_processor = processors.RobertaProcessing(
        (END, vocab[END]), (START, vocab[START]), trim_offsets=False, add_prefix_space=False
    )
    return made


def _object(files: Mapping[str, bytes], name: str, origin: str) -> dict[str, Any]:
    """The JSON object in a file, empty where there is no such file."""
    try:
        return dict(json.loads(files.get(name, b"{}")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{origin}: {name} is no JSON object ({error}); fetch it again") from error


def _cleaning(config: Mapping[str, Any], openclip: Mapping[str, Any], origin: str) -> Callable[[str], str]:
    """What is done to a text before the tokenizer's own normalisation: it isn't in tokenizer.json."""
    if str(config.get("tokenizer_class")).removesuffix("Fast") == "SiglipTokenizer":
        return _canonical if config.get("do_lower_case", True) else _without_punctuation
    text = (openclip.get("model_cfg") or {}).get("text_cfg") or {}
    kind = (text.get("tokenizer_kwargs") or {}).get("clean")
    if kind not in CLEANING:
        known = ", ".join(map(str, CLEANING))
        raise CheckpointError(f"{origin}: clean {kind!r} isn't supported (open_clip_config.json); supported: {known}")
    return CLEANING[kind]


def _squeezed(text: str) -> str:
    """Every run of white space as one blank, none at the ends."""
    return " ".join(text.split())


def _without_punctuation(text: str) -> str:
    return _squeezed(text.translate(str.maketrans("", "", string.punctuation)))


def _canonical(text: str) -> str:
    """In lower case, without ASCII punctuation."""
    return _without_punctuation(text.lower())


CLEANING: Mapping[str | None, Callable[[str], str]] = {
    None: lambda text: text,
    "whitespace": _squeezed,
    "lower": lambda text: _squeezed(text).lower(),
    "canonicalize": lambda text: _canonical(text.replace("_", " ")),
}
"""OpenCLIP's words for it."""


def _content(token: Any) -> str | None:
    """A special token's text, which the files give plainly or as {"content": ...}."""
    return token.get("content") if isinstance(token, Mapping) else token
