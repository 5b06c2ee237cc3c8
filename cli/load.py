"""`kircerta load soak|flood|stress|chaos`: puts the running system under load, and says whether it held."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli import workspace
from cli.failures import INTERRUPTED, Failure, WrongUse
from cli.screen import Json, live, put_json, put_table, say
from ssot.counted import counted

if TYPE_CHECKING:
    from flows.load.session import Progress
    from ssot.runs import Bound, Kind, RunRecord
    from ssot.settings import Settings

EXIT_CODES: Final = {"pass": 0, "fail": 1, "invalid": 3}
load = typer.Typer(
    help="Put the running system under load and judge it: soak, flood, stress, chaos. Exit code 1: a threshold is "
    "broken; 3: INVALID, the generator or its machine was the bottleneck.",
    no_args_is_help=True,
)

BaseUrl = Annotated[
    str | None,
    typer.Option(help="The API under load, on this machine. Default: KIRCERTA_API_URL.", show_default=False),
]
Duration = Annotated[
    str | None, typer.Option(help="How long: a number and s, m, h or d, e.g. 120s or 2h.", show_default=False)
]
Threshold = Annotated[
    list[str] | None,
    typer.Option(
        help="What must hold, e.g. 'read_p95<200' (ms); replaces the setting's for that measure. Several times.",
        show_default=False,
    ),
]
Gate = Annotated[
    list[str] | None,
    typer.Option(
        help="When the run itself is valid: generator_cpu, dispatch_lag_p99, achieved, foreign_cpu. Stands in the "
        "record.",
        show_default=False,
    ),
]
Readers = Annotated[int | None, typer.Option(help="Clients that read.", show_default=False)]
ReadRate = Annotated[float | None, typer.Option(help="Reads a second, over all of them.", show_default=False)]
Deciders = Annotated[int | None, typer.Option(help="Clients that decide.", show_default=False)]
WriteRate = Annotated[float | None, typer.Option(help="Decisions a second, over all of them.", show_default=False)]
Streams = Annotated[int | None, typer.Option(help="Clients of the event stream.", show_default=False)]
Closed = Annotated[
    bool,
    typer.Option("--closed", help="Closed loop: each client sends again when it has its answer. Hides stalls."),
]


class Invalid(Failure):
    """The run itself broke: nothing was passed or failed."""

    code = EXIT_CODES["invalid"]


def add_to(parent: typer.Typer) -> None:
    parent.add_typer(load, name="load", rich_help_panel="Check")


@load.command(epilog="Example: kircerta load soak --duration 10m")
def soak(
    base_url: BaseUrl = None,
    duration: Duration = None,
    streams: Streams = None,
    readers: Readers = None,
    read_rate: ReadRate = None,
    deciders: Deciders = None,
    write_rate: WriteRate = None,
    closed: Closed = False,
    threshold: Threshold = None,
    gate: Gate = None,
    json: Json = False,
) -> None:
    """Streams for hours while decisions are broadcast: 50 streams, 10 decisions a second, 2 h."""
    wishes = _mix(streams, readers, read_rate, deciders, write_rate, closed=closed)
    _run("soak", base_url, duration, wishes, threshold, gate, json=json)


@load.command(epilog="Example: kircerta load stress --duration 60s --read-rate 400")
def stress(
    base_url: BaseUrl = None,
    duration: Duration = None,
    streams: Streams = None,
    readers: Readers = None,
    read_rate: ReadRate = None,
    deciders: Deciders = None,
    write_rate: WriteRate = None,
    closed: Closed = False,
    threshold: Threshold = None,
    gate: Gate = None,
    json: Json = False,
) -> None:
    """Everybody at once: 100 readers, 10 deciders, 50 streams, 60 s."""
    wishes = _mix(streams, readers, read_rate, deciders, write_rate, closed=closed)
    _run("stress", base_url, duration, wishes, threshold, gate, json=json)


@load.command(epilog="Example: kircerta load flood --duration 120s --flood-rate 50 --sizes 1KB,1MB")
def flood(
    base_url: BaseUrl = None,
    duration: Duration = None,
    flood_rate: Annotated[
        float | None, typer.Option(help="Deliveries with a bad signature a second.", show_default=False)
    ] = None,
    flooders: Annotated[int | None, typer.Option(help="Connections that they come over.", show_default=False)] = None,
    sizes: Annotated[str, typer.Option(help="Sizes of their bodies, in turn.")] = "1KB,1MB",
    readers: Readers = None,
    read_rate: ReadRate = None,
    closed: Closed = False,
    threshold: Threshold = None,
    gate: Gate = None,
    json: Json = False,
) -> None:
    """Bad signatures at /webhooks/github, while reads are measured before, during and after, over and over."""
    from flows.load.plan import sizes_of

    wishes = _mix(None, readers, read_rate, None, None, closed=closed)
    wishes |= {"flood_rate": flood_rate, "flooders": flooders, "flood_bytes": _or_wrong_use(sizes_of, sizes)}
    _run("flood", base_url, duration, {**wishes, "alarms": False}, threshold, gate, json=json)


@load.command(epilog="Example: kircerta load chaos --duration 60s")
def chaos(
    base_url: BaseUrl = None,
    duration: Duration = None,
    streams: Streams = None,
    readers: Readers = None,
    read_rate: ReadRate = None,
    deciders: Deciders = None,
    write_rate: WriteRate = None,
    threshold: Threshold = None,
    gate: Gate = None,
    json: Json = False,
) -> None:
    """Processes are killed, the disk fills, clocks jump, files are edited; afterwards nothing may be lost.

    It starts its own API and dispatcher on a workspace of its own. With --base-url it kills nobody: then only files
    are edited by hand.
    """
    wishes = _mix(streams, readers, read_rate, deciders, write_rate, closed=False)
    _run("chaos", base_url, duration, {**wishes, "alarms": False}, threshold, gate, json=json)


def _mix(
    streams: int | None,
    readers: int | None,
    read_rate: float | None,
    deciders: int | None,
    write_rate: float | None,
    *,
    closed: bool,
) -> dict[str, Any]:
    return {
        "streams": streams,
        "readers": readers,
        "read_rate": read_rate,
        "deciders": deciders,
        "write_rate": write_rate,
        "closed": closed,
    }


def _or_wrong_use(make: Any, *arguments: Any, **more: Any) -> Any:
    """What is asked for wrongly is wrong use."""
    from pydantic import ValidationError

    from flows.load.plan import BadPlan
    from flows.load.thresholds import BadExpression

    try:
        return make(*arguments, **more)
    except (BadPlan, BadExpression) as error:
        raise WrongUse(str(error)) from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise WrongUse(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}") from None


def _run(
    kind: Kind,
    base_url: str | None,
    duration: str | None,
    wishes: dict[str, Any],
    thresholds: list[str] | None,
    gates: list[str] | None,
    *,
    json: bool,
) -> None:
    from flows.load import runs
    from flows.load.place import NotHere
    from flows.load.plan import seconds_of
    from flows.load.sender import GeneratorDied

    given = workspace.settings()
    wishes["duration_s"] = _or_wrong_use(seconds_of, duration) if duration is not None else None
    asked = _or_wrong_use(runs.asked, given, kind, base_url, wishes, thresholds or (), gates or ())
    try:
        with _stoppable() as asked.stop, live() as show:
            asked.show = lambda progress: show(_line(kind, progress))
            record = runs.carry_out(given, asked, own_server=kind == "chaos" and base_url is None)
    except NotHere as error:
        raise WrongUse(str(error)) from None
    except (GeneratorDied, TimeoutError) as error:
        raise Invalid(str(error)) from None
    put_json(record.model_dump_json(by_alias=True).encode()) if json else _tell(record, given)
    raise typer.Exit(INTERRUPTED if record.interrupted else EXIT_CODES[record.outcome or "invalid"])


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set: the run then ends with what it has. The second Ctrl-C ends it at once."""
    stop = threading.Event()

    def ask(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ------------------------------------------------------------------------------------------------- showing


def _line(kind: str, progress: Progress) -> str:
    """How far a run is, in one line."""
    parts = [f"{kind}: {progress.step}", f"{progress.done_s:.0f} of {progress.of_s:.0f} s"]
    for name, (count, errors) in progress.done.items():
        p95 = progress.p95_ms.get(name)
        parts.append(
            f"{name} {count:,}" + (f", {errors} wrong" if errors else "") + (f", p95 {p95:.0f} ms" if p95 else "")
        )
    if progress.streams_open:
        parts.append(f"{counted(progress.streams_open, 'stream')}, {counted(progress.events, 'event')}")
    return " | ".join(parts)


def _tell(record: RunRecord, given: Settings) -> None:
    from ssot.runs import FOLDER

    columns = ("operation", "count", "errors", "p50 ms", "p95 ms", "p99 ms", "max ms")
    rows = [
        (name, f"{of.count:,}", of.errors, *(_number(one) for one in (of.p50_ms, of.p95_ms, of.p99_ms, of.max_ms)))
        for name, of in _all_figures(record)
    ]
    put_table(columns, rows)
    say()
    put_table(("", "must hold", "measured"), [_row(bound) for bound in record.thresholds], styled="")
    for bound in record.gates:
        if not bound.ok:
            say(f"INVALID: {bound.expression} does not hold ({_number(bound.value)})", "red")
    for alarm in record.alarms:
        where = f"event {alarm.seq}, by {alarm.actor}" if alarm.seq is not None else "NOT IN THE LOG"
        say(f"provoked {alarm.type}: {where}")
    for slope in record.slopes:
        grown = (_signed(one) for one in (slope.per_hour, slope.low, slope.high))
        say("{}: {} {} ({} to {})".format(slope.name, next(grown), slope.unit.removeprefix("1"), *grown))
    for line in record.not_shown:
        say(f"not shown: {line}")
    for line in (record.chaos or {}).get("problems", ()):
        say(f"broken: {line}", "red")
    outcome = (record.outcome or "invalid").upper() + (", interrupted" if record.interrupted else "")
    say(f"{outcome}: {given.home / FOLDER / record.run_id}", "green" if record.outcome == "pass" else "red")


def _all_figures(record: RunRecord) -> Iterator[tuple[str, Any]]:
    for name, of in record.results.items():
        yield name, of
        for phase, part in record.phases.get(name, {}).items():
            yield f"  {phase}", part


def _row(bound: Bound) -> tuple[str, str, str]:
    return ("ok" if bound.ok else "fail", bound.expression, _number(bound.value))


def _signed(value: float) -> str:
    return f"{value:+,.4g}" if abs(value) < 1000 else f"{value:+,.0f}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
