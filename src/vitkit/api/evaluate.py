"""evaluate: how often is a model right on pictures whose classes are known?"""

from __future__ import annotations

import os

import torch

from vitkit.api.load import Source, load
from vitkit.engine.predict import BATCH_SIZE, Predictor
from vitkit.errors import ConfigError
from vitkit.evaluation import run
from vitkit.evaluation.label_scores import MultiLabelScores
from vitkit.evaluation.labels import check_source, read_labels
from vitkit.evaluation.metrics import Scores
from vitkit.image.preprocess import Preprocess
from vitkit.report.drawing import check_output
from vitkit.report.plots import confusion_matrix_picture

__all__ = ["evaluate"]


def evaluate(
    model: Predictor | Source,
    data: str | os.PathLike[str],
    *,
    split: str | None = None,
    revision: str | None = None,
    preset: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    preprocess: Preprocess | None = None,
    parity: str | None = None,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    engine: str | None = None,
    batch_size: int = BATCH_SIZE,
    confusion: str | os.PathLike[str] | None = None,
    on_progress: run.Progress | None = None,
) -> Scores | MultiLabelScores:
    """Returns top-1 and top-5 with 95 % intervals, a table of the classes, the confusions and the pictures that failed.

    `model` is a Predictor, or anything `load` takes, with its options. `data` is a folder of class folders, or a table
    of path and label (vitkit.evaluation.labels); one with a column `labels`, of several, is scored by average precision
    and F1. `split` takes one part of a table that has such a column. `confusion` names a PNG file for the confusion
    matrix. A picture that can't be used is listed in `failed` and left out of the scores.

    Raises DataError for labels and files that don't fit, all at once, ConfigError for a model without a head and for
    options, CheckpointError from `load`: all before the first picture is run.
    """
    check_source(data)
    if confusion is not None:
        check_output(confusion)
    if isinstance(model, Predictor):
        options: dict[str, object] = {
            "revision": revision,
            "preset": preset,
            "image_size": image_size,
            "preprocess": preprocess,
            "parity": parity,
            "device": device,
            "dtype": dtype,
            "engine": engine,
        }
        given = [name for name, value in options.items() if value is not None]
        if given:
            raise ConfigError(f"{', '.join(given)}: the model is loaded already; pass that to vitkit.load instead")
        predictor = model
    else:
        predictor = load(
            model,
            revision=revision,
            preset=preset,
            image_size=image_size,
            preprocess=preprocess,
            parity=parity,
            device=device,
            dtype=dtype,
            engine=engine,
        )
    predictor.check_classifier()
    card, num_classes = predictor.card, predictor.spec.num_classes
    labelled = read_labels(data, card.class_names, card.class_ids, num_classes, split=split)
    multi_label = isinstance(labelled[0].label, tuple)
    if confusion is not None and multi_label:
        raise ConfigError(f"confusion: a picture of {os.fspath(data)} has several labels; leave the matrix out")
    scores = run.evaluate(predictor, labelled, multi_label=multi_label, batch_size=batch_size, on_progress=on_progress)
    if confusion is not None and isinstance(scores, Scores):
        names = card.class_names or tuple(map(str, range(num_classes)))
        confusion_matrix_picture(scores.confusion, names, confusion)
    return scores
