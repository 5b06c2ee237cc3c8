"""Where benchmarks put their files: side by side below one folder, so that both sides of a ratio pay for one disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]


@contextmanager
def folder(purpose: str) -> Iterator[Path]:
    """A folder that is gone afterwards; below $KIRCERTA_BENCH_FOLDER where that is set, else below .cache."""
    parent = Path(os.environ.get("KIRCERTA_BENCH_FOLDER", CHECKOUT / ".cache" / "bench"))
    parent.mkdir(parents=True, exist_ok=True)
    found = Path(tempfile.mkdtemp(prefix=f"{purpose}-", dir=parent))
    try:
        yield found
    finally:
        shutil.rmtree(found)
