"""`kircerta audit`: read the log, verify its chain, replay it against the task files, export it."""

from __future__ import annotations

import csv
import io
import itertools
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Final

import typer

from cli import workspace
from cli.failures import WrongUse
from cli.screen import Json, clean, note, one_line, progress, put_json, say
from ssot.counted import counted

if TYPE_CHECKING:
    from audit.event import Event
    from audit.verify import Verified
    from cli.evidence import Witnesses
    from ssot.settings import Settings

app = typer.Typer(help="Read, verify, replay and export the log.", no_args_is_help=True)

Type = Annotated[list[str] | None, typer.Option("--type", help="Only events of this type; repeatable.")]
Subject = Annotated[str | None, typer.Option("--subject", help="Only events of this task.")]
Since = Annotated[str | None, typer.Option("--since", help="Only events from this time on (RFC 3339).")]
Until = Annotated[str | None, typer.Option("--until", help="Only events before this time (RFC 3339).")]
COLUMNS: Final = ("seq", "time", "type", "subject", "actor", "correlationid", "source", "id", "prev", "data")


def add_to(parent: typer.Typer) -> None:
    parent.add_typer(app, name="audit", rich_help_panel="Look")


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events are asked for. Times are Unix seconds."""

    types: frozenset[str]
    subject: str | None
    since: float | None = None
    until: float | None = None

    @classmethod
    def of(
        cls, types: list[str] | None, subject: str | None, since: str | None = None, until: str | None = None
    ) -> Filter:
        return cls(frozenset(types or ()), subject, _moment("--since", since), _moment("--until", until))

    def fits(self, event: Event) -> bool:
        from audit.stamp import seconds_of

        if self.types and event.type not in self.types:
            return False
        if self.subject is not None and event.subject != self.subject:
            return False
        if self.since is None and self.until is None:
            return True
        moment = seconds_of(event.time)
        return (self.since is None or moment >= self.since) and (self.until is None or moment < self.until)


def _moment(option: str, given: str | None) -> float | None:
    from audit.stamp import seconds_of

    if given is None:
        return None
    try:
        return seconds_of(given)
    except ValueError:
        raise WrongUse(f"{option} {given}: a time is RFC 3339 with an offset, e.g. 2026-01-31T09:00:00Z") from None


def _folder() -> Path:
    return workspace.settings().home / "audit"


# ---------------------------------------------------------------------------------------------- tail


@app.command(epilog="Example: kircerta audit tail -f --type task_approved --type task_rejected")
def tail(
    number: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last events.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as events come, until Ctrl-C.")] = False,
    type: Type = None,
    subject: Subject = None,
    json: Json = False,
) -> None:
    """Print the last events; with --json each as its exact line of the log."""
    home, wanted = workspace.settings().home, Filter.of(type, subject)
    folder, end = home / "audit", workspace.last_seq(home)
    show = _put_line if json else _print_event
    for event in _last(folder, end, number, wanted):
        show(event)
    if follow:
        _follow(folder, end, wanted, show)


def _last(folder: Path, end: int, number: int, wanted: Filter) -> Iterator[Event]:
    """The last events up to `end` that fit: without a filter found by their seq, without reading the whole log."""
    from audit.reader import events_of, read_events

    if number == 0 or end == 0:
        return iter(())
    if wanted.subject is not None:
        found = events_of(folder, wanted.subject)
    else:
        found = read_events(folder, 0 if wanted.types else max(0, end - number))
    upto = itertools.takewhile(lambda event: event.seq <= end, found)
    return iter(deque((event for event in upto if wanted.fits(event)), maxlen=number))


def _follow(folder: Path, after: int, wanted: Filter, show: Callable[[Event], None]) -> None:
    """Print what comes, until Ctrl-C."""
    from audit.reader import LogReader
    from audit.watch import POLL_S, Doorbell

    if not folder.is_dir():
        raise WrongUse(f"{folder} does not exist: nothing was logged here yet")
    reader, bell = LogReader.after(folder, after), Doorbell([folder], appends_only=True)
    try:
        while True:
            for event in reader.read():
                if wanted.fits(event):
                    show(event)
            sys.stdout.flush()
            bell.wait(POLL_S)
    finally:
        bell.close()
        reader.close()


def _put_line(event: Event) -> None:
    sys.stdout.write(event.line.decode() + "\n")


def _print_event(event: Event) -> None:
    from cli.portrait import fact_of

    said = fact_of(event)
    line = f"{event.seq:>7}  {event.time[:23].replace('T', ' ')}  {event.type:<18}  {event.subject or '-'}"
    sys.stdout.write(clean(f"{line}  {event.actor}{'  ' + said if said else ''}") + "\n")


# -------------------------------------------------------------------------------------------- verify


@app.command(epilog="Example: kircerta audit verify --checkpoint kept-elsewhere.txt")
def verify(
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option("--checkpoint", help="A checkpoint kept elsewhere; the log must continue it. Repeatable."),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option("--key", help="The public key of --checkpoint (fingerprint, text or file); repeatable."),
    ] = None,
    json: Json = False,
) -> None:
    """Check every line: gapless seq, time never decreasing, the hash chain. Exit code 1 with the place if it breaks.

    The log must also agree with every checkpoint that is kept, and each decision must bear the server's mark (that is
    looked at where KIRCERTA_JWT_SECRET is at hand).
    """
    from cli.evidence import collect

    given = workspace.settings()
    began = time.monotonic()
    witnesses = collect(given, checkpoint or [], key)
    with progress("verifying events") as tell:
        found = _verified(given, witnesses, lambda count: tell(count, None))
    took = time.monotonic() - began
    sound = found.problem is None and witnesses.hold
    if json:
        put_json({**asdict(found), "ok": sound, "seconds": round(took, 3), **witnesses.report()})
    else:
        speed = f" ({found.bytes / 1e6 / took:,.0f} MB/s)" if found.bytes > 1e6 else ""
        say(
            f"{counted(found.events, 'event')} in {counted(found.segments, 'segment')} up to seq {found.last_seq}, "
            f"{found.bytes / 1e6:,.1f} MB in {took:.2f} s{speed}"
        )
        if found.torn_bytes:
            torn = counted(found.torn_bytes, "byte")
            say(f"{torn} behind the last line, left by a crash: the next commit puts this aside")
        say(f"the chain breaks: {found.problem}" if found.problem else f"the chain holds: {found.head}")
        witnesses.tell()
    if not sound:
        raise typer.Exit(1)


def _verified(given: Settings, witnesses: Witnesses, tell: Callable[[int], None]) -> Verified:
    """The chain, and in the same pass what the witnesses have to say."""
    from audit import mac
    from audit.head import HeadCheck
    from audit.verify import verify as verify_log

    heads = HeadCheck(witnesses.heads)
    current = given.mac_key
    decisions = mac.DecisionCheck([current, *mac.kept(given.home)] if current is not None else [])
    looks = [heads.look] if witnesses.heads else []
    found = verify_log(given.home / "audit", tell, also=[*looks, decisions.look] if current is not None else looks)
    if found.problem is None:
        heads.end()
    witnesses.problems += heads.problems
    if current is not None:
        witnesses.decisions, witnesses.unmarked = decisions.decisions, decisions.problems
    return found


# -------------------------------------------------------------------------------------------- replay


@app.command(epilog="Example: kircerta audit replay --check")
def replay(
    check: Annotated[
        bool, typer.Option("--check", help="Compare with the task files (the only thing it does).")
    ] = True,
    json: Json = False,
) -> None:
    """Replay the whole log and compare every task file with it, byte for byte. Exit code 1 if one differs.

    Files that are held (kircerta doctor tells why) are listed apart.
    """
    from ssot.replay import check as check_replay

    home = workspace.settings().home
    with progress("replaying events") as tell:
        found = check_replay(home, lambda count: tell(count, None))
    if json:
        put_json({**asdict(found), "ok": found.ok})
    else:
        say(f"{counted(found.events, 'event leads', 'events lead')} to {counted(found.tasks, 'task')}")
        for what, names in (
            ("differs from the log", found.differing),
            ("is missing", found.missing),
            ("is unknown to the log", found.extra),
            ("has a text that is missing in ssot/blobs, or was changed there", found.textless),
            ("is held", found.held),
        ):
            for name in names:
                say(f"{name} {what}")
        if found.problem:
            say(f"the log cannot be replayed: {found.problem}")
        if found.ok:
            say("every task file is what the log says")
    if not found.ok:
        raise typer.Exit(1)


# ------------------------------------------------------------------------------------------ fidelity


@app.command(epilog="Example: kircerta audit fidelity")
def fidelity(json: Json = False) -> None:
    """Follow the whole log and check that each re-dispatch carried its issues verbatim and in order.

    Exit code 1 with the first difference if one did not. Counted, too: verdicts and approvals that show no reading.
    """
    from ssot.fidelity import audit

    home = workspace.settings().home
    with progress("following events") as tell:
        found = audit(home, lambda count: tell(count, None))
    if json:
        put_json({**asdict(found), "ok": found.ok})
    else:
        say(
            f"{counted(found.tasks, 'task')}, {counted(found.dispatches, 'dispatch', 'dispatches')}, "
            f"{found.redispatches:,} of them again, with "
            f"{counted(found.forwarded, 'issue')} ({found.digests:,} checked by digest)"
        )
        say(counted(found.bare_approvals, "verdict approves and says nothing", "verdicts approve and say nothing"))
        unread = counted(found.unread_decisions, "approval does", "approvals do")
        say(f"{unread} not name the digest of what was read")
        if found.problem:
            say(f"the log cannot be followed: {found.problem}")
        for one in found.differences[:1]:
            say(f"seq {one.seq} ({one.event} of {one.task_id}, attempt {one.attempt}) differs at {one.where}:")
            say(f"  expected {one_line(one.expected)}\n  found    {one_line(one.found)}")
        say("every issue went on verbatim" if found.ok else counted(len(found.differences), "difference"))
    if not found.ok:
        raise typer.Exit(1)


# -------------------------------------------------------------------------------------------- export


@app.command(epilog="Example: kircerta audit export --format csv --since 2026-01-01T00:00:00Z --out audit.csv")
def export(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The file; stdout where absent.")] = None,
    format: Annotated[str, typer.Option(help="jsonl (the exact lines) or csv.")] = "jsonl",
    since: Since = None,
    until: Until = None,
    type: Type = None,
    subject: Subject = None,
    task: Annotated[
        str | None, typer.Option("--task", help="Write this task's evidence instead: one archive that proves itself.")
    ] = None,
    json: Json = False,
) -> None:
    """Write events into a file: as their exact lines, or as CSV with the data as JSON.

    With --task: one task's document, its texts, its lines with their proofs, and a signed statement about them, in an
    archive that `kircerta audit verify-bundle` checks anywhere.
    """
    from audit.reader import read_events

    if task is not None:
        _export_task(task, out, filtered=bool(since or until or type or subject or format != "jsonl"), json=json)
        return
    if format not in ("jsonl", "csv"):
        raise WrongUse(f"--format {format}: it is jsonl or csv")
    if json and out is None:
        raise WrongUse("--json tells how many events went into a file: name one with --out")
    folder, wanted = _folder(), Filter.of(type, subject, since, until)
    line_of = _csv_line if format == "csv" else _exact_line
    count = 0
    with progress("exporting events") as tell, _target(out) as file:
        if format == "csv":
            file.write((",".join(COLUMNS) + "\r\n").encode())
        for event in read_events(folder) if folder.is_dir() else ():
            if wanted.fits(event):
                file.write(line_of(event))
                count += 1
            tell(count, None)
    if json:
        put_json({"events": count, "out": str(out)})
    elif out is not None:
        note(f"{counted(count, 'event')} in {one_line(str(out))}")


def _export_task(task_id: str, out: Path | None, *, filtered: bool, json: bool) -> None:
    from cli.evidence import export_task

    if filtered:
        raise WrongUse("--task takes all of a task: filters and --format are for events")
    if json and out is None:
        raise WrongUse("--json tells what went into a file: name one with --out")
    if out is None and sys.stdout.isatty():
        raise WrongUse("the archive is nothing to look at: name a file with --out")
    export_task(task_id, out, json=json)


def _exact_line(event: Event) -> bytes:
    return event.line + b"\n"


def _csv_line(event: Event) -> bytes:
    import orjson

    line = io.StringIO()
    values = [orjson.dumps(event.data).decode() if name == "data" else getattr(event, name) for name in COLUMNS]
    csv.writer(line).writerow([_inert(value) for value in values])
    return line.getvalue().encode()


def _inert(value: object) -> object:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


@contextmanager
def _target(out: Path | None) -> Iterator[BinaryIO]:
    """Stdout, or a file that gets its name only when it is complete."""
    if out is None:
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    temporary = out.with_name(f".{out.name}.part")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(out)
    except OSError as error:
        raise WrongUse(f"{out} cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)
