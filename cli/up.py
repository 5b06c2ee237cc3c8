"""`kircerta up`: everything on one machine. Checks first, then starts, shows the way in, and stops it all."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli import demonstration, workspace
from cli.failures import Failure, WrongUse
from cli.probe import is_free
from cli.screen import Json, note, put_json, say
from cli.supervisor import GaveUp, Service, Supervisor
from ssot.counted import counted

if TYPE_CHECKING:
    from ssot.settings import Settings
    from ssot.store import Store

EXAMPLES: Final = Path(__file__).parents[1] / "examples" / "tasks" / "tasks.jsonl"
READY_TIMEOUT_S: Final = 180.0
EXAMPLES_TIMEOUT_S: Final = 60.0
PREFECT_PORT: Final = 4200
TURN_S: Final = 0.1


def add_to(parent: typer.Typer) -> None:
    parent.command(rich_help_panel="Run", epilog="Example: kircerta up --port 8080")(up)


def up(
    host: Annotated[str, typer.Option(help="Where the API listens.")] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, envvar="KIRCERTA_PORT", help="The API's port.", show_default="8000"),
    ] = None,
    prefect_port: Annotated[
        int, typer.Option(min=1, max=65535, envvar="KIRCERTA_PREFECT_PORT", help="The Prefect server's port.")
    ] = PREFECT_PORT,
    examples: Annotated[
        bool, typer.Option(help="Whether the first start in an empty workspace makes the example tasks.")
    ] = True,
    json: Json = False,
) -> None:
    """Start everything on this machine: Prefect server, flows, API. Ctrl-C stops it all; the data stays."""
    given = workspace.settings()
    plan = Plan(given, host, port or _port_of(given), prefect_port)
    with Interrupts() as interrupts:
        make_writable(plan.home)
        with only_one(plan.home):
            check_ports(plan)
            check_installed()
            keep_key(plan)
            Up(plan, interrupts, json=json).run(examples=examples)


def _port_of(given: Settings) -> int:
    """The port that KIRCERTA_API_URL names, where it names this machine."""
    from urllib.parse import urlsplit

    parts = urlsplit(given.api_url)
    if "api_url" in given.model_fields_set and parts.hostname in ("127.0.0.1", "localhost", "::1") and parts.port:
        return parts.port
    return 8000


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be started, and where."""

    settings: Settings
    host: str
    port: int
    prefect_port: int

    @property
    def home(self) -> Path:
        return self.settings.home

    @property
    def logs(self) -> Path:
        return self.home / ".kircerta" / "logs"

    @property
    def api_url(self) -> str:
        shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}.get(self.host, self.host)
        return f"http://{shown}:{self.port}"

    @property
    def prefect_url(self) -> str:
        return f"http://127.0.0.1:{self.prefect_port}"

    @property
    def prefect_api_url(self) -> str:
        return f"{self.prefect_url}/api"

    @property
    def served(self) -> Settings:
        """The settings as the processes of this `up` have them."""
        return self.settings.model_copy(update={"api_url": self.api_url, "prefect_api_url": self.prefect_api_url})


# -------------------------------------------------------------------------------- what is checked first


def make_writable(home: Path) -> None:
    """The workspace's folder, made where it is not there. Raises WrongUse."""
    from audit.files import StorageFailed, check_supported

    try:
        check_supported(home)
        (home / ".kircerta" / "logs").mkdir(parents=True, exist_ok=True)
    except StorageFailed as error:
        raise WrongUse(str(error)) from None
    except OSError as error:
        raise WrongUse(
            f"the workspace {home} cannot be written ({error.strerror}): "
            "make the folder yours, or set KIRCERTA_HOME to another"
        ) from None
    closed = [place for place in (home, home / ".kircerta") if not os.access(place, os.W_OK | os.X_OK)]
    if closed:
        raise WrongUse(f"{closed[0]} is not writable: make the folder yours, or set KIRCERTA_HOME to another")


@contextmanager
def only_one(home: Path) -> Iterator[None]:
    """One `up` a workspace, until its process ends, however it ends."""
    import fcntl

    path = workspace.lock_file(home)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise WrongUse(f"{path} cannot be opened: {error.strerror}") from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = workspace.running(home)
            where = f" as process {other.pid}, at {other.api_url}" if other else ""
            raise WrongUse(f"kircerta up runs for {home} already{where}") from None
        workspace.address_file(home).unlink(missing_ok=True)
        yield
        workspace.address_file(home).unlink(missing_ok=True)
    finally:
        os.close(fd)


def check_ports(plan: Plan) -> None:
    for host, port, option in ((plan.host, plan.port, "--port"), ("127.0.0.1", plan.prefect_port, "--prefect-port")):
        if not is_free(host, port):
            raise WrongUse(f"port {port} on {host} is in use: stop what uses it, or choose another with {option}")
    if plan.port == plan.prefect_port:
        raise WrongUse(f"port {plan.port} cannot serve both: choose another with --prefect-port")


def check_installed() -> None:
    from importlib.util import find_spec

    for name in ("prefect", "fastapi", "uvicorn"):
        if find_spec(name) is None:
            raise WrongUse(f"{name} is not installed for {sys.executable}: `make venv` installs what is needed")


def keep_key(plan: Plan) -> None:
    """Make the key of the tokens where there is none: readable by its owner alone from the first moment on."""
    from ssot.settings import JWT_SECRET_FILE

    if plan.settings.jwt_secret is not None:
        return
    path = plan.home / JWT_SECRET_FILE
    path.parent.mkdir(mode=0o700, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, secrets.token_urlsafe(48).encode() + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.rename(path)


class Interrupts:
    """Hears SIGINT, SIGTERM and SIGHUP: a wish to stop, looked at between steps. Nothing is interrupted halfway."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


# ------------------------------------------------------------------------------------------ the run


class _Stopped(Exception):
    """Somebody asked to stop."""


class Up:
    """One run, from the first start to the last stop."""

    def __init__(self, plan: Plan, interrupts: Interrupts, *, json: bool) -> None:
        self._plan = plan
        self._interrupts = interrupts
        self._json = json
        self._began = time.monotonic()
        self._line = Line()
        self._supervisor = Supervisor(self._tell)

    def run(self, *, examples: bool) -> None:
        """Until somebody asks to stop. Raises Failure when a process cannot be kept running."""
        try:
            self._start(examples=examples)
            while True:
                self._turn()
        except _Stopped:
            pass
        except GaveUp as error:
            raise Failure(str(error)) from None
        finally:
            self._line.clear()
            note("stopping…")
            self._supervisor.stop()
            note("stopped; tasks and log stay where they are")

    def _turn(self) -> None:
        """One look at everything, and a short rest."""
        if self._interrupts.asked:
            raise _Stopped
        self._supervisor.turn()
        time.sleep(TURN_S)

    def _tell(self, line: str) -> None:
        self._line.clear()
        note(f"kircerta up: {line}")

    def _start(self, *, examples: bool) -> None:
        plan = self._plan
        note(f"kircerta up: workspace {plan.home}")
        chosen = Examples(plan) if examples else None
        first, then = services(plan)
        for service in first:
            self._supervisor.start(service)
        if chosen is not None:
            chosen.bring_in()
        self._await(first)
        for service in then:
            self._supervisor.start(service)
        self._await(then)
        workspace.Running(os.getpid(), plan.api_url, plan.prefect_api_url).save(plan.home)
        if chosen is not None and chosen.any:
            chosen.dispatch()
            self._await_examples(chosen)
        self._line.clear()
        self._greet()

    def _await(self, wanted: tuple[Service, ...]) -> None:
        """Until each is ready, telling how it goes."""
        waiting = list(wanted)
        deadline = time.monotonic() + READY_TIMEOUT_S
        while waiting:
            self._turn()
            for service in [one for one in waiting if one.is_ready()]:
                waiting.remove(service)
                self._line.clear()
                note(f"  {service.name:<11} ready after {time.monotonic() - self._began:.1f} s")
            if waiting and time.monotonic() > deadline:
                late = waiting[0]
                raise Failure(f"{late.name} was not ready within {READY_TIMEOUT_S:g} s: see {late.log}")
            names = ", ".join(service.name for service in waiting)
            self._line.show(
                f"  starting {names}… {time.monotonic() - self._began:.0f} s (the first start takes longest)"
            )

    def _await_examples(self, chosen: Examples) -> None:
        deadline = time.monotonic() + EXAMPLES_TIMEOUT_S
        while (left := chosen.under_way()) and time.monotonic() < deadline:
            self._line.show(f"  agents at work on {left} of {counted(chosen.count, 'example task')}…")
            self._turn()
        self._line.clear()
        note(f"  {'examples':<11} {counted(chosen.count, 'task')}, {chosen.at_the_gate()} of them at the gate")

    def _greet(self) -> None:
        plan = self._plan
        waiting = tasks_at_the_gate(plan)
        if self._json:
            put_json(
                {
                    "home": str(plan.home),
                    "api_url": plan.api_url,
                    "docs_url": f"{plan.api_url}/docs",
                    "prefect_url": plan.prefect_url,
                    "pid": os.getpid(),
                    "needs_review": [one.task_id for one in waiting],
                }
            )
            sys.stdout.flush()
            return
        for line in greeting(plan, waiting):
            say(line)
        sys.stdout.flush()


class Line:
    """A line on stderr that is written over, on a terminal; elsewhere one now and then."""

    EVERY_S: Final = 10.0

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown = ""
        self._next = time.monotonic() + self.EVERY_S

    def show(self, text: str) -> None:
        if not self._terminal:
            if time.monotonic() >= self._next:
                self._next = time.monotonic() + self.EVERY_S
                note(text)
        elif text != self._shown:
            self._shown = text
            sys.stderr.write(f"\r{text}\x1b[K")
            sys.stderr.flush()

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = ""


# ---------------------------------------------------------------------------------------- the services


def services(plan: Plan) -> tuple[tuple[Service, ...], tuple[Service, ...]]:
    """What starts at once, and what starts when the Prefect server is there."""
    from cli.probe import answers
    from flows import server
    from ssot import presence

    settings, logs = plan.served, plan.logs
    environment = {
        **{name: value for name, value in os.environ.items() if name != "KIRCERTA_TOKEN"},
        "KIRCERTA_HOME": str(plan.home),
        "KIRCERTA_API_URL": plan.api_url,
        "PREFECT_API_URL": plan.prefect_api_url,
        "PYTHONUNBUFFERED": "1",
    }
    prefect = Service(
        "Prefect",
        server.server_command(plan.prefect_port),
        server.server_environment(settings, plan.prefect_port),
        logs / "prefect.log",
        lambda: server.answers(plan.prefect_api_url, 1.0),
    )
    api = Service(
        "API",
        _kircerta("api", "--host", plan.host, "--port", str(plan.port)),
        environment,
        logs / "api.log",
        lambda: answers(f"{plan.api_url}/healthz", 1.0),
    )
    dispatcher = Service(
        "dispatcher",
        _kircerta("flows", "dispatcher"),
        environment,
        logs / "dispatcher.log",
        lambda: presence.is_dispatcher_alive(plan.home),
    )
    flows = Service(
        "flows",
        _kircerta("flows", "serve"),
        environment,
        logs / "flows.log",
        lambda: server.has_deployments(settings),
    )
    return (prefect, api), (dispatcher, flows)


def _kircerta(*arguments: str) -> list[str]:
    """This very command, run by this very Python (-P: never from modules that lie in the current folder)."""
    return [sys.executable, "-P", "-m", "cli.main", *arguments]


# ---------------------------------------------------------------------------------------- the examples


class Examples:
    """The example tasks: made by the first start in an empty workspace, dispatched through the log.

    A mark in the private folder stands from before the first is made until the last is dispatched, so that a start
    that was interrupted in between is taken up by the next one.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._mark = plan.home / ".kircerta" / "examples.todo"
        self._store: Store | None = None
        self._ids: list[str] = []

    @property
    def any(self) -> bool:
        return bool(self._ids)

    @property
    def count(self) -> int:
        return len(self._ids)

    def bring_in(self) -> None:
        """Create them, where this workspace is new."""
        from cli.tasks import creation
        from ssot import importers
        from ssot.store import Store

        if not EXAMPLES.is_file() or (workspace.last_seq(self._plan.home) > 0 and not self._mark.exists()):
            return
        self._mark.touch()
        settings = self._plan.settings
        self._store = Store.open(settings.home, source=workspace.SOURCE, settings=settings.store)
        drafts = [*importers.read(EXAMPLES).drafts]
        if demonstration.prepare(self._plan.home):
            drafts += importers.read(demonstration.TASK).drafts
        self._store.commit_many([(draft.task_id, creation(draft)) for draft in drafts], actor=workspace.actor())
        self._ids = [draft.task_id for draft in drafts]

    def dispatch(self) -> None:
        """Hand out those that were not yet; the dispatcher finds them in the log."""
        from audit.stamp import random_id
        from ssot.intents import Dispatch
        from ssot.states import stage_of

        store = self._known_store()
        for task_id in self._ids:
            task = store.task(task_id)
            if stage_of(task) == "new":
                executor, reviewer = (str(task.metadata.get(name, "fake")) for name in ("executor", "reviewer"))
                intent = Dispatch(random_id("d"), executor, reviewer, self._plan.settings.ack_timeout_s)
                store.commit(task_id, intent, actor=workspace.actor())
        self._mark.unlink(missing_ok=True)

    def under_way(self) -> int:
        """How many an agent still has."""
        from ssot.rules import is_open

        store = self._known_store()
        store.refresh()
        return sum(1 for task_id in self._ids if is_open(store.task(task_id)))

    def at_the_gate(self) -> int:
        store = self._known_store()
        return sum(1 for task_id in self._ids if store.task(task_id).status == "needs_review")

    def _known_store(self) -> Store:
        assert self._store is not None
        return self._store


# --------------------------------------------------------------------------------------- the way in


@dataclass(frozen=True, slots=True)
class AtTheGate:
    """A task that waits for a decision, and what its reviewer said."""

    task_id: str
    verdict: str


def tasks_at_the_gate(plan: Plan) -> list[AtTheGate]:
    """What waits for a decision, oldest first."""
    import orjson

    from ssot.view import Query

    with workspace.open_store(plan.settings) as store:
        page = orjson.loads(store.page(Query(status="needs_review", limit=1000)))
        tasks = [store.task(row["task_id"]) for row in page["tasks"]]
    verdicts = [task.current.verdict if task.current else None for task in tasks]
    return [
        AtTheGate(task.task_id, verdict.decision if verdict else "-")
        for task, verdict in zip(tasks, verdicts, strict=True)
    ]


def greeting(plan: Plan, waiting: list[AtTheGate]) -> Iterator[str]:
    """The addresses, and commands that work as they stand here."""
    command = own_command()
    good = next((one.task_id for one in waiting if one.verdict == "approve"), None)
    bad = next((one.task_id for one in waiting if one.verdict == "reject"), None)
    yield ""
    yield f"kircerta is up: {plan.home}"
    yield ""
    yield f"  API, dashboard   {plan.api_url}"
    yield f"  API docs         {plan.api_url}/docs"
    yield f"  Prefect          {plan.prefect_url}"
    yield f"  logs             {plan.logs}"
    yield ""
    yield f"Waiting for a decision: {len(waiting)}. In another terminal:"
    yield ""
    if plan.home != Path.cwd():
        yield f"  export KIRCERTA_HOME={shlex.quote(str(plan.home))}"
    yield f"  export KIRCERTA_TOKEN=$({command} token --sub alice --role approver)"
    yield f"  {command} task list --status needs_review"
    if good:
        yield f"  {command} task show {good}"
        yield f"  {command} approve {good} --reason 'Read and understood.'"
    if bad:
        yield "  curl -X POST -H \"Authorization: Bearer $KIRCERTA_TOKEN\" -H 'Content-Type: application/json' \\"
        yield f'    -d \'{{"reason": "As the reviewer says."}}\' {plan.api_url}/api/tasks/{bad}/reject'
    yield f"  {command} task create --title 'Say hello' --criterion 'hello.py prints hello'"
    yield f"  curl {plan.api_url}/api/tasks"
    yield ""
    yield "Ctrl-C stops everything; what is in the folder stays."


def own_command() -> str:
    """How this command is called from where we are."""
    found = shutil.which("kircerta")
    here = Path(sys.argv[0])
    if found is None and here.name == "kircerta":
        return os.path.relpath(here) if not os.path.relpath(here).startswith("..") else str(here)
    return "kircerta"
