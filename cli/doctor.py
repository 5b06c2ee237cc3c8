"""`kircerta doctor`: looks at everything that can be wrong with a workspace and this machine, and says the way out."""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from cli import workspace
from cli.failures import explain
from cli.probe import answers, is_free
from cli.screen import Json, one_line, progress, put_json, put_table, say
from ssot.counted import counted

if TYPE_CHECKING:
    from ssot.settings import Settings
    from ssot.store import Store

Level = Literal["ok", "warn", "fail"]
LITTLE_SPACE: Final = 1024**3
NO_SPACE: Final = 64 * 1024**2
TAIL_EVENTS: Final = 10_000
_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; `way_out` says what to do about it."""

    check: str
    level: Level
    what: str
    way_out: str = ""


def add_to(parent: typer.Typer) -> None:
    parent.command(rich_help_panel="Look", epilog="Example: kircerta doctor --full")(doctor)


def doctor(
    full: Annotated[bool, typer.Option("--full", help="Verify the whole log, not only its newest part.")] = False,
    json: Json = False,
) -> None:
    """Check this machine and the workspace. Exit code 1 when something fails."""
    findings = list(examine(full=full))
    failed = any(finding.level == "fail" for finding in findings)
    if json:
        put_json({"ok": not failed, "findings": [asdict(finding) for finding in findings]})
    else:
        put_table(
            ("CHECK", "STATE", "FOUND", "WAY OUT"),
            ((finding.check, finding.level, finding.what, finding.way_out) for finding in findings),
            styled="STATE",
        )
        count = sum(1 for finding in findings if finding.level != "ok")
        say("everything is in order" if count == 0 else f"{count} of {counted(len(findings), 'check')} to look at")
    if failed:
        raise typer.Exit(1)


def examine(*, full: bool) -> Iterator[Finding]:
    """All checks, in order: what a later one needs was looked at before."""
    from ssot.settings import SettingsError

    yield python()
    yield packages()
    try:
        given = workspace.settings()
    except SettingsError as error:
        yield Finding("settings", "fail", str(error), "correct it in the environment or in .env")
        return
    home = given.home
    yield Finding("settings", "ok", f"KIRCERTA_HOME is {home}")
    yield _tried("workspace", lambda: folder(home))
    yield _tried("space", lambda: space(home))
    yield _tried("secrets", lambda: secrets(given))
    yield _tried("inotify", inotify)
    yield _tried("cage", agents_cage)
    yield _tried("agents", lambda: agents(home))
    yield _tried("webhooks", lambda: webhooks(given))
    yield _tried("projects", lambda: projects(home))
    yield from inbox(home)
    yield _tried("notifications", lambda: notifications(home))
    if workspace.exists(home):
        yield from _inside(given, full=full)
    yield from processes(given)


def _inside(given: Settings, *, full: bool) -> Iterator[Finding]:
    """What stands in the workspace; nothing of it can be believed when the log is broken."""
    chain = _tried("log", lambda: log(given.home, full=full))
    yield chain
    if chain.level == "fail":
        return
    yield _tried("clock", lambda: clock(given.home))
    yield _tried("evidence", lambda: evidence(given))
    try:
        yield from tasks(given)
    except Exception as error:
        yield Finding("tasks", "fail", explain(error)[0])


def _tried(check: str, look: Callable[[], Finding]) -> Finding:
    """A check that cannot be made has failed: the others still tell what they find."""
    try:
        return look()
    except Exception as error:
        return Finding(check, "fail", explain(error)[0])


def python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.platform != "linux":
        return Finding("python", "warn", f"{version} on {sys.platform}", "Linux is supported; macOS as well as it goes")
    return Finding("python", "ok", f"{version} on Linux")


def packages() -> Finding:
    """Whether what is installed is what this version needs."""
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    try:
        needed = [Requirement(line) for line in requires("kircerta") or ()]
    except PackageNotFoundError:
        return Finding("packages", "warn", "kircerta itself is not installed", "make venv")
    wrong = []
    for requirement in needed:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found} is not {requirement.specifier}")
    if wrong:
        return Finding("packages", "fail", "; ".join(wrong), "make venv installs what requirements.lock names")
    return Finding("packages", "ok", f"kircerta {version('kircerta')}, prefect {version('prefect')}")


def folder(home: Path) -> Finding:
    from audit.files import StorageFailed, check_supported

    try:
        check_supported(home)
    except StorageFailed as error:
        return Finding("workspace", "fail", str(error), "set KIRCERTA_HOME to a folder on a local disk")
    if not home.is_dir():
        return Finding(
            "workspace", "warn", f"{home} is not there yet", "`kircerta up` or `kircerta task create` makes it"
        )
    places = [home, *(home / name for name in ("ssot/tasks", "ssot/blobs", "audit", ".kircerta"))]
    closed = [place for place in places if place.exists() and not os.access(place, os.W_OK | os.X_OK)]
    if closed:
        return Finding("workspace", "fail", f"{closed[0]} is not writable", "make the folder yours (chown, chmod)")
    if not workspace.exists(home):
        return Finding("workspace", "warn", f"{home} holds no tasks yet", "`kircerta up` begins with examples")
    return Finding("workspace", "ok", "writable, on a local disk")


def space(home: Path) -> Finding:
    nearest = next(place for place in (home, *home.parents) if place.exists())
    free = shutil.disk_usage(nearest).free
    told = f"{free / 1024**3:,.1f} GiB free"
    if free < NO_SPACE:
        return Finding("space", "fail", told, "free some: nothing can be written soon")
    return Finding("space", "warn" if free < LITTLE_SPACE else "ok", told, "free some" if free < LITTLE_SPACE else "")


def secrets(given: Settings) -> Finding:
    """Whether there is a key, and whether nobody else can read what is kept."""
    kept = given.home / ".secrets"
    if kept.is_dir():
        if stat.S_IMODE(kept.stat().st_mode) & 0o077:
            return Finding("secrets", "fail", f"{kept} is open to others", f"chmod 700 {kept}")
        for path in sorted(kept.iterdir()):
            if stat.S_IMODE(path.lstat().st_mode) & 0o077:
                return Finding("secrets", "fail", f"{path} is open to others", f"chmod 600 {path}")
    if given.jwt_secret is None:
        return Finding("secrets", "warn", "no KIRCERTA_JWT_SECRET: nobody can decide", "`kircerta up` makes one")
    return Finding("secrets", "ok", "a key for tokens; what is kept is readable by its owner alone")


def webhooks(given: Settings) -> Finding:
    """Which endpoints are open: those with a secret."""
    known = {"github": given.github_secret, "xcode": given.xcode_secret, "telegram": given.telegram_secret}
    is_open = [name for name, secret in known.items() if secret is not None and secret.get_secret_value().strip(" ,")]
    closed = [f"KIRCERTA_{name.upper()}_SECRET" for name in known if name not in is_open]
    if not is_open:
        return Finding("webhooks", "ok", f"none is configured ({', '.join(closed)})")
    return Finding("webhooks", "ok", f"configured: {', '.join(is_open)}")


def projects(home: Path) -> Finding:
    """Whether `config/projects.toml` can be used, and how much of it lets tasks start by themselves."""
    from ssot.projects import FILE, BadProjectsFile, load

    try:
        found = load(home).project
    except BadProjectsFile as error:
        return Finding("projects", "fail", str(error), "correct it: until then no task from outside starts by itself")
    if not found:
        return Finding("projects", "ok", f"no {FILE}: tasks from outside wait for a person")
    rules = sum(len(one.auto_dispatch) for one in found.values())
    let = counted(rules, "rule lets tasks", "rules let tasks")
    return Finding("projects", "ok", f"{', '.join(found)}; {let} from outside start by themselves")


def inbox(home: Path) -> Iterator[Finding]:
    """Deliveries that are kept because their effect failed."""
    from ssot.inbox import MAX_DELIVERIES, Inbox

    standings = Inbox(home).standings()
    if len(standings) >= MAX_DELIVERIES:
        yield Finding(
            "inbox",
            "fail",
            f"full: {counted(len(standings), 'delivery', 'deliveries')}",
            "`kircerta webhook replay --all`",
        )
    for one in standings[:_SHOWN]:
        what = f"{one.kept.sender} {one.kept.kind} {one.delivery_id}" if one.kept else one.delivery_id
        if one.state == "waiting":
            way_out = "it is tried again by itself; now: `kircerta webhook replay`"
            yield Finding("delivery", "warn", f"{one_line(what)} waits: {one_line(one.why)}", way_out)
        else:
            way_out = f"`kircerta webhook show {one.key}`, mend the cause, then `kircerta webhook replay {one.key}`"
            yield Finding("delivery", "fail", f"{one_line(what)} {one.state}: {one_line(one.why)}", way_out)
    if len(standings) > _SHOWN:
        yield Finding(
            "delivery", "warn", f"{len(standings) - _SHOWN} more are kept", "`kircerta webhook list --failed`"
        )


def notifications(home: Path) -> Finding:
    """Whether people can be told what config/notifications.toml says they are told."""
    from flows.notifications.targets import BadNotificationsFile, NoURL, load, url_of

    try:
        config = load(home)
        for target in config.target.values():
            url_of(target, home, os.environ)
    except BadNotificationsFile as error:
        return Finding("notifications", "fail", str(error), "mend it: nothing goes out until then")
    except NoURL as error:
        return Finding("notifications", "warn", str(error), "`kircerta notify list` shows all targets")
    if not config.target:
        return Finding("notifications", "ok", "nobody is told anything: there is no target")
    return Finding(
        "notifications", "ok", counted(len(config.target), "target") + (", dry run" if config.dry_run else "")
    )


def inotify() -> Finding:
    if sys.platform != "linux":
        return Finding("inotify", "warn", "not on this system", "changes are found by looking, a little later")
    try:
        from inotify_simple import INotify

        INotify().close()
    except OSError as error:
        return Finding(
            "inotify",
            "warn",
            f"none left ({error.strerror})",
            "sysctl fs.inotify.max_user_instances=512, or end others",
        )
    most = Path("/proc/sys/fs/inotify/max_user_instances").read_text().strip()
    return Finding("inotify", "ok", f"available (at most {most} a user)")


def agents_cage() -> Finding:
    """Whether this system lets agents be shut in; where it does not, each result says what was missing."""
    from flows.agents.enclosure import missing_here

    missing = missing_here()
    if missing:
        way_out = "allow user namespaces (sysctl user.max_user_namespaces), or give agents a machine of their own"
        return Finding("cage", "warn", f"agents cannot be shut in wholly: {one_line('; '.join(missing))}", way_out)
    return Finding("cage", "ok", "agents get namespaces of their own: files, processes and network")


def agents(home: Path) -> Finding:
    """Whether an agent of config/agents.toml could ever work unwatched: the cage needs a place to be put around."""
    from flows.agents.registry import Agents, BadAgentsFile, Role

    try:
        known = Agents(home)
    except BadAgentsFile as error:
        return Finding("agents", "fail", str(error), "mend it: no agent of it is started until then")
    roles: tuple[Role, ...] = ("executor", "reviewer")
    named = [(name, config) for role in roles for name in known.names(role) if (config := known.config(role, name))]
    free = sorted({name for name, config in named if config.isolation != "required"})
    if not free:
        return Finding(
            "agents", "ok", f"{len(named)} in config/agents.toml" + (", all shut in or not started" * bool(named))
        )
    what = (
        f"where a task's project names no `checkout`, {', '.join(free[:5])} run with your own rights: "
        "nothing hides the log, the tasks and the secrets from them, and nobody watches"
    )
    way_out = 'a `checkout` for every project, or `isolation = "required"` for these agents (docs/isolation.md)'
    return Finding("agents", "warn", what, way_out)


def log(home: Path, *, full: bool) -> Finding:
    """The chain: all of it, or its newest part."""
    from audit.event import Corrupt
    from audit.reader import Rewound, read_events
    from audit.segments import segments
    from audit.verify import verify

    found = segments(home / "audit")
    way_out = "`kircerta audit verify` says where; put audit/ back from a copy"
    if full:
        with progress("verifying events") as tell:
            verified = verify(home / "audit", lambda count: tell(count, None))
        if verified.problem:
            return Finding("log", "fail", verified.problem, way_out)
        return Finding(
            "log", "ok", f"{counted(verified.events, 'event')} verified, {counted(verified.torn_bytes, 'torn byte')}"
        )
    last = workspace.last_seq(home)
    try:
        count = sum(1 for _ in read_events(home / "audit", max(0, last - TAIL_EVENTS)))
    except (Corrupt, Rewound) as error:
        return Finding("log", "fail", str(error), way_out)
    told = f"{counted(last, 'event')} in {counted(len(found), 'segment')}"
    return Finding("log", "ok", f"{told}; the newest {counted(count, 'holds', 'hold')} together")


def clock(home: Path) -> Finding:
    """Time in the log never decreases: a clock behind it would stamp everything with the log's last time."""
    from audit.reader import event_at
    from audit.stamp import seconds_of

    now = time.time()
    if now < 1_735_689_600:  # 2025: a machine without a battery
        return Finding("clock", "fail", "the clock stands before this program was made", "set the time (NTP)")
    last = event_at(home / "audit", workspace.last_seq(home))
    ahead = seconds_of(last.time) - now if last is not None else 0.0
    if ahead > 1.0:
        return Finding("clock", "warn", f"{ahead:,.0f} s behind the log's last event", "set the time (NTP)")
    return Finding("clock", "ok", "not behind the log")


def long_texts(store: Store) -> Finding:
    """Whether every text that was put aside by its digest is still there."""
    wanted: dict[str, str] = {}
    for task_id in sorted(store.view.entries):
        for name in re.findall(rb'"blob": "(sha256:[0-9a-f]{64})"', store.document(task_id) or b""):
            wanted.setdefault(name.decode(), task_id)
    lost = [f"{name[:19]}… of {task_id}" for name, task_id in wanted.items() if not store.blobs.has(name)]
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        what = f"gone from ssot/blobs: {', '.join(lost[:3])}{more}"
        return Finding("texts", "fail", what, "put them back from a copy")
    return Finding("texts", "ok", f"{len(wanted)} long texts are where they belong")


def evidence(given: Settings) -> Finding:
    """Whether the log's head is signed, and how long ago that was."""
    from audit.head import Checkpoints
    from ssot.signing import signing_key

    key, kept = signing_key(given), Checkpoints(given.home / "audit")
    sizes = kept.sizes()
    if key is None:
        last = f"; the last checkpoint is of seq {sizes[-1]}" if sizes else ": nobody vouches for the log"
        way_out = "`kircerta keys create`, and keep checkpoints elsewhere"
        return Finding("evidence", "warn", f"no signing key{last}", way_out)
    if not sizes:
        return Finding("evidence", "warn", f"{key.fingerprint} has signed nothing yet", "`kircerta audit checkpoint`")
    since = workspace.last_seq(given.home) - sizes[-1]
    age = kept.age_s(sizes[-1])
    told = f"{key.fingerprint}; the last checkpoint is {_told_age(age)} old, {counted(since, 'event')} came since"
    if since >= 100 and age > 600:
        return Finding(
            "evidence", "warn", told, "`kircerta up` signs every minute, `kircerta audit checkpoint` at once"
        )
    return Finding("evidence", "ok", told)


def _told_age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:,.0f} s"


def tasks(given: Settings) -> Iterator[Finding]:
    """Held files, saves that were put aside, and what waits for a process."""
    with workspace.open_store(given) as store:
        held = store.held_files()
        open_attempts = store.open_attempts()
        counts = store.view.counts()
        texts = [_tried("texts", lambda: long_texts(store))]
    told = ", ".join(
        f"{counts[name]} {name}" for name in ("pending", "needs_review", "approved", "rejected") if counts.get(name)
    )
    yield Finding("tasks", "ok", told or "none")
    yield from texts
    for file in held:
        place = f" at {file.field}" if file.field else ""
        yield Finding(
            "held file", "warn", f"{file.file}: {file.reason}{place}: {one_line(file.detail)}", "mend it, or remove it"
        )
    for path in sorted((given.home / ".kircerta" / "displaced").glob("*")):
        yield Finding("displaced", "warn", f"{path}: a save in the instant of a commit", "look at it, then remove it")
    local = [attempt for attempt in open_attempts if attempt.executor != "remote"]
    if local and not has_dispatcher(given.home):
        yield Finding(
            "dispatcher",
            "warn",
            f"{counted(len(local), 'dispatch is', 'dispatches are')} under way and no dispatcher runs",
            "`kircerta up`",
        )


def has_dispatcher(home: Path) -> bool:
    from ssot.claims import is_locked

    return is_locked(home / ".kircerta" / "dispatcher.lock")


def processes(given: Settings) -> Iterator[Finding]:
    """What answers, and what does not."""
    from urllib.parse import urlsplit

    up = workspace.running(given.home)
    if has_dispatcher(given.home):
        yield Finding("dispatcher", "ok", "runs")
    yield _reached("API", given.api_url, "/healthz", "`kircerta up` or `kircerta api`", must=up is not None)
    if given.prefect_api_url:
        yield _reached("Prefect", given.prefect_api_url, "/health", "`kircerta up` starts one", must=up is not None)
    if up is not None:
        yield Finding("up", "ok", f"runs as process {up.pid}")
        return
    for what, port in (("API", 8000), ("Prefect", 4200)):
        url = given.api_url if what == "API" else given.prefect_api_url
        if (urlsplit(url).port if url else None) != port and not is_free("127.0.0.1", port):
            yield Finding("ports", "warn", f"{port} is in use", f"`kircerta up` needs another for {what}")


def _reached(what: str, url: str, path: str, way_out: str, *, must: bool) -> Finding:
    if answers(f"{url.rstrip('/')}{path}"):
        return Finding(what, "ok", f"answers at {url}")
    return Finding(what, "fail" if must else "warn", f"nothing answers at {url}", way_out)
