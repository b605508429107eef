"""What a finished run shows: scores, tables, pictures and one page that explains them, written into its folder."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitkit.checkpoint.card import Card
from vitkit.config import to_dict
from vitkit.data.loader import Loader
from vitkit.data.samples import Samples
from vitkit.engine.predict import probabilities
from vitkit.evaluation.metrics import Scores, Tally
from vitkit.explain.explanation import explain_pixels, restore
from vitkit.files import replace_file
from vitkit.image.preprocess import Preprocess
from vitkit.model.vit import VisionTransformer
from vitkit.report.html import Block, Code, Facts, Figure, Figures, Heading, Note, Paragraph, write_page
from vitkit.report.plots import confusion_matrix_picture, curves_picture, scatter_picture, similarity_picture
from vitkit.report.sheet import sheet_picture
from vitkit.training.log import read_log

__all__ = ["write_results"]

SHOWN = 24
"""Pictures on a sheet."""
EXPLAINED = 8
"""Pictures whose maps are shown."""


@dataclass(frozen=True, eq=False)
class Held:
    """What the final weights said about the held-out pictures, read once."""

    logits: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    labels: NDArray[np.int64]


def write_results(
    folder: Path,
    module: VisionTransformer,
    weights: str,
    card: Card,
    settings: Mapping[str, Any],
    samples: Samples,
    evaluation: Loader,
    training: Loader,
) -> dict[str, float]:
    """Reads the held-out pictures once with the final weights and writes all a run shows; returns their scores.

    results.json, log.csv, curves.png, confusion.png, augmented.png, mistakes.png and report.html.
    """
    assert card.preprocess is not None
    held = _run(module, evaluation)
    scores = _score(held, samples, weights)
    _write_json(folder / "results.json", to_dict(scores))
    rows = read_log(folder / "log.jsonl")
    _write_csv(folder / "log.csv", rows)
    names = samples.class_names
    curves = curves_picture(rows, folder / "curves.png")
    confusion_matrix_picture(scores.confusion, names, folder / "confusion.png")
    augmented = _augmented(training, card.preprocess, names, folder / "augmented.png")
    mistakes = _mistakes(held, evaluation, card.preprocess, names, folder / "mistakes.png")
    low, high = scores.top1_interval
    blocks: list[Block] = [
        Note(
            f"{scores.top1:.2%} of {scores.count:,} held-out pictures are named rightly (95 % interval {low:.1%} to "
            f"{high:.1%}), by the {WEIGHTS[weights]} after the last step."
        ),
        Heading("How it learned"),
        Figure(curves, "Curves of loss, accuracy and learning rate over the training steps"),
        Paragraph(_which_weights(folder, weights)),
        Heading("What it confuses"),
        Figure((folder / "confusion.png").read_bytes(), "Confusion matrix of the held-out pictures"),
        *mistakes,
        Heading("What its answers rest on"),
        *_maps(module, card, evaluation),
        Heading("What it saw"),
        Figure(augmented, "A sheet of augmented training pictures", "Training pictures as the first step saw them."),
        Heading("How it sees the classes"),
        Figure(
            scatter_picture(_plane(held.embeddings), held.labels, names),
            "Embeddings of the held-out pictures in two dimensions, coloured by class",
            "Embeddings of the held-out pictures, on the plane of their two main directions (PCA).",
        ),
        *_positions(module),
        Heading("Settings"),
        Facts(_flat(settings)),
        Heading("Try next"),
        Code(
            f"vitkit classify PICTURE -m {folder / 'model'}\n"
            f"vitkit explain PICTURE -m {folder / 'model'} -o why.png\n"
            f"vitkit verify {folder / 'model'}\n"
            f"vitkit train FOLDER_OF_CLASS_FOLDERS --minutes 10"
        ),
    ]
    height, width = module.spec.image_size
    lead = f"A Vision Transformer of {module.spec.num_parameters():,} parameters for pictures of {height} x {width}."
    write_page(folder / "report.html", f"Training on {settings['data']}", blocks, lead=lead)
    return {"accuracy": scores.top1}


WEIGHTS = {"ema": "moving average of the weights", "raw": "weights"}


def _which_weights(folder: Path, weights: str) -> str:
    best = folder / "checkpoints" / "best"
    if not best.is_file():
        return "The held-out pictures were read once, after the last step: nothing was chosen by them."
    return (
        f"Evaluations on the way are of the {WEIGHTS[weights]}, too. The best one was at "
        f"{best.read_text(encoding='utf-8').strip()} (checkpoints/best), whose folder holds both kinds of weights; "
        "the result above is that of the last step all the same."
    )


def _run(module: VisionTransformer, evaluation: Loader) -> Held:
    logits, embeddings, labels = [], [], []
    with torch.inference_mode():
        for batch in evaluation.batches(0, evaluation.steps_per_epoch):
            embedding = module.embed(batch.to("cpu").views[0])
            embeddings.append(embedding.numpy())
            logits.append(module.head(embedding).numpy())
            labels.append(batch.targets["label"].cpu().numpy())
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
    pictures = [restore(preprocess, _picture(evaluation, int(index))) for index in worst]
    captions = [f"{names[held.labels[i]]}? {names[said[i]]} {chances[i, said[i]]:.0%}" for i in worst]
    png = sheet_picture(pictures, captions, file=file)
    return [
        Figure(
            png,
            "Held-out pictures the model was most wrong about",
            f"The worst {len(worst)} of {len(wrong)} mistakes: the true class, then what the model said.",
        )
    ]


def _maps(module: VisionTransformer, card: Card, evaluation: Loader) -> list[Block]:
    """Maps of the first held-out pictures of as many classes as fit."""
    assert card.preprocess is not None
    labels = evaluation.labels
    first = [int(np.flatnonzero(labels == label)[0]) for label in np.unique(labels)[:EXPLAINED]]
    pixels = torch.stack([_picture(evaluation, index) for index in first])
    found = explain_pixels(module, card, pixels)
    figures = [
        Figure(_png(each.overlay()), f"Map over a held-out picture: {each.caption}", each.caption) for each in found
    ]
    method = found[0].method
    lead = f"Held-out pictures with their maps laid over them: {method}. Bright patches count most."
    return [Paragraph(lead), Figures(figures)]


def _augmented(training: Loader, preprocess: Preprocess, names: Sequence[str], file: Path) -> bytes:
    batch = training.batch(0)
    shown = [restore(preprocess, pixels) for pixels in batch.views[0][:SHOWN].cpu()]
    return sheet_picture(shown, [names[label] for label in batch.targets["label"][:SHOWN].tolist()], file=file)


def _positions(module: VisionTransformer) -> list[Block]:
    if module.pos_embed is None:
        return []
    table = module.pos_embed.detach()[0, module.spec.num_prefix_tokens :].numpy()
    rows, columns = module.spec.grid
    if rows * columns > 256:
        return []
    return [
        Heading("How it knows where things are"),
        Figure(
            similarity_picture(table, module.spec.grid),
            "Cosine similarity of every position embedding to all others",
            "Each tile stands at a patch's place and shows how alike its position embedding is to all others.",
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


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            rows |= _flat(value, f"{prefix}{name}.")
        else:
            rows[f"{prefix}{name}"] = ", ".join(map(str, value)) if isinstance(value, list) else value
    return {name: (str(value) if isinstance(value, bool) else value) for name, value in rows.items()}


def _png(picture: NDArray[np.uint8]) -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def _write_csv(file: Path, log: Sequence[Mapping[str, Any]]) -> None:
    """The log's steps as a table for spreadsheets."""
    rows = [row for row in log if row["kind"] == "step"]
    with replace_file(file) as part, open(part, "w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, fieldnames=[name for name in rows[0] if name != "kind"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def _write_json(file: Path, content: object) -> None:
    with replace_file(file) as part:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
