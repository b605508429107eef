"""The one writer of HTML: plain blocks in, a self-contained page out, in which every text is escaped.

No script, no font, no request to anywhere: style inside, pictures as data URIs, and a policy in the page that forbids
the rest. Light and dark as the reader's system asks, from narrow phones to wide screens.
"""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from vitkit.errors import ConfigError
from vitkit.files import replace_file, writing

__all__ = [
    "Block",
    "Cell",
    "Code",
    "Facts",
    "Figure",
    "Figures",
    "Folded",
    "Heading",
    "Note",
    "Paragraph",
    "Table",
    "render_page",
    "write_page",
]

Cell: TypeAlias = str | int | float | None


@dataclass(frozen=True)
class Heading:
    """The title of a section."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True)
class Note:
    """Text set apart: a caution, or the figure that counts."""

    text: str


@dataclass(frozen=True)
class Facts:
    """Names with their values."""

    rows: Mapping[str, Cell]


@dataclass(frozen=True)
class Table:
    """Rows under column names; numbers stand right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""


@dataclass(frozen=True, eq=False)
class Figure:
    """A picture, the bytes of a PNG, with what it shows in words for those who can't see it."""

    png: bytes
    alt: str
    caption: str = ""
    pixelated: bool = False
    """Whether its pixels stay squares when it is enlarged."""
    density: int = 1
    """Its pixels to each CSS pixel: 2 for what shall be sharp on fine screens and in print."""


@dataclass(frozen=True)
class Figures:
    """Small pictures side by side, as many in a row as fit."""

    figures: Sequence[Figure]
    width: int = 220
    """Of each at least, in CSS pixels."""


@dataclass(frozen=True)
class Code:
    """Lines to copy: commands to try next."""

    text: str


@dataclass(frozen=True)
class Folded:
    """Blocks behind their title, for those who open it."""

    title: str
    blocks: Sequence[Block]


Block: TypeAlias = Heading | Paragraph | Note | Facts | Table | Figure | Figures | Code | Folded


def write_page(file: str | os.PathLike[str], title: str, blocks: Sequence[Block], *, lead: str = "") -> None:
    """Writes `render_page`'s page, whole or not at all."""
    page = render_page(title, blocks, lead=lead)
    with writing(file), replace_file(file) as part:
        part.write_text(page, encoding="utf-8", newline="\n")


def render_page(title: str, blocks: Sequence[Block], *, lead: str = "") -> str:
    """A complete HTML5 document: the title, a line `lead` below it, then the blocks in order."""
    body = "\n".join(_render(block) for block in blocks)
    below = f'\n<p class="lead">{_text(lead)}</p>' if lead else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{_text(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{_text(title)}</h1>{below}
{body}
</main>
</body>
</html>
"""


def _render(block: Block) -> str:
    if type(block) not in RENDERERS:
        raise ConfigError(f"a report has no block of type {type(block).__name__}; allowed: {', '.join(NAMES)}")
    return RENDERERS[type(block)](block)


def _facts(block: Facts) -> str:
    rows = "\n".join(f"<div><dt>{_text(name)}</dt><dd>{_value(value)}</dd></div>" for name, value in block.rows.items())
    return f"<dl>\n{rows}\n</dl>"


def _table(block: Table) -> str:
    wrong = [number for number, row in enumerate(block.rows, start=1) if len(row) != len(block.columns)]
    if wrong:
        raise ConfigError(f"rows {wrong[:10]} of the table {block.caption!r} don't have {len(block.columns)} cells")
    numeric = [
        bool(block.rows) and all(isinstance(row[at], int | float | None) for row in block.rows)
        for at in range(len(block.columns))
    ]
    kinds = [' class="number"' if right else "" for right in numeric]
    head = "".join(f'<th scope="col"{kind}>{_text(name)}</th>' for name, kind in zip(block.columns, kinds, strict=True))
    rows = "\n".join(
        f"<tr>{''.join(f'<td{kind}>{_value(cell)}</td>' for cell, kind in zip(row, kinds, strict=True))}</tr>"
        for row in block.rows
    )
    caption = f"<caption>{_text(block.caption)}</caption>\n" if block.caption else ""
    label = _text(block.caption or "table")
    # A wide table scrolls by itself, by keyboard too, so that the page never does.
    return (
        f'<div class="wide" role="region" aria-label="{label}" tabindex="0">\n<table>\n{caption}'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n</div>"
    )


def _figure(block: Figure, *, alone: bool = True) -> str:
    if not block.png.startswith(b"\x89PNG"):
        raise ConfigError(f"the figure {block.alt!r} isn't a PNG; encode it as one")
    data = base64.b64encode(block.png).decode("ascii")
    kind = ' class="pixels"' if block.pixelated else ""
    width, height = (int.from_bytes(block.png[at : at + 4], "big") // block.density for at in (16, 20))  # of the header
    size = f'width="{width}" height="{height}"'
    alt = _text(block.alt)
    image = f'<img{kind} {size} alt="{alt}" src="data:image/png;base64,{data}">'
    if alone and width > SHRINKING:  # it holds small text: where it can't be read any more, the picture scrolls instead
        frame = f'<div class="wide" role="region" aria-label="{alt}" tabindex="0" style="--least: {2 * width // 3}px">'
        image = f"{frame}{image}</div>"
    caption = f"\n<figcaption>{_text(block.caption)}</figcaption>" if block.caption else ""
    return f"<figure>\n{image}{caption}\n</figure>"


def _figures(block: Figures) -> str:
    cells = "\n".join(_figure(figure, alone=False) for figure in block.figures)
    return f'<div class="figures" style="--least: {int(block.width)}px">\n{cells}\n</div>'


def _folded(block: Folded) -> str:
    body = "\n".join(_render(inner) for inner in block.blocks)
    return f"<details>\n<summary>{_text(block.title)}</summary>\n{body}\n</details>"


def _value(value: Cell) -> str:
    """Numbers with their thousands apart; other floats to four significant digits: give text for more."""
    if value is None:
        return "–"  # noqa: RUF001  # an en dash where there is nothing
    if isinstance(value, bool | str):
        return _text(str(value))
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _text(text: str) -> str:
    """Escaped for text and attributes alike; controls and lone surrogates (a file name's odd bytes) are replaced."""
    return html.escape(text.translate(UNFIT).encode("utf-8", "replace").decode("utf-8"))


UNFIT = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)], "\N{REPLACEMENT CHARACTER}")
"""Control characters that HTML doesn't allow."""

RENDERERS: Mapping[type, Callable[[Any], str]] = {
    Heading: lambda block: f"<h2>{_text(block.text)}</h2>",
    Paragraph: lambda block: f"<p>{_text(block.text)}</p>",
    Note: lambda block: f'<p class="note">{_text(block.text)}</p>',
    Facts: _facts,
    Table: _table,
    Figure: _figure,
    Figures: _figures,
    Code: lambda block: f'<pre tabindex="0"><code>{_text(block.text)}</code></pre>',
    Folded: _folded,
}
NAMES = tuple(kind.__name__ for kind in RENDERERS)

SHRINKING = 660
"""CSS pixels: pictures up to this wide may shrink to a phone's width."""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

STYLE = """
:root { --ink: #1c1c1e; --soft: #5f6068; --line: #dcdce1; --paper: #fff; --raised: #f5f5f7; --accent: #3b5bdb; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececf0; --soft: #a3a4ad; --line: #3a3a40; --paper: #17171a; --raised: #222226; --accent: #91a7ff; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); overflow-wrap: break-word;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem; letter-spacing: -.01em; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 2.75rem 0 .75rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
p { margin: .75rem 0; max-width: 44rem; }
.lead { color: var(--soft); font-size: 1.1rem; }
.note { background: var(--raised); border-left: 3px solid var(--accent); border-radius: 0 6px 6px 0;
  padding: .7rem 1rem; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); gap: 0 2.5rem;
  margin: 1rem 0; }
dl div { display: flex; justify-content: space-between; gap: 1rem; padding: .4rem 0;
  border-bottom: 1px solid var(--line); }
dt { color: var(--soft); }
dd { margin: 0; text-align: right; font-variant-numeric: tabular-nums; min-width: 0; }
.wide { overflow-x: auto; margin: 1rem 0; }
.wide img { min-width: var(--least); }
table { border-collapse: collapse; width: 100%; font-size: .94rem; }
caption { text-align: left; color: var(--soft); padding-bottom: .4rem; }
th, td { text-align: left; padding: .4rem 1.25rem .4rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: 1.25rem 0; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
.pixels { image-rendering: pixelated; }
figcaption { color: var(--soft); font-size: .88rem; line-height: 1.4; margin-top: .4rem; max-width: 44rem; }
.figures { display: grid; gap: 1.25rem 1rem; margin: 1.25rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(var(--least), 100%), 1fr)); }
.figures figure { margin: 0; }
.figures img { width: 100%; }
summary { cursor: pointer; padding: .4rem 0; }
pre { background: var(--raised); border-radius: 6px; padding: .9rem 1rem; overflow-x: auto; margin: 1rem 0; }
code { font: .9rem/1.6 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
@media (max-width: 40rem) {
  main { padding: 1.5rem 1rem 3rem; }
  h1 { font-size: 1.5rem; }
}
@media print { h2 { break-after: avoid; } figure, tr { break-inside: avoid; } }
"""
