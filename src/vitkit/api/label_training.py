"""Labels judged by fine-tuning a model on them: a training of which nothing is kept but what it said of pictures."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from vitkit.api.loaders import make_loaders
from vitkit.api.plan import training_dtype
from vitkit.api.starts import Start, start_model
from vitkit.data.doctor.labels import Answers
from vitkit.data.mix import MixSpec
from vitkit.data.samples import Samples, Splits
from vitkit.device import keep_freed_memory, pick_device
from vitkit.errors import Interrupted
from vitkit.training.loop import fit
from vitkit.training.objective import Classification
from vitkit.training.processes import Processes
from vitkit.training.starts import recipe_for
from vitkit.training.witness import Witness

__all__ = ["learn_labels"]

SHARE_OF_EPOCHS = 0.2
"""Of an ordinary fine-tuning's. In the rest of them wrong labels are learnt by heart (docs/RESULTS.md)."""


def learn_labels(
    samples: Samples,
    model: str | os.PathLike[str],
    *,
    revision: str | None = None,
    preset: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    device: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Answers:
    """What `model`, fine-tuned briefly on all of `samples`, says of them and of how it learnt them.

    `on_progress` hears of each step. Raises as `train`.
    """
    target = pick_device(device)
    start = Start(
        model=os.fspath(model),
        preset=preset,
        revision=revision,
        image_size=image_size,
        patch_size=None,
        shape={},
        origin="check",
    )
    usual, _ = recipe_for(from_checkpoint=True, image_size=(0, 0), pictures=len(samples))
    spec = dataclasses.replace(usual, epochs=max(2, round(SHARE_OF_EPOCHS * usual.epochs)), mix=MixSpec())
    module, preprocess = start_model(start, None, samples, samples.num_classes, spec)
    witness = Witness(Classification.make(module, spec, samples))
    loader, judged, _ = make_loaders(
        Splits(samples, samples), preprocess, spec, witness, 0, target, Processes(), on_read=None
    )
    if target.type == "cpu":
        keep_freed_memory()
    with loader, judged, tempfile.TemporaryDirectory() as folder:
        try:
            fit(
                module,
                witness,
                loader,
                judged,
                spec,
                Path(folder),
                device=target,
                dtype=training_dtype(spec, target),
                on_step=lambda progress, _: on_progress(progress.step, progress.steps) if on_progress else None,
            )
        except Interrupted as stop:
            raise Interrupted("stopped while labels were being learnt; nothing is kept", stop.signum) from None
    return witness.answers()
