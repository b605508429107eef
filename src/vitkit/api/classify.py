"""classify_to_file: the classes of any number of pictures as CSV, JSON lines or Parquet, in bounded memory."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from vitkit.api.records import FORMS, form_of, record_of
from vitkit.api.written import Written, run_of
from vitkit.engine.predict import BATCH_SIZE, Answer, Predictor, name_of
from vitkit.image.decode import Picture
from vitkit.part import Part

__all__ = ["classify_to_file"]


def classify_to_file(
    predictor: Predictor,
    pictures: Iterable[Picture],
    output: str | os.PathLike[str],
    *,
    form: str | None = None,
    top: int = 5,
    threshold: float | None = None,
    batch_size: int = BATCH_SIZE,
    resume: bool = False,
    on_answer: Callable[[Answer], None] | None = None,
) -> Written:
    """Writes the `top` classes of each picture, in input order; of a picture that failed, its error.

    `form` is "csv" or "parquet" (a row per picture and class, rank 1 the best), "jsonl" (an object per picture) or
    "text" (for people, without failures); None: what the file's ending says. Classes below `threshold` are left out.
    Rows gather in the folder OUTPUT.part while the run goes on, and the output appears when it is complete; a run that
    was broken off, by whatever, goes on from there with `resume`.
    """
    predictor.check_classifier(top)
    output = Path(output)
    chosen = form_of(output, form)
    written = FORMS[chosen]
    run = {"form": chosen, "top": top, "threshold": threshold, **run_of(predictor)}
    rows = "rows.jsonl" if written.pack else f"rows{output.suffix}"
    with Part(output, run, {rows: written.head.encode()}, resume=resume) as part:
        for answer in predictor.answers(part.rest(pictures, name_of), batch_size=batch_size):
            text = written.rows(record_of(predictor, answer, top=top, threshold=threshold))
            # As on stdout: a file name that isn't UTF-8 is written as the bytes it is.
            part.add(answer.picture, text.encode("utf-8", "surrogateescape"), failed=answer.error is not None)
            if on_answer is not None:
                on_answer(answer)
        if written.pack is None:
            part.finish(rows)
        else:
            part.finish(f"result{output.suffix}", functools.partial(written.pack, part.folder / rows))
    return Written(part.state.pictures, part.state.failed)
