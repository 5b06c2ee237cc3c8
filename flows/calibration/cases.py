"""Recorded work that is known to be good or bad, and what a reviewer gets to see of it: nothing of the answer."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field

from flows.agents import replay
from flows.agents.play import Move
from flows.agents.replay import NoRecording, Recording
from ssot.diff import DiffError
from ssot.task import Invalid, Part, parse_part

EXAMPLES: Final = Path(__file__).parents[2] / "examples" / "calibration"
FOLDERS: Final[Mapping[str, bool]] = {"good": True, "gold": True, "bad": False, "agent_failed": False}
"""The folders in which cases lie, and whether what is in them is good."""
MAX_TASK_BYTES: Final = 256 * 1024


class NoCases(ValueError):
    """There is nothing to calibrate with; the message says where it was looked for."""


class CaseTask(Part):
    """`NAME.task.json` beside a recording: what was asked for. `defect` is for the report alone."""

    title: str
    request_text: str
    acceptance_criteria: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    defect: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """One piece of work. `name`, `is_good` and `defect` never reach a reviewer; `shown_as` does."""

    name: str
    is_good: bool
    recording: Recording
    task: CaseTask
    shown_as: str = ""

    def work(self, job: Mapping[str, Any]) -> Iterator[Move]:
        """The executor's part: the recorded work, under the name that it is shown by."""
        log = self.recording.log._replace(instance_id="", about={})
        shown = self.recording._replace(recording_id=self.shown_as, log=log)
        for move in replay.play(shown, job):
            if isinstance(move, dict) and move["type"] == "result":
                move["summary"] = str(move["summary"]).removeprefix(f"Replayed {self.shown_as}: ")
            yield move


def load(folder: Path) -> list[Case]:
    """Every case of a folder, in order. Raises NoCases where one cannot be read, or a kind is missing."""
    try:
        found = [
            _case(diff, is_good=is_good)
            for name, is_good in FOLDERS.items()
            for diff in replay.recordings(folder / name)
            if diff.parent.name == name
        ]
    except (NoRecording, Invalid, OSError, DiffError) as error:
        raise NoCases(f"{folder}: {error}") from None
    if {case.is_good for case in found} != {True, False}:
        listed = ", ".join(f"{name}/" for name in FOLDERS)
        raise NoCases(f"{folder}: recordings are wanted of good work and of bad work, in {listed}")
    return found


def _case(diff: Path, *, is_good: bool) -> Case:
    recording = replay.load(diff)
    name = f"{diff.parent.name}/{diff.stem}"
    try:
        with diff.with_name(f"{diff.stem}.task.json").open("rb") as file:
            return Case(name, is_good, recording, parse_part(CaseTask, file.read(MAX_TASK_BYTES)))
    except FileNotFoundError:  # its tests say what was asked for
        drafted = replay.recording_task(diff)
        criteria = tuple(str(one["text"]) for one in drafted["acceptance_criteria"])
        asked = str(drafted["request_text"]).replace(f" ({diff.stem})", "")
        return Case(
            name, is_good, recording, CaseTask(title="Mend it", request_text=asked, acceptance_criteria=criteria)
        )


def blind(cases: Sequence[Case], seed: int, most: int | None = None) -> list[Case]:
    """The cases as they are put before a reviewer: in an order and under numbers that only the seed decides.

    `most`: at most so many, half of them good where there are enough.
    """
    order = random.Random(seed)
    shuffled = order.sample(list(cases), len(cases))
    if most is not None:
        good = [case for case in shuffled if case.is_good]
        bad = [case for case in shuffled if not case.is_good]
        half = max(most - len(bad), min(most // 2, len(good)))
        shuffled = order.sample(chosen := good[:half] + bad[: most - half], len(chosen))
    return [replace(case, shown_as=f"case-{number:03}") for number, case in enumerate(shuffled, start=1)]
