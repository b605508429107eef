"""The Predictor: pictures in, answers out, through the checkpoint's own preprocessing and any engine."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitkit.checkpoint.card import Card
from vitkit.checkpoint.read import Report
from vitkit.engine import zero_shot
from vitkit.engine.pipeline import batched, begun, in_order
from vitkit.engine.protocol import Engine
from vitkit.errors import ConfigError, EngineError, ImageError
from vitkit.explain.explanation import Explanation, explain_picture
from vitkit.explain.reconstruction import ReconstructedPicture, reconstruct_picture
from vitkit.exports.metadata import Metadata, fingerprint
from vitkit.image.decode import Picture, describe
from vitkit.image.listing import list_pictures
from vitkit.image.preprocess import Fitted, Preprocess, apply
from vitkit.image.quick_fit import decode_for, fit_for
from vitkit.model.base import ImageModel
from vitkit.model.mae import MASK_RATIO

if TYPE_CHECKING:
    from vitkit.engine.choose import Choice
    from vitkit.model.clip import Clip
    from vitkit.model.spec import AnySpec
    from vitkit.text.tokenizer import Tokenizer

__all__ = ["Answer", "Prediction", "Predictor", "name_of", "probabilities"]

Prepared: TypeAlias = tuple[str, Fitted | ImageError]
"""A picture's name, and its crop or what kept it from being one."""

BATCH_SIZE = 8
"""Pictures run at once where nothing else is said: past it the CPU gains little, and memory stays small."""
LEAST_PART = 4
"""Pictures that a core alone runs at once, if there are so many: measured, faster than 8 and more; with fewer, the
weights would be read too often."""


@dataclass(frozen=True)
class Prediction:
    """One class and its probability."""

    class_name: str
    """The class's name; its index in digits where the checkpoint names no classes."""
    probability: float
    index: int
    class_id: str | None = None
    """An identifier such as a WordNet id, where the checkpoint has them."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What became of one picture: outputs, or the error that kept it from being answered."""

    picture: str
    """Its path or URL as it was given, else a short description."""
    logits: NDArray[np.float32] | None = None
    embedding: NDArray[np.float32] | None = None
    error: ImageError | None = None


def probabilities(logits: NDArray[np.float32], scores: str) -> NDArray[np.float64]:
    """Logits [..., K] to probabilities, in float64: softmax over the classes, or a sigmoid for each."""
    values = logits.astype(np.float64)
    if scores == "sigmoid":
        return np.asarray(np.exp(-np.logaddexp(0, -values)))
    values = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(values / values.sum(axis=-1, keepdims=True))


def best_first(chances: NDArray[np.float64], top: int) -> NDArray[np.int64]:
    """Indices of the `top` largest of chances [K], best first; equal ones in order."""
    if top < len(chances):
        # Only those are sorted: all of 21,843 would take 5 ms a picture, these 0.05.
        found = np.flatnonzero(chances >= np.partition(chances, -top)[-top])
    else:
        found = np.arange(len(chances))
    return found[np.argsort(-chances[found], kind="stable")[:top]]


class Predictor:
    """A model ready for use: `vitkit.load` makes one. Not changed by use; safe to call again and again."""

    def __init__(
        self,
        model: ImageModel | Metadata,
        engine: Engine,
        card: Card,
        report: Report,
        *,
        engine_choice: Choice | None = None,
        exact: bool = False,
    ) -> None:
        """`model` is the module, or what an export says of itself that the engine runs in its place.

        `engine_choice` says why it is this engine, where `load(engine="auto")` took it. `exact` prepares pictures to
        the bit as the model's own library does, not quickly (image.quick_fit).
        """
        if card.preprocess is None:
            raise ConfigError(f"{report.source}: the preprocessing is unknown; pass preprocess=vitkit.Preprocess(...)")
        self._model = model
        self.engine = engine
        self.card = card
        self.report = report
        self.engine_choice = engine_choice
        self.exact = exact
        self._preprocess: Preprocess = card.preprocess

    def __repr__(self) -> str:
        return f"Predictor({self.report.source!r}, {self.engine_name}, {self.spec.num_classes} classes)"

    @property
    def engine_name(self) -> str:
        """Engine, precision and device, and whether pictures are prepared exactly: named in every result."""
        return f"{self.engine.name}, exact" if self.exact else self.engine.name

    @property
    def module(self) -> ImageModel:
        """The plain torch module, in eval mode: pixels [B, C, H, W] to logits. ConfigError where an export is run."""
        if isinstance(self._model, Metadata):
            made_of = self.card.provenance
            raise ConfigError(
                f"{self.report.source} is an export, without the torch model that this needs: load the checkpoint it "
                f"was made of{f', {made_of.source}' if made_of else ''}"
            )
        return self._model

    @property
    def spec(self) -> AnySpec:
        """The model's spec."""
        return self._model.model.spec if isinstance(self._model, Metadata) else self._model.spec

    @property
    def fingerprint(self) -> str:
        """Of the weights: as `exports.metadata.fingerprint` says."""
        return self._model.fingerprint if isinstance(self._model, Metadata) else fingerprint(self._model)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The classes' names in the order of the outputs, where the checkpoint has them."""
        return self.card.class_names

    def classify(self, pictures: Picture | Iterable[Picture], *, top: int = 5, batch_size: int = BATCH_SIZE) -> Any:
        """The `top` predictions, best first: a list for one picture, a list of lists for several or for a folder.

        Raises ImageError for the first picture that can't be used (`answers` goes on instead), ConfigError where the
        model has no head or `top` isn't positive.
        """
        self.check_classifier(top)
        results = [self.predictions(answer, top=top) for answer in self._sure_answers(pictures, batch_size)]
        return results[0] if _is_one(pictures) else results

    def embed(self, pictures: Picture | Iterable[Picture], *, batch_size: int = BATCH_SIZE) -> NDArray[np.float32]:
        """What the last linear layer reads: float32 [D] for one picture, [n, D] for several or for a folder."""
        rows = [answer.embedding for answer in self._sure_answers(pictures, batch_size) if answer.embedding is not None]
        if _is_one(pictures):
            return rows[0]
        return np.stack(rows) if rows else np.zeros((0, self.spec.feature_dim), np.float32)

    def embed_text(self, texts: str | Iterable[str]) -> NDArray[np.float32]:
        """Texts in the space that pictures are embedded in: float32 [D] for one, [n, D] for several, of any length.

        Raises ConfigError for a model without a text tower, CheckpointError where its tokenizer isn't there.
        """
        several = [texts] if isinstance(texts, str) else list(texts)
        rows = zero_shot.embed_texts(*self._text_tower, several).float().cpu().numpy()
        return rows[0] if isinstance(texts, str) else rows

    def with_labels(self, labels: Sequence[str], *, templates: Sequence[str] = (zero_shot.TEMPLATE,)) -> Predictor:
        """The same model of two towers as a classifier whose classes are `labels`: zero-shot classification.

        Each label is put into every template in the place of {}, and the mean of their embeddings stands for it.
        Probabilities are over the labels, or one by one where the model has a bias for that (SigLIP). The texts are
        embedded here, once. Raises as `embed_text`, and ConfigError for labels or templates that make no sense.
        """
        zero_shot.check_labels(labels, templates)
        clip, tokenizer = self._text_tower
        texts = zero_shot.embed_labels(clip, tokenizer, labels, templates)
        module = clip.with_texts(texts.to(next(clip.parameters()).dtype))
        scores: Literal["softmax", "sigmoid"] = "sigmoid" if clip.spec.logit_bias else "softmax"
        card = dataclasses.replace(self.card.without_classes(), class_names=tuple(labels), scores=scores, tokenizer={})
        module.card = card
        engine, why = self.engine.with_module(module), self.engine_choice
        return Predictor(module, engine, card, self.report, engine_choice=why, exact=self.exact)

    @functools.cached_property
    def _text_tower(self) -> tuple[Clip, Tokenizer]:
        return zero_shot.tokenizer_of(self.module, self.card, self.report.source)

    def preprocess(self, picture: Picture) -> Tensor:
        """A picture as the module takes it: float32 [C, H, W], normalised. For one's own Dataset or loop."""
        return torch.from_numpy(apply(self._preprocess, decode_for(self._preprocess, picture, exact=True)))

    def explain(self, picture: Picture, *, target: int | str | None = None, method: str = "auto") -> Explanation:
        """Which patches the answer rests on: `.map`, `.caption`, `.overlay()`, `.save("why.png")`.

        `target` is the class to explain, by name or index, None the predicted one. `method` is "attention", "rollout",
        "gradient" or "auto": the attention of the class token or pooling query that the head reads, else "gradient".
        """
        return explain_picture(self.module, self.card, picture, target=target, method=method)

    def reconstruct(self, picture: Picture, *, mask_ratio: float = MASK_RATIO, seed: int = 0) -> ReconstructedPicture:
        """The picture with a share of its patches hidden, and as a masked autoencoder paints them: `.save("mae.png")`.

        `.original`, `.masked`, `.reconstructed` and `.painted` are uint8 [H, W, C]; `seed` draws the patches hidden.
        """
        return reconstruct_picture(self.module, self.card, picture, mask_ratio=mask_ratio, seed=seed)

    def answers(
        self,
        pictures: Picture | Iterable[Picture],
        *,
        batch_size: int = BATCH_SIZE,
        allow_urls: bool = True,
        exact: bool = False,
    ) -> Iterator[Answer]:
        """One Answer per picture, in order; a bad picture's Answer holds its error.

        Pictures are drawn in the caller's thread, and decoded by as many others as there are cores. Each core runs its
        part of a batch, 4 at least, beside the others if the engine can; else batches follow one another. A single
        batch is run by all cores together. Held are at most cores + 3 batches and cores pictures, and answers wait
        while the stream does. With a batch_size of 1 nothing is drawn ahead, and each picture is answered in the
        caller's thread before the next one is asked for: for a camera. `exact` prepares pictures as
        Predictor(exact=True) does.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; at least 1")
        cores = torch.get_num_threads()
        prepare = functools.partial(self._prepared, allow_urls=allow_urls, exact=exact or self.exact)
        one_by_one = batch_size == 1 or _is_one(pictures)
        decoders, known = (0, 0) if one_by_one else (cores, batch_size + 1)
        with closing(in_order(prepare, _several(pictures), threads=decoders, ahead=batch_size)) as prepared:
            first, rest = begun(prepared, known)
            engine = self.engine.shared(cores) if len(first) > batch_size and cores > 1 else self.engine
            runners = 0 if engine is self.engine else cores
            size = max(-(-batch_size // cores), min(batch_size, LEAST_PART)) if runners else batch_size
            run, waiting = functools.partial(_run, engine), batched(chain(first, rest), size)
            try:
                with closing(in_order(run, waiting, threads=runners)) as batches:
                    for answers in batches:
                        yield from answers
            finally:
                if runners:
                    torch.set_num_threads(cores)  # threads that begin later would have what the last runner had

    def predictions(self, answer: Answer, *, top: int) -> list[Prediction]:
        """The `top` predictions of an answer that has logits, best first; equal ones in the order of the classes."""
        if answer.logits is None:
            raise EngineError(f"{answer.picture}: the answer has no logits")
        chances = probabilities(answer.logits, self.card.scores)
        best = best_first(chances, top)
        names, ids = self.card.class_names, self.card.class_ids
        return [
            Prediction(names[i] if names else str(i), float(chances[i]), int(i), ids[i] if ids else None) for i in best
        ]

    def check_classifier(self, top: int = 1) -> None:
        """Raises ConfigError where this model can't classify, before any picture is touched."""
        if self.spec.has_text and not self.spec.num_classes:
            raise ConfigError(
                f"{self.report.source} has no classes of its own: say which there are, with --labels 'a cat,a dog' "
                "(in Python with_labels([...]))"
            )
        if not self.spec.num_classes:
            raise ConfigError(f"{self.report.source} has no classification head; embed with it, or load another model")
        if top < 1:
            raise ConfigError(f"top is {top}; at least 1")

    def _prepared(self, picture: Picture, allow_urls: bool, exact: bool) -> Prepared:
        wanted = self._preprocess
        try:
            pixels = decode_for(wanted, picture, exact=exact, allow_urls=allow_urls)
            try:
                return name_of(picture), fit_for(wanted, pixels, exact=exact)
            except ImageError as error:
                raise ImageError(f"{describe(picture)}: {error}") from None
        except ImageError as error:
            # Without its traceback, whose frames hold the half-decoded picture for as long as the error lives.
            return name_of(picture), ImageError(str(error))

    def _sure_answers(self, pictures: Picture | Iterable[Picture], batch_size: int) -> Iterator[Answer]:
        for answer in self.answers(pictures, batch_size=batch_size):
            if answer.error is not None:
                raise answer.error
            yield answer


def _run(engine: Engine, batch: Sequence[Prepared]) -> list[Answer]:
    crops = [pixels for _, pixels in batch if not isinstance(pixels, ImageError)]
    outputs = engine.run(np.stack(crops)) if crops else {}
    rows = iter(range(len(crops)))
    return [
        Answer(name, error=pixels)
        if isinstance(pixels, ImageError)
        else Answer(name, **{kind: values[row] for row in [next(rows)] for kind, values in outputs.items()})
        for name, pixels in batch
    ]


def _is_one(pictures: object) -> bool:
    """Whether this is one picture rather than many: a folder, a stack of arrays or any other iterable are many."""
    if isinstance(pictures, str | os.PathLike):
        return not os.path.isdir(pictures)  # noqa: PTH112  # a URL is no Path
    if hasattr(pictures, "shape") and hasattr(pictures, "ndim"):
        return int(pictures.ndim) <= 3
    return isinstance(pictures, bytes) or not isinstance(pictures, Iterable)


def name_of(picture: Picture) -> str:
    """What an Answer calls the picture: its path or URL as it was given, else a short description."""
    return os.fsdecode(picture) if isinstance(picture, str | os.PathLike) else describe(picture)


def _several(pictures: Any) -> Iterable[Picture]:
    if _is_one(pictures):
        return [pictures]
    return list_pictures([os.fspath(pictures)]) if isinstance(pictures, str | Path | os.PathLike) else pictures
