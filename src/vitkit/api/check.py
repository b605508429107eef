"""check: what is wrong with a set of labelled pictures, before anything is learnt from it?"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vitkit.api.check_report import write_report
from vitkit.api.label_training import learn_labels
from vitkit.api.load import Source, load
from vitkit.data.doctor.classes import check_classes
from vitkit.data.doctor.duplicates import check_duplicates
from vitkit.data.doctor.findings import KINDS, Finding
from vitkit.data.doctor.labels import Answers, check_labels
from vitkit.data.doctor.pictures import Look, check_pictures, look
from vitkit.data.doctor.survey import Survey, survey
from vitkit.data.samples import Samples, Splits
from vitkit.data.store import check_storable
from vitkit.engine.predict import BATCH_SIZE, Predictor
from vitkit.errors import ConfigError, list_faults
from vitkit.files import check_new_file

__all__ = ["Checkup", "check"]

SUSPECTS = 100
"""Labels named as suspects where nothing else is said."""


@dataclass(frozen=True, eq=False)
class Checkup:
    """All that was found, and what it was found in."""

    survey: Survey
    look: Look
    findings: tuple[Finding, ...]
    """Faults first, in the order of KINDS."""
    judgement: str
    """How labels were judged, or why they weren't."""

    @property
    def clean(self) -> bool:
        """Whether no fault was found; suspicions and notes are for a person to weigh."""
        return not self.levels()["fault"]

    def levels(self) -> Counter[str]:
        """How many findings there are of each level."""
        return Counter(KINDS[finding.kind].level for finding in self.findings)

    def of_kind(self, kind: str) -> list[Finding]:
        """The findings of one kind, in order."""
        return [finding for finding in self.findings if finding.kind == kind]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data; pictures by name."""
        samples = self.survey.samples
        counts = self.survey.counts().tolist()
        return {
            "data": samples.name,
            "clean": self.clean,
            "levels": {level: self.levels()[level] for level in ("fault", "suspicion", "note")},
            "classes": {
                part or "all": dict(zip(samples.class_names, count, strict=True))
                for part, count in zip(self.survey.part_names, counts, strict=True)
            },
            "labels": self.judgement,
            "findings": [
                {
                    "level": KINDS[finding.kind].level,
                    "kind": finding.kind,
                    "message": finding.message,
                    "pictures": [samples.describe(at) for at in finding.pictures],
                    "class_name": finding.class_name,
                }
                for finding in self.findings
            ],
        }


def check(
    data: str | os.PathLike[str] | Samples | Splits,
    *,
    model: Source | None = None,
    revision: str | None = None,
    preset: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    parity: str | None = None,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    engine: str | None = None,
    batch_size: int = BATCH_SIZE,
    fine_tune: bool = False,
    suspects: int = SUSPECTS,
    output: str | os.PathLike[str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Checkup:
    """Returns every fault, suspicion and oddity of `data`; writes them with pictures to the HTML file `output`.

    `data` is what `train` takes by name, or Samples or Splits. `model` is anything `load` takes, with its options:
    its embeddings tell which labels look wrong (at most `suspects` are named) and propose more near
    duplicates. Without one the pictures' own colours and shapes do, where they tell the classes apart at all. With
    `fine_tune` it is how the model learns the labels that tells, which is much slower.

    Raises DataError where there is nothing to check, ConfigError for options, CheckpointError from `load`.
    """
    if fine_tune:
        _check_fine_tuning(model, parity)
    if output is not None:
        check_new_file(output)
    found = survey(data)
    predictor = None
    if model is not None:
        predictor = load(
            model,
            revision=revision,
            preset=preset,
            image_size=image_size,
            parity=parity,
            device=device,
            dtype=dtype,
            engine=engine,
        )
        if fine_tune and predictor.card.preprocess is not None:
            check_storable(predictor.card.preprocess)
    count = len(found.samples)
    passes = count if predictor is None else 2 * count

    def tell(done: int, steps: int = 0) -> None:
        if on_progress is not None:
            on_progress(done, passes + steps)

    def learn(samples: Samples) -> Answers:
        assert model is not None
        return learn_labels(
            samples,
            model,
            revision=revision,
            preset=preset,
            image_size=image_size,
            device=device,
            on_progress=lambda done, steps: tell(passes + done, steps),
        )

    seen = look(found.samples, on_progress=lambda done, _: tell(done))
    features = None
    if predictor is not None:
        features = _embed(predictor, found.samples, batch_size, lambda done: tell(count + done))
    labels = check_labels(found, seen, features, learn if fine_tune else None, limit=suspects)
    findings = [
        *found.findings,
        *check_classes(found),
        *check_pictures(found.samples, seen),
        *check_duplicates(found, seen, features),
        *labels.findings,
    ]
    order = {kind: number for number, kind in enumerate(KINDS)}
    checkup = Checkup(found, seen, tuple(sorted(findings, key=lambda finding: order[finding.kind])), labels.told)
    if output is not None:
        write_report(output, checkup)
    return checkup


def _check_fine_tuning(model: Source | None, parity: str | None) -> None:
    faults = []
    if model is None:
        faults.append("fine_tune is set, and there is no model to fine-tune: name one (--model)")
    if parity is not None:
        faults.append(f"parity is {parity!r}, and training knows a checkpoint's own way alone: leave it out")
    if faults:
        raise ConfigError(list_faults(faults))


def _embed(
    predictor: Predictor, samples: Samples, batch_size: int, on_progress: Callable[[int], None]
) -> NDArray[np.float32]:
    """Embeddings [n, D]; NaN for pictures that can't be read."""
    rows = np.full((len(samples), predictor.spec.feature_dim), np.nan, np.float32)
    for at, answer in enumerate(predictor.answers(samples.pictures, batch_size=batch_size, allow_urls=False)):
        if answer.embedding is not None:
            rows[at] = answer.embedding
        on_progress(at + 1)
    return rows
