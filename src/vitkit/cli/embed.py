"""vitkit embed: pictures to vectors."""

from __future__ import annotations

from typing import Annotated

import typer

from vitkit.cli import options


def embed(
    pictures: options.Pictures,
    output: Annotated[str, typer.Option("--output", "-o", help="The file to write: .npz, .parquet or .jsonl.")],
    model: options.Model = None,
    resume: options.GoOn = False,
    batch_size: options.BatchSize = None,
    exact: options.Exact = False,
    *,
    loading: options.Loading,
) -> int:
    """Turn pictures into vectors, one row each.

    A row is what the last linear layer reads; rows keep the order of the input, failed ones hold NaN and say why.
    """
    from vitkit.api.embed import check_embedding_file, embed_to_file
    from vitkit.api.load import load
    from vitkit.checkpoint.presets import DEFAULT_MODEL
    from vitkit.cli.inputs import look_ahead, open_pictures
    from vitkit.cli.output import Progress, complain_of_failures
    from vitkit.engine.predict import BATCH_SIZE

    check_embedding_file(output, resume=resume)
    inputs = open_pictures(pictures)
    first, inputs = look_ahead(inputs, loading.get("engine"))
    vit = load(DEFAULT_MODEL if model is None else model, exact=exact, **loading, try_on=first)
    with Progress() as progress:
        size = batch_size or BATCH_SIZE
        done = embed_to_file(vit, inputs, output, batch_size=size, resume=resume, on_answer=progress.tell)
    typer.echo(
        f"{output}: {done.count:,} x {vit.spec.feature_dim} float32, {done.failed:,} failed "
        f"({vit.report.source}, {vit.engine_name})"
    )
    return complain_of_failures(done)
