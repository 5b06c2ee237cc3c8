"""Texts over 32 KiB, out of a document and back into it: pure, on plain values."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final

MAX_INLINE_BYTES: Final = 32 * 1024
_TEXT_FIELDS: Final = frozenset({"text", "detail", "summary", "reason", "request_text"})
KEPT_WHOLE: Final = frozenset({"metadata", "origin", "payload"})


def externalise(value: Any) -> tuple[Any, dict[str, bytes]]:
    """Plain values with every text over 32 KiB replaced by null and a `blob` beside it; and the blobs by hex digest."""
    blobs: dict[str, bytes] = {}
    return _externalise(value, blobs), blobs


def _externalise(value: Any, blobs: dict[str, bytes]) -> Any:
    if isinstance(value, list | tuple):
        return [_externalise(item, blobs) for item in value]
    if not isinstance(value, dict):
        return value
    out: dict[str, Any] = {}
    for key, item in value.items():
        if key in _TEXT_FIELDS and isinstance(item, str) and len(data := item.encode()) > MAX_INLINE_BYTES:
            digest = hashlib.sha256(data).hexdigest()
            blobs[digest] = data
            out[key], out["blob"] = None, f"sha256:{digest}"
        else:
            out[key] = item if key in KEPT_WHOLE else _externalise(item, blobs)
    return out


def internalise(value: Any, load: Callable[[str], str], *, named: bool = True) -> Any:
    """The opposite: put every blob's text back in its place. `load` gives the text of a digest.

    `named`: whether the digest stays beside it. Not for who has to repeat a part: it has a text, or the digest of one.
    """
    if isinstance(value, list | tuple):
        return [internalise(item, load, named=named) for item in value]
    if not isinstance(value, dict):
        return value
    out = {key: item if key in KEPT_WHOLE else internalise(item, load, named=named) for key, item in value.items()}
    blob = value.get("blob")
    if isinstance(blob, str):
        for key in _TEXT_FIELDS & value.keys():
            if value[key] is None:
                out[key] = load(blob)
                if not named:
                    del out["blob"]
    return out
