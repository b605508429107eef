"""What a finished run shows: scores, tables, pictures and one page that explains them, written into its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitkit.api.baseline import read_baseline
from vitkit.api.run_tables import (
    answer_rows,
    class_blocks,
    setting_cells,
    write_classes,
    write_csv,
    write_json,
    write_steps,
)
from vitkit.checkpoint.card import Card
from vitkit.config import to_dict
from vitkit.data.loader import Loader
from vitkit.data.samples import Samples, Splits
from vitkit.engine.predict import probabilities
from vitkit.evaluation.metrics import Scores, Tally
from vitkit.explain.explanation import Explanation, explain_pixels, visible
from vitkit.explain.overlay import enlarge
from vitkit.image.preprocess import Preprocess
from vitkit.model.base import ImageModel
from vitkit.model.vit import VisionTransformer
from vitkit.report.drawing import DENSITY
from vitkit.report.html import Block, Code, Facts, Figure, Figures, Folded, Heading, Note, Paragraph, write_page
from vitkit.report.plots import (
    confusion_matrix_picture,
    curve_pictures,
    curves_picture,
    scatter_picture,
    similarity_picture,
)
from vitkit.report.sheet import sheet_picture, tile_picture
from vitkit.training.log import read_log
from vitkit.training.objective import Objective

__all__ = ["write_results"]

SHOWN, COLUMNS = 24, 8
"""Pictures on a sheet, and in its rows."""
EXPLAINED = 6
"""Pictures whose maps are shown."""


@dataclass(frozen=True, eq=False)
class Held:
    """What the final weights said about the held-out pictures."""

    logits: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Verdict:
    """What the held-out pictures say of a run."""

    scores: dict[str, float]
    test_scores: dict[str, float]
    """Of the test pictures, where there are any."""
    summary: str
    blocks: list[Block]
    """Sections of the page that only this kind of run has."""


def write_results(
    folder: Path,
    module: ImageModel,
    objective: Objective,
    weights: str,
    card: Card,
    settings: Mapping[str, Any],
    splits: Splits,
    evaluation: Loader,
    test: Loader | None,
    training: Loader,
) -> tuple[dict[str, float], dict[str, float]]:
    """Writes all a run shows, from pictures read with the final weights; returns the scores of held-out and of test.

    results.json, log.csv, curves.png, augmented.png and report.html; of a classifier also classes.csv, predictions.csv,
    confusion.png and mistakes.png.
    """
    assert card.preprocess is not None
    held = _run(module, evaluation)
    if objective.classifies:
        verdict = _judge_classes(folder, module, weights, card, held, splits, evaluation, test)
        use = f"vitkit classify PICTURE -m {folder / 'model'}\nvitkit explain PICTURE -m {folder / 'model'} -o why.png"
    else:
        verdict = _judge_encoder(folder, module, objective, weights, evaluation, test)
        use = f"vitkit embed PICTURE -m {folder / 'model'}\nvitkit train FOLDER_OF_CLASS_FOLDERS -m {folder / 'model'}"
    rows = read_log(folder / "log.jsonl")
    write_steps(folder / "log.csv", rows)
    names = splits.train.class_names
    curves_picture(rows, folder / "curves.png")
    curves = [
        Figure(png, f"Curve of the {name} over the steps", density=DENSITY)
        for name, png in curve_pictures(rows).items()
    ]
    augmented = _augmented(training, card.preprocess, names, folder / "augmented.png")
    blocks: list[Block] = [
        Note(verdict.summary),
        Heading("How it learned"),
        Figures(curves, width=280),
        *_baseline(folder),
        Paragraph(_which_weights(folder, weights)),
        *verdict.blocks,
        Heading("What it saw"),
        *augmented,
        Heading("How it sees the classes"),
        Figure(
            scatter_picture(_plane(held.embeddings), held.labels, names),
            "Embeddings of the held-out pictures in two dimensions, coloured by class",
            "Embeddings of the held-out pictures, on the plane of their two main directions (PCA).",
            density=DENSITY,
        ),
        *_positions(module),
        Heading("Settings"),
        Folded("Everything this run was made from", [Facts(setting_cells(settings))]),
        Heading("Try next"),
        Code(f"{use}\nvitkit verify {folder / 'model'}\nvitkit train FOLDER_OF_CLASS_FOLDERS --minutes 10"),
    ]
    height, width = module.spec.image_size
    lead = f"A {module.spec.title} of {module.spec.num_parameters():,} parameters for pictures of {height} x {width}."
    data = Path(settings["data"]).name or settings["data"]
    write_page(folder / "report.html", f"Training on {data}", blocks, lead=lead)
    return verdict.scores, verdict.test_scores


def _judge_classes(
    folder: Path,
    module: ImageModel,
    weights: str,
    card: Card,
    held: Held,
    splits: Splits,
    evaluation: Loader,
    test: Loader | None,
) -> Verdict:
    """How many held-out pictures are named rightly, and what of the others."""
    assert card.preprocess is not None and splits.val is not None
    names = splits.train.class_names
    scores = _score(held, splits.train, weights)
    parts, answers = {"held-out": scores}, answer_rows("held-out", splits.val, held.logits)
    content, test_scores = to_dict(scores), {}
    low, high = scores.top1_interval
    summary = (
        f"{_percent(scores.top1, 2)} of {scores.count:,} held-out pictures are named rightly (95\N{NO-BREAK SPACE}% "
        f"interval {_percent(low, 1)} to {_percent(high, 1)}), by the {WEIGHTS[weights]} after the last step."
    )
    if test is not None:
        assert splits.test is not None
        read = _run(module, test)
        parts["test"] = tested = _score(read, splits.train, weights)
        answers += answer_rows("test", splits.test, read.logits)
        content["test"], test_scores = to_dict(tested), {"accuracy": tested.top1}
        summary += f" Test accuracy: {100 * tested.top1:.2f} % of {tested.count:,} pictures, read this once."
    write_json(folder / "results.json", content)
    write_classes(folder / "classes.csv", parts)
    write_csv(folder / "predictions.csv", answers)
    confused = confusion_matrix_picture(scores.confusion, names, folder / "confusion.png")
    blocks: list[Block] = [
        Heading("What it confuses"),
        Figure(confused, "Confusion matrix of the held-out pictures", density=DENSITY),
        *class_blocks(scores),
        *_mistakes(held, evaluation, card.preprocess, names, folder / "mistakes.png"),
        *_maps(module, card, names, evaluation),
    ]
    return Verdict({"accuracy": scores.top1}, test_scores, summary, blocks)


def _judge_encoder(
    folder: Path,
    module: ImageModel,
    objective: Objective,
    weights: str,
    evaluation: Loader,
    test: Loader | None,
) -> Verdict:
    """What the objective itself says: an encoder names no classes."""
    scores = _validate(objective, module, evaluation)
    content: dict[str, Any] = {"model": f"last step, {weights}", "count": len(evaluation), **scores}
    said = ", ".join(f"{name} {value:.4g}" for name, value in scores.items()) or "no score"
    summary = f"{len(evaluation):,} held-out pictures, the {WEIGHTS[weights]} after the last step: {said}."
    test_scores = {} if test is None else _validate(objective, module, test)
    if test is not None:
        content["test"] = {"count": len(test), **test_scores}
    write_json(folder / "results.json", content)
    return Verdict(scores, test_scores, summary, [])


def _validate(objective: Objective, module: ImageModel, loader: Loader) -> dict[str, float]:
    with torch.inference_mode():
        return objective.validate(module, (batch.to("cpu") for batch in loader.batches(0, loader.steps_per_epoch)))


WEIGHTS = {"ema": "moving average of the weights", "raw": "weights"}


def _which_weights(folder: Path, weights: str) -> str:
    best = folder / "checkpoints" / "best"
    if not best.is_file():
        return "Nothing was chosen by the held-out pictures: the result is that of the last step."
    return (
        f"Evaluations on the way are of the {WEIGHTS[weights]}, too. The best one was at "
        f"{best.read_text(encoding='utf-8').strip()} (checkpoints/best), whose folder holds both kinds of weights; "
        "the result above is that of the last step all the same."
    )


def _baseline(folder: Path) -> list[Block]:
    found = read_baseline(folder)
    return [] if found is None else [Paragraph(f"What it had to beat, on the same held-out pictures: {found}.")]


def _run(module: ImageModel, evaluation: Loader) -> Held:
    logits: list[NDArray[np.float32]] = []
    embeddings: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.int64]] = []
    hook = module.head.register_forward_pre_hook(lambda head, inputs: embeddings.append(inputs[0].numpy()))
    with torch.inference_mode():
        for batch in evaluation.batches(0, evaluation.steps_per_epoch):
            logits.append(module(batch.views[0].cpu()).numpy())
            labels.append(batch.targets["label"].cpu().numpy())
    hook.remove()
    return Held(np.concatenate(logits), np.concatenate(embeddings), np.concatenate(labels))


def _score(held: Held, samples: Samples, weights: str) -> Scores:
    tally = Tally(len(samples.class_names))
    for label, logits in zip(held.labels.tolist(), held.logits, strict=True):
        tally.add(label, logits)
    names = samples.class_names
    return tally.scores(model=f"last step, {weights}", engine="torch float32 on cpu", class_names=names, seconds=0)


def _mistakes(held: Held, evaluation: Loader, preprocess: Preprocess, names: Sequence[str], file: Path) -> list[Block]:
    """The held-out pictures that the model was most wrongly sure of."""
    chances = probabilities(held.logits, "softmax")
    said = chances.argmax(axis=1)
    wrong = np.flatnonzero(said != held.labels)
    if not len(wrong):
        return [Paragraph("No held-out picture was taken for another class.")]
    worst = wrong[np.argsort(chances[wrong, held.labels[wrong]], kind="stable")][:SHOWN]
    pictures = [visible(preprocess, _picture(evaluation, int(index))) for index in worst]
    captions = [f"{names[held.labels[i]]}, said {names[said[i]]} ({_percent(chances[i, said[i]])})" for i in worst]
    sheet_picture(pictures, captions, columns=COLUMNS, file=file)
    lead = f"The worst {len(worst)} of {len(wrong)} mistakes: the true class, and what the model said instead."
    return [Paragraph(lead), _tiles(pictures, captions)]


def _maps(module: ImageModel, card: Card, names: Sequence[str], evaluation: Loader) -> list[Block]:
    """Maps of the first held-out pictures of as many classes as fit, where there is attention over the picture."""
    if not isinstance(module, VisionTransformer):
        return []
    labels = evaluation.labels
    first = [int(np.flatnonzero(labels == label)[0]) for label in np.unique(labels)[:EXPLAINED]]
    pixels = torch.stack([_picture(evaluation, index) for index in first])
    found = explain_pixels(module, card, pixels)
    captions = [
        f"{names[labels[index]]}, said {each.class_name} ({_percent(each.probability or 0)})"
        for index, each in zip(first, found, strict=True)
    ]
    figures = [
        Figure(_png(_beside(each)), f"A held-out picture and its map: {caption}", caption)
        for each, caption in zip(found, captions, strict=True)
    ]
    lead = (
        f"Held-out pictures, each with its map laid over it: {found[0].method}. The brightest patches count most for "
        "what the model said."
    )
    return [Heading("What its answers rest on"), Paragraph(lead), Figures(figures, width=290)]


def _augmented(training: Loader, preprocess: Preprocess, names: Sequence[str], file: Path) -> list[Block]:
    """Pictures as the training sees them."""
    batch = training.batch(0)
    shown = [visible(preprocess, pixels) for pixels in batch.views[0][:SHOWN].cpu()]
    captions = [names[label] for label in batch.targets["label"][:SHOWN].tolist()]
    sheet_picture(shown, captions, columns=COLUMNS, file=file)
    mixed = ", each under its own class whatever is mixed in" if "label_weights" in batch.targets else ""
    return [Paragraph(f"Training pictures as the first step saw them{mixed}."), _tiles(shown, captions)]


def _tiles(pictures: Sequence[NDArray[np.uint8]], captions: Sequence[str]) -> Figures:
    pairs = zip(pictures, captions, strict=True)
    return Figures([Figure(tile_picture(picture), f"A picture: {text}", text) for picture, text in pairs], width=100)


def _beside(explanation: Explanation) -> NDArray[np.uint8]:
    """The picture and, right of it, its map laid over it."""
    left, right = enlarge(explanation.picture), explanation.overlay()
    return np.concatenate([left, np.full((len(left), len(left) // 40, 3), 255, np.uint8), right], axis=1)


def _positions(module: ImageModel) -> list[Block]:
    if not isinstance(module, VisionTransformer) or module.pos_embed is None:
        return []
    rows, columns = module.spec.grid
    if rows * columns > 256:
        return []
    table = module.pos_embed.detach()[0, -rows * columns :].numpy()
    return [
        Heading("How it knows where things are"),
        Figure(
            similarity_picture(table, module.spec.grid),
            "Cosine similarity of every position embedding to all others",
            "Each tile stands at a patch's place and shows how alike its position embedding is to all others.",
            density=DENSITY,
        ),
    ]


def _picture(loader: Loader, index: int) -> Tensor:
    """Normalised pixels [C, H, W] of one held-out picture."""
    batch = loader.batch(index // loader.batch_size)
    return batch.views[0][index % loader.batch_size].cpu()


def _plane(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Principal components 1 and 2 of embeddings [n, D], [n, 2]."""
    centred = embeddings - embeddings.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    return np.asarray(centred @ directions[:2].T)


def _percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def _png(picture: NDArray[np.uint8]) -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()
