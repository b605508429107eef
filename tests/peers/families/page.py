"""docs/FAMILIES.md from the rows: PYTHONPATH=tests python -m peers.families.page > docs/FAMILIES.md."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from peers.families import ROWS
from peers.families.row import Row

LEAD = """# Families

Every family of checkpoints in every layout that vitkit reads, each row held by `tests/peers/test_families.py`: the file
is written, or read with equal answers, by the foreign code that the layout belongs to, every parameter N(0, 0.2).

- **Read**: tokens and logits of the same pixels, at most 1e-5 of the largest apart in float32. No tensor is read past:
  one element of any changed by a tenth changes the answer, or the row says which tensors no answer depends on.
- **Other sizes**: the same for pictures of so many other sizes, by the foreign code's own interpolation.
- **Written back**: what `vitkit convert --to` writes from it, read by the foreign code, answers the same.
- **Gradients**: of pixels and parameters, equal in float64 (one row per family).

This page is made by `PYTHONPATH=tests python -m peers.families.page`; a test holds it to the rows.
"""


def page(rows: Iterable[Row]) -> str:
    """The page as Markdown."""
    lines = [
        "| family | layout | read | other sizes | written back | gradients |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = (
            row.family,
            row.layout,
            "equal",
            str(len(row.sizes) or "-"),
            f"equal (`--to {row.to}`)" if row.to else f"no: {row.why}",
            "equal" if row.gradients else "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return LEAD + "\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page(ROWS))
