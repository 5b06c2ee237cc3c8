"""`kircerta task`: list, show, create and import tasks."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli import workspace
from cli.failures import Failure, WrongUse
from cli.screen import Json, note, one_line, progress, put_bytes, put_json, put_table, say
from ssot.counted import counted

if TYPE_CHECKING:
    from ssot.importers import Draft, Reading
    from ssot.intents import Create
    from ssot.store import Committed, Refused, Store
    from ssot.task import Criterion, Task

app = typer.Typer(help="List, show, create and import tasks.", no_args_is_help=True)

TaskId = Annotated[str, typer.Argument(metavar="TASK_ID", help="The task's id.", show_default=False)]
STATUSES: Final = ("pending", "needs_review", "approved", "rejected")
SOURCES: Final = ("manual", "import", "github", "xcode", "telegram")
EMPTY_PAGE: Final = b'{"tasks":[],"total":0,"next_cursor":null}'
_BATCH: Final = 200


def add_to(parent: typer.Typer) -> None:
    parent.add_typer(app, name="task", rich_help_panel="Work")


# ---------------------------------------------------------------------------------------------- list


@app.command("list", epilog="Example: kircerta task list --status needs_review")
def list_tasks(
    status: Annotated[str | None, typer.Option(help=f"Only tasks of this status: {', '.join(STATUSES)}.")] = None,
    source: Annotated[str | None, typer.Option(help=f"Only tasks from there: {', '.join(SOURCES)}.")] = None,
    text: Annotated[str | None, typer.Option("--text", "-q", help="Only tasks with this in their id or title.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 200,
    cursor: Annotated[str | None, typer.Option(help="Go on where the page before ended.")] = None,
    json: Json = False,
) -> None:
    """List tasks, oldest first."""
    from ssot.view import Query

    _one_of("--status", status, STATUSES)
    _one_of("--source", source, SOURCES)
    given = workspace.settings()
    if not workspace.exists(given.home):
        page = EMPTY_PAGE
        note(f"kircerta: {given.home} holds no tasks yet (KIRCERTA_HOME names another folder)")
    else:
        with workspace.open_store(given) as store:
            page = store.page(Query(status, source, text, limit, cursor))
    if json:
        put_json(page)
    else:
        _print_page(page)


def _one_of(option: str, value: str | None, known: Sequence[str]) -> None:
    if value is not None and value not in known:
        raise WrongUse(f"{option} {value}: it is one of {', '.join(known)}")


def _print_page(page: bytes) -> None:
    import orjson

    found = orjson.loads(page)
    rows = found["tasks"]
    if rows:
        put_table(
            ("TASK", "STATUS", "ATTEMPT", "SOURCE", "UPDATED", "TITLE"),
            (
                (row["task_id"], _told(row), row["attempt"] or "-", row["source"], row["updated_at"][:19], row["title"])
                for row in rows
            ),
            styled="STATUS",
        )
    more = f"; go on with --cursor {found['next_cursor']}" if found["next_cursor"] else ""
    say(f"{len(rows)} of {counted(found['total'], 'task')}{more}", "dim")


def _told(row: dict[str, Any]) -> str:
    stage = f" ({row['stage']})" if row["status"] == "pending" and row["stage"] != "new" else ""
    return f"{row['status']}{stage}{' locked' if row['locked'] else ''}"


# ---------------------------------------------------------------------------------------------- show


@app.command(epilog="Example: kircerta task show T-7")
def show(
    task_id: TaskId,
    raw: Annotated[bool, typer.Option("--raw", help="Print the document exactly as its file has it.")] = False,
    json: Json = False,
) -> None:
    """Show one task: what is asked, every attempt, and its timeline."""
    check_id(task_id)
    given = workspace.settings()
    if not workspace.exists(given.home):
        raise Failure(f"there is no task {task_id}: {given.home} holds no tasks (KIRCERTA_HOME)")
    with workspace.open_store(given) as store:
        task = store.task(task_id)
        if raw:
            put_bytes(store.document(task_id) or b"")
        elif json:
            put_json(store.detail(task_id) or b"")
        else:
            _print_task(store, task)


def check_id(task_id: str) -> None:
    """Refuse what can be no task's id, before anything is looked up."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", task_id, re.ASCII):
        raise WrongUse(
            f"{task_id[:80]!r} is no task id: 1 to 128 letters, digits, dots, underscores and hyphens, "
            "a letter or digit first"
        )


def _print_task(store: Store, task: Task) -> None:
    from cli.portrait import portray

    portray(store, task)


# -------------------------------------------------------------------------------------------- create


@app.command(
    epilog="Example: kircerta task create --title 'Greet by name' --text 'hello.py greets by name.' "
    "--criterion 'hello.py Ada prints Hello, Ada' --scope 'src/**'"
)
def create(
    request: Annotated[
        str | None, typer.Argument(metavar="[TEXT]", help="What is asked; - reads it from stdin.", show_default=False)
    ] = None,
    title: Annotated[str | None, typer.Option(help="One line; made from the text where absent.")] = None,
    text: Annotated[str | None, typer.Option(help="What is asked; - reads it from stdin.")] = None,
    file: Annotated[Path | None, typer.Option(help="What is asked, from a file.")] = None,
    criterion: Annotated[
        list[str] | None, typer.Option("--criterion", "-c", help="An acceptance criterion; give it once for each.")
    ] = None,
    scope: Annotated[
        list[str] | None, typer.Option("--scope", "-s", help="A glob of paths that the work may touch; repeatable.")
    ] = None,
    task_id: Annotated[
        str | None, typer.Option("--id", help="The task's id; made from the title where absent.")
    ] = None,
    json: Json = False,
) -> None:
    """Create a task. Without criteria its title is the one criterion."""
    from ssot.intents import Create
    from ssot.rules import title_from
    from ssot.task import Criterion

    if task_id is not None:
        check_id(task_id)
    asked = _asked(request, text, file, title)
    criteria = tuple(Criterion(id=f"AC-{number}", text=one) for number, one in enumerate(criterion or (), 1))
    intent = Create(
        request_text=asked, source="manual", title=_title(title), acceptance_criteria=criteria, scope=_scope(scope)
    )
    with workspace.open_store(workspace.settings()) as store:
        made = _commit(store, task_id, title or title_from(asked), intent)
        if json:
            put_json(store.detail_of(made.document))
        else:
            say(f"{made.task.task_id} created. Next: kircerta dispatch {made.task.task_id}")


def _asked(request: str | None, text: str | None, file: Path | None, title: str | None) -> str:
    """The request's text, from the one place that was named; the title where none was."""
    named = [value for value in (request, text, file) if value is not None]
    if len(named) > 1:
        raise WrongUse("the text is given more than once: use one of TEXT, --text and --file")
    if not named:
        if title is None:
            raise WrongUse("nothing is asked: give a text, --file or --title (kircerta task create --help)")
        return title
    asked = read_text(file) if file is not None else _stdin() if "-" in named else str(named[0])
    if not asked.strip():
        raise WrongUse("the text is empty")
    return asked


def _stdin() -> str:
    try:
        return sys.stdin.buffer.read(8 * 1024 * 1024 + 1).decode()
    except UnicodeDecodeError as error:
        raise WrongUse(f"stdin is not UTF-8 ({error.reason} at byte {error.start})") from None


def read_text(path: Path) -> str:
    """A text file that somebody named. Raises WrongUse."""
    from audit.files import NotRegular, read_regular

    try:
        return read_regular(path)[0].decode()
    except NotRegular as error:
        raise WrongUse(str(error)) from None
    except UnicodeDecodeError as error:
        raise WrongUse(f"{path} is not UTF-8 ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise WrongUse(f"{path} cannot be read: {error.strerror}") from None


def _title(title: str | None) -> str | None:
    if title is None:
        return None
    if not title.strip() or "\n" in title or "\r" in title or len(title) > 4096:
        raise WrongUse("--title is one line that says something")
    return title.strip()


def _scope(scope: list[str] | None) -> tuple[str, ...]:
    for glob in scope or ():
        if not glob.strip() or glob.startswith("/") or "\n" in glob:
            raise WrongUse(f"--scope {glob!r}: it is a glob of paths inside the project, e.g. 'src/**'")
    return tuple(scope or ())


def _commit(store: Store, task_id: str | None, title: str, intent: Create) -> Committed:
    """Create under the id that was asked for; an id that was made up gives way to the tasks that are there."""
    from ssot.store import Refused

    if task_id is not None:
        return store.commit(task_id, intent, actor=workspace.actor())
    for candidate in _ids(title):
        try:
            return store.commit(candidate, intent, actor=workspace.actor())
        except Refused as refused:
            if refused.code != "exists":
                raise
    raise AssertionError("ids never end")


def _ids(title: str) -> Iterator[str]:
    import itertools
    import unicodedata

    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:48].rstrip("-") or "task"
    yield slug
    for number in itertools.count(2):
        yield f"{slug}-{number}"


# -------------------------------------------------------------------------------------------- import


@app.command("import", epilog="Example: kircerta task import backlog/ --dry-run")
def import_tasks(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file or folder with tasks.", show_default=False)],
    format: Annotated[
        str | None, typer.Option("--format", help="The format; recognised by itself where absent.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go in, and write nothing.")] = False,
    json: Json = False,
) -> None:
    """Import tasks from Backlog.md, Beads, Markdown checklists, OpenSpec, JSONL or CSV.

    What is there already is passed by, so the same import may run again.

    What cannot be read is listed with its place while the rest goes in; then the exit code is 1.
    """
    from ssot import importers

    with progress(f"reading {path}"):
        reading = importers.read(path, format)
    given = workspace.settings()
    if dry_run:
        present = _present(given, reading.drafts)
        report = Imported(reading, dry_run=True)
        for draft in reading.drafts:
            report.count(draft.task_id, "exists" if draft.task_id.casefold() in present else "new")
    else:
        with workspace.open_store(given) as store:
            report = _bring_in(store, reading)
    report.put_json() if json else report.print()
    if reading.problems or report.refused:
        raise typer.Exit(1)


def _present(given: Any, drafts: Sequence[Draft]) -> set[str]:
    """Which of the drafts' ids are taken, ignoring case. A workspace that is not there is not made."""
    if not workspace.exists(given.home):
        return set()
    with workspace.open_store(given) as store:
        return {draft.task_id.casefold() for draft in drafts if draft.task_id.casefold() in store.view.folded}


def _bring_in(store: Store, reading: Reading) -> Imported:
    report = Imported(reading)
    drafts = reading.drafts
    with progress("importing") as tell:
        for begin in range(0, len(drafts), _BATCH):
            batch = drafts[begin : begin + _BATCH]
            answers = store.commit_many([(draft.task_id, creation(draft)) for draft in batch], actor=workspace.actor())
            for draft, answer in zip(batch, answers, strict=True):
                report.take(draft.task_id, answer)
            tell(begin + len(batch), len(drafts))
    return report


def creation(draft: Draft) -> Create:
    """What an importer read, as an intent."""
    from ssot.intents import Create

    return Create(
        request_text=draft.request_text,
        source="import",
        title=draft.title,
        acceptance_criteria=_criteria(draft),
        scope=draft.scope,
        created_at=draft.created_at,
        origin=draft.origin,
        metadata=draft.metadata,
    )


def _criteria(draft: Draft) -> tuple[Criterion, ...]:
    return draft.acceptance_criteria


class Imported:
    """What became of each task of an import."""

    def __init__(self, reading: Reading, *, dry_run: bool = False) -> None:
        self.reading = reading
        self.dry_run = dry_run
        self.fates: dict[str, str] = {}
        self.refused: dict[str, str] = {}

    def count(self, task_id: str, fate: str) -> None:
        self.fates[task_id] = fate

    def take(self, task_id: str, answer: Committed | Refused) -> None:
        from ssot.store import Refused

        if not isinstance(answer, Refused):
            self.count(task_id, "created")
        elif answer.code == "exists":
            self.count(task_id, "exists")
        else:
            self.count(task_id, "refused")
            self.refused[task_id] = answer.detail

    def total(self, fate: str) -> int:
        return sum(1 for found in self.fates.values() if found == fate)

    def put_json(self) -> None:
        put_json(
            {
                "format": self.reading.format,
                "dry_run": self.dry_run,
                "created": self.total("created"),
                "new": self.total("new"),
                "existing": self.total("exists"),
                "tasks": [
                    {
                        "task_id": draft.task_id,
                        "fate": self.fates[draft.task_id],
                        "title": draft.title,
                        "criteria": len(draft.acceptance_criteria),
                        "status": _source_status(draft),
                    }
                    for draft in self.reading.drafts
                ],
                "refused": [{"task_id": task_id, "reason": why} for task_id, why in self.refused.items()],
                "problems": [
                    {"file": problem.file, "line": problem.line, "reason": problem.reason}
                    for problem in self.reading.problems
                ],
            }
        )

    def print(self) -> None:
        if self.dry_run:
            put_table(
                ("TASK", "", "CRITERIA", "STATUS THERE", "TITLE"),
                (
                    (
                        draft.task_id,
                        self.fates[draft.task_id],
                        len(draft.acceptance_criteria),
                        _source_status(draft) or "-",
                        draft.title,
                    )
                    for draft in self.reading.drafts
                ),
            )
        done = f"{self.total('new')} would be created" if self.dry_run else f"{self.total('created')} created"
        say(f"{self.reading.format}: {done}, {self.total('exists')} there already, {self._troubles()}")
        for problem in self.reading.problems:
            place = f"{problem.file}:{problem.line}" if problem.line else problem.file
            note(f"kircerta: {one_line(place)}: {one_line(problem.reason)}")
        for task_id, why in self.refused.items():
            note(f"kircerta: {task_id}: {one_line(why)}")

    def _troubles(self) -> str:
        unread = len(self.reading.problems)
        refused = f", {len(self.refused)} refused" if self.refused else ""
        return f"{unread} could not be read{refused}"


def _source_status(draft: Draft) -> str | None:
    found = draft.metadata.get("import", {}).get("status")
    return str(found) if found is not None else None
