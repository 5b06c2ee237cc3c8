"""`kircerta dispatch`: hands tasks to agents. Served flows run it where there are some, otherwise this process does."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Final, Literal, cast

import typer

from cli import workspace
from cli.failures import Failure, WrongUse
from cli.screen import Json, note, one_line, put_json, put_table
from cli.tasks import check_id
from ssot.counted import counted

if TYPE_CHECKING:
    from flows.outcome import Outcome
    from flows.pipeline import Order
    from flows.workspace import Workspace

Wait = Literal["review", "decision", "none"]
WAITS: Final = ("review", "decision", "none")
REACHED: Final[dict[str, tuple[str, ...]]] = {
    "review": ("needs_review", "approved", "unlanded", "rejected"),
    "decision": ("approved", "unlanded"),
}
"""The stages in which what was waited for has come true."""
PATIENCE_S: Final = 3.0
"""How long a dispatcher may be away (a restart) before this process does its work."""
_AHEAD: Final = 4
"""How many dispatches are logged ahead, for each one that the dispatcher runs at once."""


def add_to(parent: typer.Typer) -> None:
    parent.command(rich_help_panel="Work", epilog="Example: kircerta dispatch T-7 T-8 --executor fake --wait review")(
        dispatch
    )


def dispatch(
    task_ids: Annotated[list[str], typer.Argument(metavar="TASK_ID...", help="The tasks.", show_default=False)],
    executor: Annotated[
        str | None,
        typer.Option(
            help="Who does the work; remote is an agent that comes over HTTP. "
            "Left out: whom the task's project names, else fake."
        ),
    ] = None,
    reviewer: Annotated[str | None, typer.Option(help="Who reviews it; left out as above.")] = None,
    wait: Annotated[
        str,
        typer.Option(
            help="review: until it is at the gate. decision: until a person approved or rejected it. "
            "none: until the dispatch is logged."
        ),
    ] = "review",
    timeout: Annotated[
        float | None, typer.Option(min=0.1, help="Wait at most so many seconds; then exit code 1. The work stays open.")
    ] = None,
    json: Json = False,
) -> None:
    """Dispatch tasks. Exit code 0 at the gate (with --wait decision: approved), 1 when an attempt ends before it.

    A task that is under way is gone on with, never dispatched twice.
    """
    ids = _checked(task_ids, wait)
    given = workspace.settings()
    from flows.agents.registry import BadAgentsFile, UnknownAgent
    from flows.here import check_agents
    from flows.pipeline import Order
    from flows.server import is_served
    from flows.workspace import Workspace

    served = is_served(given)
    order = Order(executor, reviewer, workspace.actor())
    try:
        with workspace.open_store(given) as store:
            work = Workspace(given, store)
            check_agents(work, order)
            if wait == "none" and not served and not _all_remote(work, ids, order):
                raise WrongUse(
                    f"--wait none: nobody would run {executor or 'fake'}, since no flows are served here: "
                    "start `kircerta up`, or wait for it (--wait review)"
                )
            outcomes = _run(work, ids, order, cast(Wait, wait), served=served, timeout=timeout)
    except (UnknownAgent, BadAgentsFile) as error:
        raise WrongUse(str(error)) from None
    _report(outcomes, wait, served=served, json=json)


def _checked(task_ids: list[str], wait: str) -> list[str]:
    if wait not in WAITS:
        raise WrongUse(f"--wait {wait}: it is one of {', '.join(WAITS)}")
    for task_id in task_ids:
        check_id(task_id)
    return list(dict.fromkeys(task_ids))


def _all_remote(work: Workspace, ids: list[str], order: Order) -> bool:
    """Whether every task goes to an agent that comes by itself; a task that there is not goes nowhere."""
    from flows.pipeline import FAKE, agent_names, is_remote

    def executor(task_id: str) -> str:
        if order.executor is not None or work.store.document(task_id) is None:
            return order.executor or FAKE
        return agent_names(work, work.store.task(task_id), order)[0]

    return all(is_remote(executor(one)) for one in ids)


def _run(
    work: Workspace, ids: list[str], order: Order, wait: Wait, *, served: bool, timeout: float | None
) -> list[Outcome]:
    """One outcome a task, in their order."""
    from flows.here import run_here
    from flows.overdue import time_out

    time_out(work, ids, time.time())  # such a task is not under way any more: its next attempt begins
    refused = {outcome.task_id: outcome for outcome in (_refusal(work, one, order) for one in ids) if outcome}
    left = [task_id for task_id in ids if task_id not in refused]
    deadline = time.monotonic() + timeout if timeout is not None else None
    if served:
        outcomes = leave_to_others(work, left, order, wait, deadline)
    else:
        with _bounded(timeout):
            outcomes = run_here(work, left, order, wait=wait, progress=_Teller())
    found = refused | {outcome.task_id: outcome for outcome in outcomes}
    return [found[task_id] for task_id in ids]


def _refusal(work: Workspace, task_id: str, order: Order) -> Outcome | None:
    """A task at the gate or approved takes no dispatch: the rules say so, and the log keeps that it was asked."""
    from ssot.states import stage_of
    from ssot.store import Refused

    try:
        if stage_of(work.store.task(task_id)) in ("needs_review", "approved"):
            _commit(work, task_id, order)
    except Refused as refused:
        return _refused(task_id, refused)
    return None


def _refused(task_id: str, refused: Exception) -> Outcome:
    from flows.outcome import Outcome

    return Outcome(task_id, "", "new", "Refused", str(refused))


def _commit(work: Workspace, task_id: str, order: Order) -> str:
    """Log the dispatch: whoever runs the flows finds it there. Gives its id. Raises Refused."""
    from flows.pipeline import wish_for

    wish, _ = wish_for(work, work.store.task(task_id), order)
    work.store.commit(task_id, wish, actor=order.actor)
    return wish.dispatch_id


# ----------------------------------------------------------------------------------- served by others


def leave_to_others(work: Workspace, ids: list[str], order: Order, wait: Wait, deadline: float | None) -> list[Outcome]:
    """Log the dispatches and follow the log. Should the dispatcher die and stay away, its work is done here."""
    from flows.here import run_here
    from flows.pipeline import RESUME

    found: dict[str, Outcome] = {}
    dispatches: dict[str, str] = {}
    step = len(ids) if wait == "none" or _all_remote(work, ids, order) else _AHEAD * work.settings.dispatch_concurrency
    for begin in range(0, len(ids), max(step, 1)):
        dispatches |= _log_all(work, ids[begin : begin + step], order, found)
        if begin + step < len(ids):
            _let_them_begin(work, frozenset(dispatches.values()), deadline)
    if wait == "none":
        return [found.get(one) or _standing(work, one, dispatches[one]) for one in ids]
    for outcome in follow(work, dispatches, wait, deadline):
        found[outcome.task_id] = outcome
        _Teller()(outcome)
    left = [task_id for task_id in ids if task_id not in found]
    if left:
        note(f"kircerta: the dispatcher is gone; this process goes on with {counted(len(left), 'task')}")
        with _bounded(None if deadline is None else max(0.1, deadline - time.monotonic())):
            found |= {one.task_id: one for one in run_here(work, left, RESUME, wait=wait, progress=_Teller())}
    return [found[task_id] for task_id in ids]


def _let_them_begin(work: Workspace, dispatch_ids: frozenset[str], deadline: float | None) -> None:
    """Wait until what was logged is acknowledged: the time for an ACK runs from the dispatch, also in a queue."""
    from ssot.presence import is_dispatcher_alive

    def queued() -> bool:
        work.store.refresh()
        return any(one.stage == "dispatched" and one.dispatch_id in dispatch_ids for one in work.store.open_attempts())

    while queued() and is_dispatcher_alive(work.home) and (deadline is None or time.monotonic() < deadline):
        time.sleep(0.05)


def _log_all(work: Workspace, ids: list[str], order: Order, found: dict[str, Outcome]) -> dict[str, str]:
    """The dispatch of each task: the one under way, or a new one. What is refused goes to `found`."""
    from ssot.rules import is_open
    from ssot.store import Refused

    dispatches = {}
    for task_id in ids:
        try:
            task = work.store.task(task_id)
            current = task.current.dispatch if task.current is not None and is_open(task) else None
            dispatches[task_id] = current.dispatch_id if current is not None else _commit(work, task_id, order)
        except Refused as refused:
            found[task_id] = _refused(task_id, refused)
    return dispatches


def _standing(work: Workspace, task_id: str, dispatch_id: str) -> Outcome:
    from flows.outcome import WAITING, Outcome
    from ssot.states import stage_of

    task = work.store.task(task_id)
    return Outcome(task_id, dispatch_id, stage_of(task), WAITING, "the dispatch is in the log", task.seq)


def follow(work: Workspace, dispatches: dict[str, str], wait: Wait, deadline: float | None) -> Iterator[Outcome]:
    """Each dispatch's outcome as it comes; ends early when nobody is there any more who could bring it."""
    from audit.watch import POLL_S, Doorbell
    from flows.outcome import outcome_of
    from ssot.presence import is_dispatcher_alive

    waiting, seen_alive = dict(dispatches), time.monotonic()
    bell = Doorbell([work.store.audit_folder], appends_only=True)
    try:
        while waiting:
            work.store.refresh()
            for task_id, dispatch_id in list(waiting.items()):
                outcome = outcome_of(work.store.task(task_id), dispatch_id)
                if outcome is not None and (wait == "review" or outcome.stage != "needs_review"):
                    del waiting[task_id]
                    yield replace(outcome, detail=_why(work, outcome))
            now = time.monotonic()
            if deadline is not None and now > deadline and waiting:
                raise _late(list(waiting))
            seen_alive = now if is_dispatcher_alive(work.home) else seen_alive
            if now - seen_alive > PATIENCE_S:
                return
            bell.wait(POLL_S)
    finally:
        bell.close()


def _why(work: Workspace, outcome: Outcome) -> str:
    """What the log says of an attempt that stopped: the process that knew is another one."""
    from audit.reader import event_at

    event = event_at(work.store.audit_folder, outcome.seq) if outcome.stage == "ended" else None
    return str(event.data.get("detail", "")) if event is not None and event.subject == outcome.task_id else ""


def _late(task_ids: list[str]) -> Failure:
    return Failure(
        f"{', '.join(task_ids[:5])}: not there within --timeout; the log goes on telling (kircerta task show)"
    )


@contextmanager
def _bounded(timeout: float | None) -> Iterator[None]:
    """Ends what runs in this process when its time is over; open attempts stay open."""
    if timeout is None:
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise Failure("not there within --timeout; dispatching it again goes on with it")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, timeout)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ------------------------------------------------------------------------------------------- telling


class _Teller:
    """Tells on stderr how each task gets on, where somebody watches."""

    def __init__(self) -> None:
        self._watched = sys.stderr.isatty()

    def __call__(self, outcome: Outcome) -> None:
        if self._watched:
            note(
                f"  {outcome.task_id}: {outcome.name}{' (' + one_line(outcome.detail) + ')' if outcome.detail else ''}"
            )


def _report(outcomes: list[Outcome], wait: str, *, served: bool, json: bool) -> None:
    good = {outcome.task_id: _is_good(outcome, wait) for outcome in outcomes}
    if json:
        told = [
            {**asdict(one), "stage": one.stage if one.dispatch_id else None, "ok": good[one.task_id]}
            for one in outcomes
        ]
        put_json({"ok": all(good.values()), "served": served, "outcomes": told})
    else:
        put_table(
            ("TASK", "OUTCOME", "STATUS", "DISPATCH", ""),
            (
                (one.task_id, one.name, one.stage if one.dispatch_id else "-", one.dispatch_id or "-", one.detail)
                for one in outcomes
            ),
            styled="STATUS",
        )
    for outcome in outcomes:
        if outcome.name == "Refused":
            note(f"kircerta: {one_line(outcome.detail)}")
    if not all(good.values()):
        raise typer.Exit(1)


def _is_good(outcome: Outcome, wait: str) -> bool:
    if outcome.name == "Refused":
        return False
    return wait == "none" or outcome.stage in REACHED[wait]
