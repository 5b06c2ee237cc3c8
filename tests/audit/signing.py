"""A process that writes a log and signs its head, over and over, until it is killed."""

from __future__ import annotations

import sys
from pathlib import Path

from audit.elsewhere import Elsewhere
from audit.signer import Signer
from tests.audit.test_head import KEY, write


def main(folder: Path, copy: Path) -> None:
    print("up", flush=True)
    while True:
        write(folder, 3)
        Signer(folder, [KEY], Elsewhere(copy)).sign()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
