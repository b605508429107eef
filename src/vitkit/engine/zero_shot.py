"""Classes named by texts: labels put into templates, embedded by the text tower, one embedding for each class.

"Learning Transferable Visual Models From Natural Language Supervision" (Radford et al., 2021, arXiv:2103.00020),
sections 3.1.2 and 3.1.4: a class is the mean of its prompts' embeddings, each scaled to length 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vitkit.checkpoint.card import Card
from vitkit.errors import CheckpointError, ConfigError, list_faults
from vitkit.model.clip import Clip
from vitkit.text.tokenizer import Tokenizer

__all__ = ["TEMPLATE", "check_labels", "embed_labels", "embed_texts", "tokenizer_of"]

TEMPLATE = "This is a photo of {}."
"""What a label is put into where nothing is said: transformers' zero-shot-image-classification pipeline's."""
TEXTS_AT_ONCE = 64


def tokenizer_of(module: object, card: Card, origin: str) -> tuple[Clip, Tokenizer]:
    """A module of two towers, and its tokenizer; ConfigError or CheckpointError where it has none."""
    if not isinstance(module, Clip) or module.spec.text is None:
        raise ConfigError(
            f"{origin} has no text tower, so texts mean nothing to it: its classes are its own; for labels of one's "
            "own load a model of both towers, such as openai/clip-vit-base-patch32"
        )
    text = module.spec.text
    # What reads the last token of a text sees the padding too: as much of it as in training.
    return module, Tokenizer(card.tokenizer, length=text.context_length, fill=text.pool == "last", origin=origin)


def embed_texts(module: Clip, tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """Embeddings of texts, [T, E], of any length, on the module's device and in its dtype."""
    assert module.spec.text is not None
    spec, device = module.spec.text, next(module.parameters()).device
    found = []
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        ids = torch.from_numpy(tokenizer(texts[start : start + TEXTS_AT_ONCE]))
        if ids.max() >= spec.vocab_size or (spec.pool == "end" and not (ids == spec.end_token).any(dim=1).all()):
            raise CheckpointError(
                f"{tokenizer.origin}: the tokenizer isn't this text tower's: it gives ids up to {int(ids.max())} for "
                f"{spec.vocab_size} tokens, and a text must end with {spec.end_token}; fetch the model's own files"
            )
        with torch.no_grad():
            found.append(module.embed_text(ids.to(device)))
    return torch.cat(found) if found else torch.zeros(0, module.spec.feature_dim)


def check_labels(labels: Sequence[str], templates: Sequence[str]) -> None:
    """Raises ConfigError for labels and templates that can't be what was meant, all at once."""
    for name, given in (("labels", labels), ("templates", templates)):
        if isinstance(given, str):
            raise ConfigError(f"{name} is the text {given!r}; give a list of texts")
    faults = [f"label {label!r} is there twice" for label in dict.fromkeys(labels) if labels.count(label) > 1]
    faults += ["a label is empty"] if not all(label.strip() for label in labels) else []
    faults += [f"template {template!r} has no {{}} for the label" for template in templates if "{}" not in template]
    faults += ["there are no labels"] if not labels else []
    faults += [f"there are no templates; the usual one is {TEMPLATE!r}"] if not templates else []
    if faults:
        raise ConfigError(list_faults(faults))


def embed_labels(module: Clip, tokenizer: Tokenizer, labels: Sequence[str], templates: Sequence[str]) -> Tensor:
    """One embedding for each label, [K, E]: the mean over the templates, of texts scaled to length 1."""
    prompts = [template.replace("{}", label) for label in labels for template in templates]
    texts = F.normalize(embed_texts(module, tokenizer, prompts).float(), dim=-1)
    return texts.reshape(len(labels), len(templates), -1).mean(dim=1)
