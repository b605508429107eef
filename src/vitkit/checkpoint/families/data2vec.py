"""data2vec's vision models as transformers writes them: BEiT's tensors and configuration under another model_type.

Checked against transformers 5.23 (models/data2vec/modeling_data2vec_vision.py). They are written back as the BEiT they
are.
"""

from __future__ import annotations

import dataclasses

from vitkit.checkpoint.dialect import Family
from vitkit.checkpoint.families.beit import TRANSFORMERS_BEIT

__all__ = ["FAMILY", "TRANSFORMERS_DATA2VEC"]

TRANSFORMERS_DATA2VEC = dataclasses.replace(
    TRANSFORMERS_BEIT, name="transformers' data2vec-vision", kind="data2vec-vision"
)

FAMILY = Family(layouts={}, transformers=(TRANSFORMERS_DATA2VEC,))
