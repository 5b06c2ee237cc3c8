"""Numbers with their nouns, and that nobody writes a plural beside a number by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ssot.counted import counted

ROOT = Path(__file__).parents[2]
PEOPLE_READ = [
    *(path for room in ("api", "cli", "flows", "reports", "ssot") for path in (ROOT / room).rglob("*.py")),
    *(ROOT / "api" / "static").glob("*.js"),
]
NOUNS = (
    "segments events tasks runs issues lines deliveries criteria operations hunks rows checks cases streams decisions "
    "rejections approvals dispatches verdicts rules checkpoints entries refusals commands recordings files findings "
    "tries differences targets resets answers figures cells columns approvers"
).replace(" ", "|")
BY_HAND = re.compile(rf"\}}(?: more| kept| example| torn)? (?:{NOUNS})\b|\}} bytes behind")
LARGE = re.compile(r"MAX_|MOST_|_REFUSED")


def test_one_is_one_and_many_are_grouped() -> None:
    assert [counted(number, "event") for number in (0, 1, 2, 1234)] == [
        "0 events",
        "1 event",
        "2 events",
        "1,234 events",
    ]
    assert (counted(1, "criterion", "criteria"), counted(2, "criterion", "criteria")) == ("1 criterion", "2 criteria")


@pytest.mark.parametrize("path", PEOPLE_READ, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_plural_stands_beside_a_number_by_hand(path: Path) -> None:
    found = [line.strip() for line in path.read_text().splitlines() if BY_HAND.search(line) and not LARGE.search(line)]
    assert found == []
