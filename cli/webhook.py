"""`kircerta webhook`: what was delivered, what came of it, what is kept because its effect failed, and what GitHub is
asked to send again because it never arrived."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli import workspace
from cli.failures import Failure, WrongUse
from cli.screen import Json, one_line, progress, put_json, put_table, say
from ssot.counted import counted

if TYPE_CHECKING:
    from audit.event import Event
    from flows.backfill import Report, Wish
    from flows.backfill import Row as FailedRow
    from ssot.inbox import Standing, Tried
    from ssot.settings import Settings

app = typer.Typer(help="Deliveries from GitHub, Xcode Cloud and Telegram.", no_args_is_help=True)

SENDERS: Final = ("github", "xcode", "telegram")
_SPANS: Final = (5_000, 100_000)
"""How far back the log is read for the newest deliveries, before all of it is."""
_HEAD: Final = ("SEQ", "TIME", "SENDER", "KIND", "DELIVERY", "EFFECT", "TASK")


def add_to(parent: typer.Typer) -> None:
    parent.add_typer(app, name="webhook", rich_help_panel="Look")


@dataclass(frozen=True, slots=True)
class Row:
    """One delivery as it is listed. While it is kept, `seq` is null and `effect` is waiting, failed or damaged."""

    seq: int | None
    time: str
    sender: str
    kind: str
    delivery_id: str
    effect: str
    task_id: str | None
    key: str
    error: str | None = None

    @classmethod
    def of_event(cls, event: Event) -> Row:
        from ssot.ingest.delivery import effect_of

        told = event.data
        return cls(
            event.seq,
            event.time,
            str(told.get("sender")),
            str(told.get("delivery_kind")),
            str(told.get("delivery_id")),
            effect_of(event) or event.type,
            event.subject,
            str(told["delivery_key"]),
        )

    @classmethod
    def of_kept(cls, one: Standing) -> Row:
        kept = one.kept
        if kept is None:
            return cls(None, "", "", "", one.delivery_id, one.state, None, one.key, one.why)
        return cls(
            None, kept.received_at, kept.sender, kept.kind, kept.delivery_id, one.state, kept.task_id, one.key, one.why
        )


# ------------------------------------------------------------------------------------------------- list


@app.command("list", epilog="Example: kircerta webhook list --sender github --limit 20")
def list_deliveries(
    sender: Annotated[str | None, typer.Option(help=f"Only from there: {', '.join(SENDERS)}.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only those that are kept: their effect failed.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many of the log, the newest.")] = 50,
    json: Json = False,
) -> None:
    """List deliveries, oldest first: those that the log knows, then those that are kept because their effect failed."""
    if sender is not None and sender not in SENDERS:
        raise WrongUse(f"--sender {sender}: it is one of {', '.join(SENDERS)}")
    home = workspace.settings().home
    rows = [] if failed else [Row.of_event(event) for event in _newest(home, sender, limit)]
    kept = [row for row in map(Row.of_kept, _standings(home)) if sender in (None, row.sender)]
    if json:
        put_json({"deliveries": [_as_json(row) for row in rows], "kept": [_as_json(row) for row in kept]})
        return
    if rows:
        put_table(_HEAD, ([_cell(cell) for cell in _cells(row)] for row in rows))
    if kept:
        say() if rows else None
        put_table((*_HEAD[1:], "WHY"), ((*map(_cell, _cells(row)[1:]), row.error) for row in kept))
        say("kept: `kircerta webhook replay DELIVERY` (or --all) tries again now")
    if not rows and not kept:
        say("no delivery is kept" if failed else "no deliveries yet")


def _cells(row: Row) -> tuple[object, ...]:
    return row.seq, row.time, row.sender, row.kind, row.delivery_id, row.effect, row.task_id


def _cell(value: object) -> object:
    return "-" if value in (None, "") else value


def _as_json(row: Row) -> dict[str, Any]:
    return asdict(row)


def _newest(home: Path, sender: str | None, limit: int) -> list[Event]:
    """The newest deliveries in the log, oldest first. Reads backwards, a span at a time."""
    last = workspace.last_seq(home)
    found: list[Event] = []
    for span in (*_SPANS, last):
        found = list(_deliveries(home, max(0, last - span), sender))
        if len(found) >= limit or span >= last:
            break
    return found[-limit:]


def _deliveries(home: Path, after: int, sender: str | None = None) -> Iterator[Event]:
    from audit.reader import read_events

    if not (home / "audit").is_dir():
        return
    with progress("reading the log") as tell:
        for event in read_events(home / "audit", after):
            tell(event.seq, None)
            if "delivery_key" in event.data and sender in (None, event.data.get("sender")):
                yield event


def _standings(home: Path) -> list[Standing]:
    from ssot.inbox import Inbox

    return Inbox(home).standings()


# ------------------------------------------------------------------------------------------------- show


@app.command(epilog="Example: kircerta webhook show 72d3162e-cc78-11e3-81ab-4c9367dc0958")
def show(
    delivery: Annotated[str, typer.Argument(metavar="ID", help="Its id, or its key.", show_default=False)],
    json: Json = False,
) -> None:
    """Show one delivery: its event, those of its repeats, and its body where it is kept. Exit code 1: unknown."""
    home = workspace.settings().home
    events = [event for event in _deliveries(home, 0) if _is_meant(delivery, event.data)]
    kept = next((one for one in _standings(home) if delivery in (one.key, one.delivery_id)), None)
    if not events and kept is None:
        raise Failure(f"no delivery {delivery!r:.200} is known (`kircerta webhook list`)")
    if json:
        put_json({"events": [_line_of(event) for event in events], "kept": _kept_json(kept) if kept else None})
        return
    for event in events:
        row = Row.of_event(event)
        say(f"seq {row.seq}  {row.time}  {row.sender} {row.kind}  {row.effect}  {row.task_id or ''}".rstrip())
        say(f"  {event.line.decode()}")
    if kept is not None:
        _show_kept(kept)


def _is_meant(delivery: str, told: dict[str, Any]) -> bool:
    return delivery in (told.get("delivery_id"), told.get("delivery_key"))


def _line_of(event: Event) -> Any:
    import orjson

    return orjson.loads(event.line)


def _kept_json(one: Standing) -> dict[str, Any]:
    kept = one.kept.model_dump() if one.kept else None
    return {"key": one.key, "state": one.state, "why": one.why, "tries": asdict(one.tries), "delivery": kept}


def _show_kept(one: Standing) -> None:
    say(f"kept, {one.state} after {counted(one.tries.count, 'try', 'tries')}: {one_line(one.why)}")
    if one.kept is not None:
        say(f"  {one.kept.sender} {one.kept.kind}  {one.kept.delivery_id}  received {one.kept.received_at}")
        for name, value in one.kept.headers.items():
            say(f"  {name}: {value}")
        say()
        say(one.kept.body)


# ----------------------------------------------------------------------------------------------- replay


@app.command(epilog="Example: kircerta webhook replay --all")
def replay(
    deliveries: Annotated[
        list[str] | None, typer.Argument(metavar="[ID...]", help="Their ids, or their keys.", show_default=False)
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="Everything that is kept.")] = False,
    json: Json = False,
) -> None:
    """Try kept deliveries again, now and in this process; one that came again meanwhile is not taken twice.

    Exit code 1 when one of them is not kept, or still fails.
    """
    from ssot.inbox import Inbox

    if bool(deliveries) == all:
        raise WrongUse("name the deliveries, or --all: one of both")
    given = workspace.settings()
    kept = {one.key: one for one in _standings(given.home)}
    keys = list(kept) if all else [_key_of(name, kept, given.home) for name in deliveries or ()]
    tried: list[Tried] = []
    if keys:
        with workspace.open_store(given) as store, progress("replaying deliveries") as tell:
            tried = Inbox(given.home).replay(store, keys, tell)
    _report(tried, kept, json=json)


def _key_of(name: str, kept: dict[str, Standing], home: Path) -> str:
    """The key of a kept delivery. Raises Failure for one that is not."""
    found = next((one.key for one in kept.values() if name in (one.key, one.delivery_id)), None)
    if found is not None:
        return found
    for event in _deliveries(home, 0):
        if _is_meant(name, event.data):
            row = Row.of_event(event)
            raise Failure(f"{name} is not kept: it came to {row.effect} at seq {row.seq} ({row.task_id or 'no task'})")
    raise Failure(f"no delivery {name!r:.200} is kept (`kircerta webhook list --failed`)")


def _report(tried: list[Tried], kept: dict[str, Standing], *, json: bool) -> None:
    rows = [
        {
            "delivery_id": kept[one.key].delivery_id,
            "key": one.key,
            "came": one.came,
            "effect": one.delivered.effect if one.delivered else None,
            "task_id": one.delivered.task_id if one.delivered else None,
            "seq": one.delivered.event.seq if one.delivered else None,
            "error": one.error or None,
        }
        for one in tried
    ]
    ok = all(one.came in ("delivered", "known") for one in tried)
    if json:
        put_json({"ok": ok, "replayed": rows})
    elif not rows:
        say("no delivery is kept")
    else:
        head = ("DELIVERY", "CAME TO", "EFFECT", "TASK", "SEQ", "WHY")
        names = ("delivery_id", "came", "effect", "task_id", "seq", "error")
        put_table(head, ([_cell(row[name]) for name in names] for row in rows))
    if not ok:
        raise typer.Exit(1)


# --------------------------------------------------------------------------------------------- backfill


@app.command(epilog="Example: KIRCERTA_GITHUB_TOKEN_FILE=.secrets/github kircerta webhook backfill --hours 24")
def backfill(
    hooks: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[HOOK...]",
            help="Webhooks, as owner/repo/ID, org/ID or app; without: those of KIRCERTA_GITHUB_HOOKS.",
            show_default=False,
        ),
    ] = None,
    hours: Annotated[float, typer.Option(min=0.01, max=72, help="How far to look back; GitHub keeps three days.")] = 72,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Ask for so many at most, oldest first.")] = 500,
    most_tries: Annotated[int, typer.Option(min=1, max=100, help="What failed so often is given up.")] = 5,
    again: Annotated[
        bool, typer.Option("--again", help="Ask also for what was given up, or asked for without any sign since.")
    ] = False,
    minutes: Annotated[float, typer.Option(min=0.01, max=1440, help="Take so long at most, GitHub's limits too.")] = 10,
    json: Json = False,
) -> None:
    """Ask GitHub which deliveries failed, and to send them again. What the log knows is not asked for.

    Needs KIRCERTA_GITHUB_TOKEN. Exit code 1 where some are left, or GitHub does not answer as it should.
    """
    from flows.backfill import Wish, token_of
    from flows.github import CannotAsk
    from flows.turn import TurnTaken

    given = workspace.settings()
    try:
        token = token_of(given)
        wish = Wish.of(hooks or given.github_hooks, hours, limit, most_tries, again=again)
        report = _ask_github(given, token, wish, minutes * 60)
    except TurnTaken:
        raise Failure("another run asks with this token at the moment: one is enough") from None
    except CannotAsk as error:
        raise WrongUse(str(error)) from None
    _tell_backfill(report, json=json)


def _ask_github(given: Settings, token: str, wish: Wish, seconds: float) -> Report:
    import asyncio
    from itertools import count

    from flows.backfill import ask
    from flows.turn import only_one
    from flows.workspace import Workspace

    with (
        only_one(given.home, "github", token) as turn,
        workspace.open_store(given) as store,
        progress("failed deliveries") as tell,
    ):
        seen = count(1)
        work = Workspace(given, store)
        return asyncio.run(ask(work, token, wish, turn, seconds, lambda row: tell(next(seen), None)))


def _tell_backfill(report: Report, *, json: bool) -> None:
    rows = [_failed_row(row) for row in report.rows]
    if json:
        put_json({"ok": report.is_good, "outcome": report.outcome, "message": report.message, "failed": rows})
    elif rows:
        names = ("delivered_at", "hook", "event", "delivery_id", "status_code", "tries", "fate", "detail")
        head = ("TRIED", "HOOK", "EVENT", "DELIVERY", "ANSWER", "TRIES", "FATE", "WHY")
        put_table(head, ([_cell(row[name]) for name in names] for row in rows))
    if report.trouble is not None:
        kind = WrongUse if report.trouble.trouble == "NotConfigured" else Failure
        raise kind(report.message)
    if not json:
        say(f"{report.outcome}: {report.message}")
    if not report.is_good:
        raise typer.Exit(1)


def _failed_row(row: FailedRow) -> dict[str, Any]:
    newest = row.failed.newest
    return {
        "hook": row.hook.name,
        "delivery_id": newest.guid,
        "attempt": newest.id,
        "event": newest.kind,
        "delivered_at": newest.delivered_at.isoformat(),
        "status_code": newest.status_code,
        "tries": row.failed.tries,
        "fate": row.fate,
        "detail": row.detail,
    }
