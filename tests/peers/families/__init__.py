"""One file per family: rows of what is checked against foreign code (see row.py)."""

from peers.families import vit
from peers.families.row import Row

ROWS: list[Row] = [*vit.ROWS]
