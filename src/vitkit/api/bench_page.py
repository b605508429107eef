"""A bench in words, as a table, a plot and a page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from vitkit.errors import ConfigError
from vitkit.files import check_new_file, replace_file, writing
from vitkit.report.drawing import DENSITY, check_output, import_figure
from vitkit.report.html import Block, Figure, Paragraph, Table, write_page
from vitkit.report.speeds import Lane, speeds_picture

if TYPE_CHECKING:
    from vitkit.api.bench import Bench, Row

__all__ = ["COLUMNS", "cells", "check_bench_output", "tell_around", "tell_machine", "tell_model", "write_bench"]

COLUMNS = ("", "p50 ms", "p95", "p99", "images/s", "±", "batch", "of peak", "core-ms", "from files", "MB", "ready s")
EXPLAINED = (
    "p50, p95, p99: milliseconds from one picture's file to its answer. images/s: the model alone at its best batch, "
    "half the distance of its quartiles (±), its share of what the machine's matrix products reach, and milliseconds "
    "of a core a picture. From files: pictures a second from files to answers. MB: the most that a process which "
    "runs nothing else holds; ready: from its start to its first answer."
)


def check_bench_output(file: str | os.PathLike[str]) -> None:
    """Raises ConfigError where neither a plot nor a page could be written to `file`."""
    if Path(file).suffix.lower() == ".html":
        check_new_file(file)
        import_figure()
    elif Path(file).suffix.lower() == ".png":
        check_output(file)
    else:
        raise ConfigError(f"can't write {os.fspath(file)!r}: let its name end in .png (a plot) or .html (a page)")


def write_bench(file: str | os.PathLike[str], bench: Bench) -> None:
    """Writes the plot, or the page about it."""
    measured = [row for row in bench.rows if row.speed is not None]
    png = speeds_picture([_lane(row) for row in measured], tell_model(bench), tell_machine(bench))
    if Path(file).suffix.lower() == ".png":
        with writing(file), replace_file(file) as part:
            part.write_bytes(png)
        return
    said = [f"{row.runner} {row.dtype}: {row.note}" for row in bench.rows if row.note]
    alt = "latency and throughput of each engine; the table has the figures"
    blocks: list[Block] = [
        Figure(png, alt, density=DENSITY),
        Table(COLUMNS, [cells(row) for row in measured], caption=EXPLAINED),
        *(Paragraph(text) for text in (*said, *tell_around(bench))),
    ]
    write_page(file, "Speed", blocks, lead=f"{tell_model(bench)}. {tell_machine(bench)}.")


def tell_model(bench: Bench) -> str:
    """What was run, on what."""
    height, width = bench.image_size
    size = f"{bench.parameters / 1e6:.1f} M parameters, {bench.macs / 1e9:.2f} GMACs at {height}x{width}"
    return f"{bench.model}: {bench.title}, {size}; {bench.pictures}"


def tell_machine(bench: Bench) -> str:
    """Where it was run, and with what."""
    versions = ", ".join(f"{name} {version}" for name, version in bench.machine.versions.items())
    threads = bench.machine.threads
    return f"{bench.machine.processor}, {threads} {'thread' if threads == 1 else 'threads'}; {versions}"


def tell_around(bench: Bench) -> list[str]:
    """What the table leaves out."""
    stages = ", ".join(f"{name} {1000 * seconds:.2f}" for name, seconds in bench.stages.items())
    peaks = ", ".join(f"{peak / 1e9:,.0f} GFLOP/s in {dtype}" for dtype, peak in bench.peaks.items())
    return [f"around the engine, core-ms of a picture: {stages}", f"matrix products reach {peaks}"]


def cells(row: Row) -> list[str]:
    """A measured row under COLUMNS."""
    speed = row.speed
    assert speed is not None and row.peak_share is not None and row.core_s is not None
    best = speed.best
    memory = None if row.alone is None else row.alone.memory_bytes
    return [
        f"{row.runner} {row.dtype}",
        *(f"{1000 * seconds:.1f}" for seconds in (speed.latency.p50, speed.latency.p95, speed.latency.p99)),
        f"{best.images_per_s:.1f}",
        f"{(best.high - best.low) / 2 / best.images_per_s:.0%}",
        f"{best.images}",
        f"{row.peak_share:.0%}",
        f"{1000 * row.core_s:.1f}",
        f"{speed.many.images_per_s:.1f}",
        "-" if memory is None else f"{memory / 1e6:.0f}",
        "-" if row.alone is None else f"{row.alone.ready_s:.1f}",
    ]


def _lane(row: Row) -> Lane:
    speed = row.speed
    assert speed is not None
    p50, p95, p99 = (1000 * seconds for seconds in (speed.latency.p50, speed.latency.p95, speed.latency.p99))
    best = speed.best
    rates = (best.images_per_s, best.low, best.high)
    return Lane(f"{row.runner} {row.dtype}", row.runner, (p50, p95, p99), rates, speed.many.images_per_s)
