"""From labelled pictures to scores, one batch in memory at a time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Sized
from typing import Any

from vitkit.engine.predict import BATCH_SIZE, Predictor, probabilities
from vitkit.evaluation.label_scores import LabelTally, MultiLabelScores
from vitkit.evaluation.labels import Labelled
from vitkit.evaluation.metrics import Scores, Tally

__all__ = ["Progress", "evaluate"]

Progress = Callable[[int, int | None], None]
"""Called after each picture with those done and those in all, None where that isn't known."""


def evaluate(
    predictor: Predictor,
    labelled: Iterable[Labelled],
    *,
    multi_label: bool = False,
    batch_size: int = BATCH_SIZE,
    on_progress: Progress | None = None,
) -> Scores | MultiLabelScores:
    """Answers every picture and scores the answers, ranked as `Predictor.classify` ranks them.

    With `multi_label` every label is a tuple of classes. A picture that can't be used is listed in `failed` with its
    error, and is in no score. Raises ConfigError where the model has no head, DataError where no picture could be
    scored or a label is no class of the model.
    """
    predictor.check_classifier()
    tally: Any = (LabelTally if multi_label else Tally)(predictor.spec.num_classes)
    failed: list[tuple[str, str]] = []
    total = len(labelled) if isinstance(labelled, Sized) else None
    # The answers run some batches behind the pictures; tee keeps the labels of those, whatever the iterable.
    labels, pictures = itertools.tee(labelled)
    answers = predictor.answers((item.picture for item in pictures), batch_size=batch_size, exact=True)
    start = time.perf_counter()
    for done, (item, answer) in enumerate(zip(labels, answers, strict=True), start=1):
        if answer.logits is None:
            failed.append((item.picture, str(answer.error)))
        else:
            tally.add(item.label, probabilities(answer.logits, predictor.card.scores))
        if on_progress is not None:
            on_progress(done, total)
    scores: Scores | MultiLabelScores = tally.scores(
        model=predictor.report.source,
        engine=predictor.engine.name,
        class_names=predictor.card.class_names,
        class_ids=predictor.card.class_ids,
        failed=failed,
        seconds=time.perf_counter() - start,
    )
    return scores
