"""What a finished run shows: scores, tables, pictures and one page that explains them, written into its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vitkit.api.baseline import read_baseline
from vitkit.api.label_report import judge_labels
from vitkit.api.run_maps import show_maps
from vitkit.api.run_tables import (
    answer_rows,
    class_blocks,
    setting_cells,
    write_classes,
    write_csv,
    write_json,
    write_steps,
)
from vitkit.api.verdicts import SHOWN, WEIGHTS, Held, Verdict, percent, picture_of, run_pictures, show_pictures
from vitkit.checkpoint.card import Card
from vitkit.config import to_dict
from vitkit.data.loader import Loader
from vitkit.data.samples import Samples, Splits
from vitkit.engine.predict import probabilities
from vitkit.evaluation.metrics import Scores, Tally
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
from vitkit.training.log import read_log
from vitkit.training.objective import Objective

__all__ = ["write_results"]


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
    held = run_pictures(module, evaluation)
    if objective.classifies and splits.train.multi_label:
        verdict = judge_labels(folder, module, weights, card, held, splits, evaluation, test)
        use = f"vitkit classify PICTURE -m {folder / 'model'} --threshold 0.5"
    elif objective.classifies:
        verdict = _judge_classes(folder, module, weights, card, held, splits, evaluation, test)
        use = f"vitkit classify PICTURE -m {folder / 'model'}\nvitkit explain PICTURE -m {folder / 'model'} -o why.png"
    else:
        verdict = _judge_encoder(folder, module, objective, weights, evaluation, test)
        use = f"vitkit embed PICTURE -m {folder / 'model'}\nvitkit train FOLDER_OF_CLASS_FOLDERS -m {folder / 'model'}"
    rows = read_log(folder / "log.jsonl")
    write_steps(folder / "log.csv", rows)
    curves_picture(rows, folder / "curves.png")
    curves = [
        Figure(png, f"Curve of the {name} over the steps", density=DENSITY)
        for name, png in curve_pictures(rows).items()
    ]
    augmented = _augmented(training, card.preprocess, splits.train, folder / "augmented.png")
    blocks: list[Block] = [
        Note(verdict.summary),
        Heading("How it learned"),
        Figures(curves, width=280),
        *_baseline(folder),
        Paragraph(_which_weights(folder, weights)),
        *verdict.blocks,
        Heading("What it saw"),
        *augmented,
        *_embeddings(held, splits),
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
    scores = _score(held, splits.val, weights)
    parts, answers = {"held-out": scores}, answer_rows("held-out", splits.val, held.logits, card.scores)
    content, test_scores = to_dict(scores), {}
    low, high = scores.top1_interval
    summary = (
        f"{percent(scores.top1, 2)} of {scores.count:,} held-out pictures are named rightly (95\N{NO-BREAK SPACE}% "
        f"interval {percent(low, 1)} to {percent(high, 1)}), by the {WEIGHTS[weights]} after the last step."
    )
    if test is not None:
        assert splits.test is not None
        read = run_pictures(module, test)
        parts["test"] = tested = _score(read, splits.test, weights)
        answers += answer_rows("test", splits.test, read.logits, card.scores)
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
        *_mistakes(held, evaluation, card, splits.val, folder / "mistakes.png"),
        *show_maps(module, card, splits.val, evaluation),
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


def _score(held: Held, samples: Samples, weights: str) -> Scores:
    tally = Tally(len(samples.class_names))
    for label, logits in zip(samples.labels.tolist(), held.logits, strict=True):
        tally.add(label, logits)
    names = samples.class_names
    return tally.scores(model=f"last step, {weights}", engine="torch float32 on cpu", class_names=names, seconds=0)


def _mistakes(held: Held, evaluation: Loader, card: Card, samples: Samples, file: Path) -> list[Block]:
    """The held-out pictures that the model was most wrongly sure of."""
    assert card.preprocess is not None
    names, labels = samples.class_names, samples.labels
    chances = probabilities(held.logits, card.scores)
    said = chances.argmax(axis=1)
    wrong = np.flatnonzero(said != labels)
    if not len(wrong):
        return [Paragraph("No held-out picture was taken for another class.")]
    worst = wrong[np.argsort(chances[wrong, labels[wrong]], kind="stable")][:SHOWN]
    pictures = [picture_of(evaluation, int(index)) for index in worst]
    captions = [f"{names[labels[i]]}, said {names[said[i]]} ({percent(chances[i, said[i]])})" for i in worst]
    lead = f"The worst {len(worst)} of {len(wrong)} mistakes: the true class, and what the model said instead."
    return [Paragraph(lead), show_pictures(pictures, captions, card.preprocess, file)]


def _augmented(training: Loader, preprocess: Preprocess, samples: Samples, file: Path) -> list[Block]:
    """Pictures as the training sees them."""
    batch = training.batch(0, early=True)
    captions = [samples.label_text(at) for at in batch.index[:SHOWN].tolist()]
    shown = show_pictures(list(batch.views[0][:SHOWN].cpu()), captions, preprocess, file)
    mixed = ", each under its own class whatever is mixed in" if "label_weights" in batch.targets else ""
    return [Paragraph(f"Training pictures as the first step saw them{mixed}."), shown]


def _embeddings(held: Held, splits: Splits) -> list[Block]:
    assert splits.val is not None
    if splits.val.multi_label:  # a point has one colour
        return []
    return [
        Heading("How it sees the classes"),
        Figure(
            scatter_picture(_plane(held.embeddings), splits.val.labels, splits.val.class_names),
            "Embeddings of the held-out pictures in two dimensions, coloured by class",
            "Embeddings of the held-out pictures, on the plane of their two main directions (PCA).",
            density=DENSITY,
        ),
    ]


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


def _plane(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Principal components 1 and 2 of embeddings [n, D], [n, 2]."""
    centred = embeddings - embeddings.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    return np.asarray(centred @ directions[:2].T)
