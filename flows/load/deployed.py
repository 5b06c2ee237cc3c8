"""The load runs as people start them in the Prefect UI, or a schedule does: thin, each shows how far it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Annotated, Any, Final

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact, acreate_progress_artifact, aupdate_progress_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field, ValidationError

from flows import exhibits
from flows.load import runs
from flows.load.place import NotHere
from flows.load.plan import BadPlan, seconds_of, sizes_of
from flows.load.session import Asked, Progress
from flows.load.thresholds import BadExpression
from flows.workspace import current
from ssot.runs import Bound, Figures, Kind, RunRecord

Duration = Annotated[str, Field(pattern=r"^\d{1,9}(\.\d{1,3})?[smhd]$")]
Count = Annotated[int, Field(ge=0, le=20_000)]
Rate = Annotated[float, Field(ge=0, le=100_000)]
_LOG: Final = logging.getLogger("kircerta.load")
_SHOW_S: Final = 3.0


@flow(name="soak", persist_result=False)
async def soak(
    duration: Duration = "2h",
    streams: Count = 50,
    write_rate: Rate = 10.0,
    read_rate: Rate = 20.0,
    thresholds: tuple[str, ...] = (),
    gates: tuple[str, ...] = (),
    base_url: str | None = None,
) -> State[Any]:
    """Streams for hours while decisions are broadcast: are there gaps, silences, leaks?

    Args:
        duration: How long: a number and s, m, h or d. Only two hours show what takes two hours.
        streams: Clients of the event stream.
        write_rate: Decisions a second, on tasks that the run makes itself.
        read_rate: Reads a second.
        thresholds: What must hold, e.g. `read_p95<200`; each replaces the setting's for its measure.
        gates: When the run itself is valid, e.g. `foreign_cpu<=0.5` on a machine that does other things, too.
        base_url: The API under load, on this machine; by default the workspace's own.
    """
    wishes = {"streams": streams, "write_rate": write_rate, "read_rate": read_rate}
    return await _run("soak", base_url, duration, wishes, thresholds, gates)


@flow(name="stress", persist_result=False)
async def stress(
    duration: Duration = "60s",
    readers: Count = 100,
    deciders: Annotated[int, Field(ge=0, le=1000)] = 10,
    streams: Count = 50,
    read_rate: Rate = 200.0,
    write_rate: Rate = 10.0,
    thresholds: tuple[str, ...] = (),
    gates: tuple[str, ...] = (),
    base_url: str | None = None,
) -> State[Any]:
    """Everybody at once: readers, deciders and streams.

    Args:
        duration: How long: a number and s, m, h or d.
        readers: Clients that read.
        deciders: Clients that decide, on tasks that the run makes itself.
        streams: Clients of the event stream.
        read_rate: Reads a second, over all readers.
        write_rate: Decisions a second, over all deciders.
        thresholds: What must hold, e.g. `read_p95<200`; each replaces the setting's for its measure.
        gates: When the run itself is valid, e.g. `foreign_cpu<=0.5` on a machine that does other things, too.
        base_url: The API under load, on this machine; by default the workspace's own.
    """
    wishes = {"readers": readers, "deciders": deciders, "streams": streams}
    wishes |= {"read_rate": read_rate, "write_rate": write_rate}  # type: ignore[dict-item]
    return await _run("stress", base_url, duration, wishes, thresholds, gates)


@flow(name="flood", persist_result=False)
async def flood(
    duration: Duration = "120s",
    flood_rate: Rate = 50.0,
    sizes: str = "1KB,1MB",
    read_rate: Rate = 100.0,
    thresholds: tuple[str, ...] = (),
    gates: tuple[str, ...] = (),
    base_url: str | None = None,
) -> State[Any]:
    """Deliveries with a bad signature, while reads are measured before, during and after.

    Args:
        duration: How long: a number and s, m, h or d.
        flood_rate: Deliveries with a bad signature a second.
        sizes: Sizes of their bodies, in turn.
        read_rate: Reads a second.
        thresholds: What must hold, e.g. `read_during_p95<200`; each replaces the setting's for its measure.
        gates: When the run itself is valid, e.g. `foreign_cpu<=0.5` on a machine that does other things, too.
        base_url: The API under load, on this machine; by default the workspace's own.
    """
    wishes = {"flood_rate": flood_rate, "read_rate": read_rate, "flood_bytes": sizes, "alarms": False}
    return await _run("flood", base_url, duration, wishes, thresholds, gates)


@flow(name="chaos", persist_result=False)
async def chaos(
    duration: Duration = "60s",
    read_rate: Rate = 50.0,
    write_rate: Rate = 10.0,
    streams: Count = 10,
    thresholds: tuple[str, ...] = (),
    gates: tuple[str, ...] = (),
) -> State[Any]:
    """Processes are killed, the disk fills, clocks jump, files are edited, on a workspace of the run's own.

    Args:
        duration: How long: a number and s, m, h or d.
        read_rate: Reads a second.
        write_rate: Decisions a second.
        streams: Clients of the event stream.
        thresholds: What must hold beside the promises that never may break.
        gates: When the run itself is valid, e.g. `foreign_cpu<=0.5` on a machine that does other things, too.
    """
    wishes = {"read_rate": read_rate, "write_rate": write_rate, "streams": streams, "alarms": False}
    return await _run("chaos", None, duration, wishes, thresholds, gates)


# ------------------------------------------------------------------------------------------------ one run


async def _run(
    kind: Kind,
    base_url: str | None,
    duration: str,
    wishes: dict[str, Any],
    thresholds: Sequence[str],
    gates: Sequence[str],
) -> State[Any]:
    settings = current().settings
    try:
        if "flood_bytes" in wishes:
            wishes["flood_bytes"] = sizes_of(wishes["flood_bytes"])
        wishes["duration_s"] = seconds_of(duration)
        wanted = runs.asked(settings, kind, base_url, wishes, thresholds, gates)
        work = asyncio.to_thread(runs.carry_out, settings, wanted, own_server=kind == "chaos")
        record = await _shown(kind, wanted, asyncio.create_task(work))
    except (NotHere, BadPlan, BadExpression, ValidationError) as error:
        return Failed(name="Refused", message=str(error)[:2000])
    await acreate_markdown_artifact(page(record), key=f"load-{kind}", description=f"{record.run_id}: {record.outcome}")
    return state_of(record)


async def _shown(kind: Kind, wanted: Asked, work: asyncio.Task[RunRecord]) -> RunRecord:
    """Move a bar in the UI while the run goes on. Where the flow is cancelled, the run ends with what it has."""
    latest = [Progress("preparing", 0.0, wanted.plan.duration_s)]

    def show(progress: Progress) -> None:
        latest[0] = progress

    wanted.show = show
    try:
        artifact = await acreate_progress_artifact(0.0, key=f"load-{kind}-progress", description=f"The {kind} run")
        while not (await asyncio.wait({work}, timeout=_SHOW_S))[0]:
            await _move(artifact, latest[0])
        await aupdate_progress_artifact(artifact, 100.0)
        return await work
    except asyncio.CancelledError:
        wanted.stop.set()
        await asyncio.wait({work})
        raise


async def _move(artifact: Any, progress: Progress) -> None:
    try:
        await aupdate_progress_artifact(artifact, min(99.0, 100.0 * progress.done_s / progress.of_s))
    except Exception as error:  # a server that went away: the run goes on all the same
        _LOG.warning("the progress is not shown: %r", error)


def state_of(record: RunRecord) -> State[Any]:
    """`Passed`, `ThresholdBroken`, or `Invalid` where the figures say nothing about the server."""
    broken = [bound for bound in (*record.thresholds, *record.gates) if not bound.ok]
    message = f"{record.run_id}: " + (", ".join(_told(bound) for bound in broken) or "all thresholds hold")
    match record.outcome:
        case "pass":
            return Completed(name="Passed", message=message)
        case "fail":
            return Failed(name="ThresholdBroken", message=message)
        case _:
            return Failed(name="Invalid", message=message)


def _told(bound: Bound) -> str:
    return f"{bound.expression} (was {'nothing' if bound.value is None else f'{bound.value:g}'})"


def page(record: RunRecord) -> str:
    """What came out: the thresholds, then the figures."""
    bounds = (
        (
            exhibits.escaped(one.expression),
            "nothing" if one.value is None else f"{one.value:g}",
            "yes" if one.ok else "NO",
        )
        for one in (*record.thresholds, *record.gates)
    )
    figures = ((exhibits.escaped(name), *_cells(of)) for name, of in record.results.items())
    head = f"# {exhibits.escaped(record.run_id)}: {record.outcome}"
    lines = [head, "", *exhibits.table(("must hold", "was", "holds"), bounds), ""]
    lines += exhibits.table(("operation", "count", "errors", "p50 ms", "p95 ms", "p99 ms", "max ms"), figures)
    return "\n".join([*lines, "", *(f"- not shown: {exhibits.escaped(one)}" for one in record.not_shown)]) + "\n"


def _cells(of: Figures) -> list[str]:
    times = (of.p50_ms, of.p95_ms, of.p99_ms, of.max_ms)
    return [str(of.count), str(of.errors), *("none" if one is None else f"{one:g}" for one in times)]
