"""The stream: everybody sees every event, in its order, as it stands in the log, also after an interruption."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Final

from audit.event import digest_of
from flows.accept import browser
from flows.accept.ground import Checks, Ground, NotShown, expect
from flows.accept.listening import Frame, listen
from flows.playground import CODE, end
from ssot.counted import counted

NOT_SHOWN: Final = (
    "a client that stops reading, and hundreds of clients: the test suite and `kircerta load soak` have those",
)
_SCRIPT: Final = CODE / "scripts" / "validation" / "sse_three_clients.py"
_SCRIPT_S: Final = 40.0
_STOPS_S: Final = 3.0
_MANY: Final = 20


def checks(on: Ground) -> Checks:
    """Every check of the module, in order."""
    yield "three clients see one decision within a second", lambda: _three_clients(on)
    yield "three windows of a real browser show one decision within a second", lambda: browser.look(on)
    yield "every line comes as it stands in the log, under its own id", lambda: _exact(on)
    yield "a stream without an id begins now", lambda: _from_now(on)
    yield "who comes back by its id misses nothing and sees nothing twice, across a restart", lambda: _resumed(on)
    yield "an id that the log does not know gets one reset, then what comes", lambda: _reset(on)


def _three_clients(on: Ground) -> str:
    if not _SCRIPT.exists():
        raise NotShown(f"{_SCRIPT.name} lies beside the code, and this is no checkout")
    since = on.last_seq()
    token = on.token("three-clients", "approver", "viewer")
    run = subprocess.run(
        [sys.executable, str(_SCRIPT), "--base-url", on.settings.api_url, "--home", str(on.settings.home)],
        env={**os.environ, **on.playground.environment, "KIRCERTA_TOKEN": token},
        capture_output=True,
        text=True,
        timeout=_SCRIPT_S,
        check=False,
    )
    said = (run.stdout if run.returncode != 2 else run.stderr).strip()
    expect(run.returncode == 0, f"{_SCRIPT.name} exited {run.returncode}: {said[-400:]}")
    event = on.event("task_rejected", after=since)
    times = [line.split()[1] for line in said.splitlines() if line[:1] in "123" and line.endswith("yes")]
    return f"seq {event.seq}: task_rejected, seen after {', '.join(times)} ms"


def _exact(on: Ground) -> str:
    last = on.last_seq()
    lines = {one.seq: one.line for one in on.events()}
    frames = listen(on.settings.api_url, lambda all_: bool(all_) and all_[-1].seq >= last, after="0")
    seqs = [one.seq for one in frames]
    expect(seqs[:last] == list(range(1, last + 1)), f"the seqs are not 1 to {last}, each once")
    for one in frames[:last]:
        expect(one.data == lines[one.seq], f"event {one.seq} is not the line of the log")
        wanted = f"{one.seq}.{digest_of(one.data).removeprefix('sha256:')[:8]}"
        expect(one.id == wanted, f"event {one.seq} came as {one.id}, not {wanted}")
    return f"seq 1 to {last}, replayed from the first: the same bytes, ids of seq and digest"


def _from_now(on: Ground) -> str:
    before = on.last_seq()
    frames = listen(on.settings.api_url, bool, lambda: on.task("stream-now"))
    expect(frames[0].seq == before + 1, f"the first event was {frames[0].seq}, not {before + 1}")
    return f"subscribed after seq {before}; the first that came was seq {frames[0].seq}"


def _resumed(on: Ground) -> str:
    began, stopped_s = on.last_seq(), 0.0

    def write_and_stop() -> None:
        nonlocal stopped_s
        _write(on, "before")
        begun = time.monotonic()
        end(on.playground.api)
        stopped_s = time.monotonic() - begun

    first = listen(on.settings.api_url, lambda all_: False, write_and_stop, within_s=30)
    _write(on, "while-down")
    on.playground.start_api()
    on.playground.await_api()
    last = on.last_seq() + _MANY
    second = listen(
        on.settings.api_url,
        lambda all_: bool(all_) and all_[-1].seq >= last,
        lambda: _write(on, "after"),
        last_event_id=first[-1].id if first else "",
    )
    seqs = [one.seq for one in (*first, *second)]
    expect(bool(first), "no event came before the restart")
    expect(seqs == list(range(began + 1, last + 1)), f"after seq {began} came {_gaps(seqs, began, last)}")
    expect(stopped_s < _STOPS_S, f"with a stream open the API took {stopped_s:.1f} s to stop")
    return (
        f"seq {began + 1} to {last}, each once; the API stopped in {stopped_s:.1f} s after seq {first[-1].seq}, and "
        f"{second[0].seq} was the next"
    )


def _write(on: Ground, name: str) -> None:
    for number in range(_MANY):
        on.task(f"stream-{name}-{number}")


def _gaps(seqs: list[int], began: int, last: int) -> str:
    missing = sorted(set(range(began + 1, last + 1)) - set(seqs))
    twice = sorted({one for one in seqs if seqs.count(one) > 1})
    return f"{counted(len(seqs), 'event')}; missing: {missing[:5]}; twice: {twice[:5]}"


def _reset(on: Ground) -> str:
    before = on.last_seq()

    def enough(frames: list[Frame]) -> bool:
        return any(one.event == "message" for one in frames)

    frames = listen(on.settings.api_url, enough, lambda: on.task("stream-reset"), last_event_id=f"{before}.00000000")
    resets = [one for one in frames if one.event == "reset"]
    expect(
        len(resets) == 1 and frames[0].event == "reset",
        f"{counted(len(resets), 'reset')}, first came a {frames[0].event}",
    )
    expect(frames[1].seq == before + 1, f"after the reset came event {frames[1].seq}, not {before + 1}")
    return f"{before}.00000000: one reset, then seq {frames[1].seq}"
