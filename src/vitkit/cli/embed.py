"""vitkit embed: pictures to vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vitkit.cli import options

if TYPE_CHECKING:
    from vitkit.engine.predict import Answer


def embed(
    pictures: options.Pictures,
    output: Annotated[str, typer.Option("--output", "-o", help="The file to write: .npz or .parquet.")],
    model: options.Model = None,
    batch_size: options.BatchSize = None,
    *,
    loading: options.Loading,
) -> int:
    """Turn pictures into vectors, one row each.

    A row is what the last linear layer reads; rows keep the order of the input, failed ones hold NaN and say why.
    """
    from vitkit.api.embed import check_embedding_file, embed_to_file
    from vitkit.api.load import load
    from vitkit.checkpoint.presets import DEFAULT_MODEL
    from vitkit.cli.inputs import open_pictures
    from vitkit.cli.output import Progress, complain
    from vitkit.engine.predict import BATCH_SIZE

    check_embedding_file(output)
    inputs = open_pictures(pictures)
    vit = load(DEFAULT_MODEL if model is None else model, **loading)
    with Progress() as progress:

        def tell(answer: Answer) -> None:
            progress.advance(failed=answer.error is not None)
            if answer.error is not None:
                complain(str(answer.error))

        done = embed_to_file(vit, inputs, output, batch_size=batch_size or BATCH_SIZE, on_answer=tell)
    typer.echo(
        f"{output}: {done.count:,} x {done.feature_dim} float32, {done.failed:,} failed "
        f"({vit.report.source}, {vit.engine.name})"
    )
    return 1 if done.failed else 0
