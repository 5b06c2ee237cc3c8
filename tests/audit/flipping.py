"""Every byte of something flipped in turn: each bit pattern comes up somewhere, the case bit of a letter included."""

from __future__ import annotations

from collections.abc import Iterator


def flips(data: bytes, step: int = 1) -> Iterator[bytes]:
    """The data with one byte changed, for every byte (or every `step`-th)."""
    for place in range(0, len(data), step):
        yield data[:place] + bytes([data[place] ^ (1 << (place % 8))]) + data[place + 1 :]
