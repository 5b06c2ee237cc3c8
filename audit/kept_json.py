"""JSON bytes that stay in memory. orjson's own hold on to the room that it had set aside for them.

Measured with orjson 3.13: a row of 290 bytes takes 4.1 KB, a document of 3.5 KB takes 16 to 32 KB. Where an answer is
sent and forgotten that does not matter.
"""

from __future__ import annotations

from typing import Any

import orjson


def dumps(value: Any, option: int = 0) -> bytes:
    """What `orjson.dumps` gives, in an object of just its size."""
    return bytes(memoryview(orjson.dumps(value, option=option)))
