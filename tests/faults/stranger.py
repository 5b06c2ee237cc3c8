"""Becomes nobody, opens a workspace and tries a commit: prints what it was told."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from audit.files import StorageFailed
from ssot import intents
from ssot.store import Store

NOBODY = 65534


def main() -> None:
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    try:
        store = Store.open(Path(sys.argv[1]), source="kircerta/stranger")
        store.commit("T", intents.Approve("fine"), actor="alice")
    except StorageFailed as error:
        print("StorageFailed:", error)


if __name__ == "__main__":
    main()
