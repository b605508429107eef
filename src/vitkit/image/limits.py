"""How large a picture may be."""

from __future__ import annotations

from dataclasses import dataclass

from vitkit.errors import ConfigError, ImageError

__all__ = ["DEFAULT_LIMITS", "Limits", "check_bytes", "check_size"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How large a picture may be; a compressed file says its size before it is decoded, and is believed only so far."""

    max_pixels: int = 178_956_970  # where Pillow itself sees a decompression bomb (2^29 bytes at 3 bytes a pixel)
    max_side: int = 65_535  # JPEG's largest
    max_array_bytes: int = 2**30  # of arrays of samples, in memory: 16-bit colour of max_pixels
    max_bytes: int = 2**26  # of a download; a 50-megapixel camera's JPEG has about 30 MB
    timeout_s: float = 20.0  # of a whole download

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ConfigError(f"{name} is {value!r}; it must be larger than 0")


DEFAULT_LIMITS = Limits()


def check_size(width: int, height: int, name: str, limits: Limits) -> None:
    """Raises ImageError for a picture beyond `limits`, known from its header."""
    if width * height > limits.max_pixels or max(width, height) > limits.max_side:
        raise ImageError(
            f"{name} is {width:,} x {height:,} pixels; at most {limits.max_pixels:,} pixels and "
            f"{limits.max_side:,} a side are decoded; shrink it first or raise the limit"
        )


def check_bytes(size: int, name: str, limits: Limits) -> None:
    """Raises ImageError for an array of `size` bytes beyond `limits`, known from its header."""
    if size > limits.max_array_bytes:
        raise ImageError(
            f"{name} unpacks to {size:,} bytes; at most {limits.max_array_bytes:,} are read; shrink it first or raise "
            "the limit"
        )
