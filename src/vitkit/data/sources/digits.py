"""The handwritten digits that scikit-learn bundles."""

from __future__ import annotations

import numpy as np

from vitkit.data.samples import Samples
from vitkit.data.sources.arrays import read_arrays
from vitkit.errors import ConfigError

__all__ = ["read_digits"]


def read_digits() -> Samples:
    """The 1,797 handwritten digits that scikit-learn bundles: uint8 [8, 8, 1], its 0..16 scaled to 0..255.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI (1998), its test part.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ConfigError(
            "the digits come with scikit-learn, which isn't installed; pip install 'vitkit[train]'"
        ) from None
    bundle = load_digits()
    pixels = ((bundle.images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)[..., None]
    return read_arrays(pixels, bundle.target, [str(digit) for digit in range(10)], name="digits")
