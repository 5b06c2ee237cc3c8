"""`kircerta notify`: what people are told outside of kircerta, and whether it gets through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import workspace
from cli.failures import Failure, WrongUse
from cli.screen import Json, put_json, put_table, say

if TYPE_CHECKING:
    from pathlib import Path

    from flows.notifications.targets import Notifications, Target

notify = typer.Typer(help="What people are told: by chat, mail, webhook …", no_args_is_help=True)
LOOK_BACK = 20_000
"""How many of the newest events are looked at for what was last told."""


def add_to(parent: typer.Typer) -> None:
    parent.add_typer(notify, name="notify", rich_help_panel="Run")


@notify.command("list", epilog="Example: kircerta notify list")
def list_targets(json: Json = False) -> None:
    """Show the targets of config/notifications.toml, and what came of the last notification to each.

    Exit code 1 when the file, or a target's URL, cannot be read. URLs are never shown.
    """
    home = workspace.settings().home
    config = _config(home)
    last = _last_told(home)
    rows = [_row(name, target, home, last.get(name)) for name, target in config.target.items()]
    if json:
        put_json({"dry_run": config.dry_run, "targets": rows})
    elif not rows:
        say("nobody is told anything: config/notifications.toml has no target")
    else:
        put_table(
            ("TARGET", "URL FROM", "KINDS", "PROJECTS", "STATE", "LAST"),
            (
                (
                    row["name"],
                    row["source"],
                    ", ".join(row["kinds"]),
                    ", ".join(row["projects"]) or "all",
                    "fail: " + row["problem"] if row["problem"] else "ok",
                    _said(row["last"]),
                )
                for row in rows
            ),
            styled="STATE",
        )
        say("dry run: nothing goes out") if config.dry_run else None
    if any(row["problem"] for row in rows):
        raise typer.Exit(1)


@notify.command("test", epilog="Example: kircerta notify test team --dry-run")
def send_test(
    targets: Annotated[list[str] | None, typer.Argument(metavar="TARGET…", help="Names. Without: all.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent; send nothing.")] = False,
    json: Json = False,
) -> None:
    """Send a test message to targets. Exit code 1 when one of them does not get it."""
    home = workspace.settings().home
    config = _config(home)
    chosen = _chosen(config, targets or [])
    told = [_tested(name, target, home, dry_run=dry_run) for name, target in chosen.items()]
    if json:
        put_json({"dry_run": dry_run, "targets": told})
    for one in told if not json else ():
        say(f"{one['target']}: {one['problem'] or ('would be told: ' + one['title'] if dry_run else 'sent')}")
    if any(one["problem"] for one in told):
        raise typer.Exit(1)


def _config(home: Path) -> Notifications:
    from flows.notifications.targets import BadNotificationsFile, load

    try:
        return load(home)
    except BadNotificationsFile as error:
        raise Failure(f"{error}: nothing goes out until it is mended") from None


def _chosen(config: Notifications, names: list[str]) -> dict[str, Target]:
    if not config.target:
        raise WrongUse("config/notifications.toml has no target: examples/config/notifications.toml shows some")
    unknown = [name for name in names if name not in config.target]
    if unknown:
        raise WrongUse(f"there is no target {unknown[0]!r}; there are {', '.join(config.target)}")
    return {name: target for name, target in config.target.items() if not names or name in names}


def _tested(name: str, target: Target, home: Path, *, dry_run: bool) -> dict[str, Any]:
    """What came of it. What was really sent, or tried, goes into the log."""
    import os

    from audit.event import Draft
    from flows.notifications.channel import NotSent, send
    from flows.notifications.notice import Message
    from flows.notifications.targets import NoURL, url_of

    message = Message("kircerta: a test", f"This is what a message to {name} looks like. Nobody has to do anything.")
    told = {"target": name, "title": message.title, "body": message.body, "problem": ""}
    try:
        url = url_of(target, home, os.environ)
        if not dry_run:
            send(url, message)
    except (NoURL, NotSent) as error:
        told["problem"] = str(error)
    if not dry_run:
        type, more = (
            ("notification_failed", {"reason": told["problem"]}) if told["problem"] else ("notification_sent", {})
        )
        with workspace.open_store(workspace.settings()) as store:
            store.note(Draft(type, workspace.actor(), {"kind": "test", "target": name, **more}))
    return told


def _row(name: str, target: Target, home: Path, last: dict[str, Any] | None) -> dict[str, Any]:
    import os

    from flows.notifications.targets import KINDS, NoURL, url_of

    problem = ""
    try:
        url_of(target, home, os.environ)
    except NoURL as error:
        problem = str(error)
    kinds = list(target.kinds or KINDS)
    return {
        "name": name,
        "source": target.source,
        "kinds": kinds,
        "projects": list(target.projects),
        "problem": problem,
        "last": last,
    }


def _last_told(home: Path) -> dict[str, dict[str, Any]]:
    """The newest notification to each target, as the newest part of the log tells it."""
    from audit.reader import read_events

    if not workspace.exists(home):
        return {}
    found = {}
    for event in read_events(home / "audit", max(0, workspace.last_seq(home) - LOOK_BACK)):
        if event.type in ("notification_sent", "notification_failed") and "target" in event.data:
            found[str(event.data["target"])] = {"seq": event.seq, "type": event.type, "at": event.time, **event.data}
    return found


def _said(last: dict[str, Any] | None) -> str:
    if last is None:
        return "nothing yet"
    what = "sent" if last["type"] == "notification_sent" else f"failed ({last.get('reason', '')})"
    about = f" about {last['about']}" if "about" in last else ""
    return f"{last['kind']}{about} {what}, {last['at'][:19]}Z"
