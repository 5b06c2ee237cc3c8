"""Texts over 32 KiB, named by their digest: kept durably before the line that names them, never changed."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Final

from audit import files
from audit.event import Corrupt

MAX_BLOB_BYTES: Final = 32 * 1024 * 1024
_HEX: Final = re.compile(r"[0-9a-f]{64}")


class Blobs:
    """The folder ``ssot/blobs``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, blobs: dict[str, bytes]) -> None:
        """Keep texts by their hex digest. Durable when this returns. Raises StorageFailed."""
        for digest, data in blobs.items():
            files.keep_durably(self.folder, digest, data)

    def has(self, name: str) -> bool:
        """Whether the text named ``sha256:<hex>`` is kept."""
        digest = name.removeprefix("sha256:")
        return _HEX.fullmatch(digest) is not None and (self.folder / digest).is_file()

    def load(self, name: str) -> bytes | None:
        """The bytes named ``sha256:<hex>`` or ``<hex>``; None where there are none. Raises Corrupt if they changed."""
        digest = name.removeprefix("sha256:")
        if not _HEX.fullmatch(digest):
            return None
        try:
            data, _ = files.read_regular(self.folder / digest, MAX_BLOB_BYTES)
        except FileNotFoundError:
            return None
        except files.NotRegular as error:
            raise Corrupt(f"ssot/blobs/{error}") from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise Corrupt(f"ssot/blobs/{digest} was changed: its bytes no longer fit its name")
        return data

    def text(self, name: str) -> str:
        """The text named ``sha256:<hex>``. Raises Corrupt when it is missing."""
        data = self.load(name)
        if data is None:
            raise Corrupt(f"the text {name} is missing in ssot/blobs")
        return data.decode()
