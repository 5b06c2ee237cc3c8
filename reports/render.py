"""Runs a notebook in a kernel of its own and writes it, and its page, whole. Nothing else in this room writes."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import nbformat
import orjson
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from audit.files import replace_file
from audit.stamp import Clock
from reports import places
from reports.page import page_of
from reports.places import Home
from reports.records import acceptance, record
from reports.tables import VERDICTS

NOTEBOOKS: Final = Path(__file__).resolve().parents[1] / "notebooks"
KINDS: Final = {"soak": "soak", "flood": "flood", "calibration": "calibration"}
"""The notebook of each kind of run; `latency` for all others."""
CELL_TIMEOUT_S: Final = 600
_KERNEL: Final = "kircerta"
CLOCK: Final = Clock()
Parameters = Mapping[str, str | int | float | bool | list[str] | None]


class ReportFailed(Exception):
    """A notebook could not be run to its end; the message says in which cell, and why."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was written, and what it comes down to: `verdicts` of ``{what, value, ok}``."""

    title: str
    html: Path
    notebook: Path
    verdicts: tuple[dict[str, Any], ...]

    @property
    def ok(self) -> bool:
        return all(one["ok"] is not False for one in self.verdicts)


def report_run(run_id: str, home: Home = None, clock: Clock = CLOCK) -> Report:
    """A run's report, beside its record. Raises NoSuchRun, ReportFailed."""
    folder = places.run_folder(home, run_id)
    kind = record(run_id, home).kind
    return render(KINDS.get(kind, "latency"), {"run_id": run_id}, folder, home=home, clock=clock)


def report_comparison(run_id: str, baseline: list[str], home: Home = None, clock: Clock = CLOCK) -> Report:
    """A run against others, beside its record as ``compare.html``. Raises NoSuchRun, ReportFailed."""
    folder = places.run_folder(home, run_id)
    for one in baseline:
        places.run_folder(home, one)
    parameters: Parameters = {"candidate": [run_id], "baseline": baseline}
    return render("compare", parameters, folder, name="compare", home=home, clock=clock)


def report_audit(home: Home = None, clock: Clock = CLOCK) -> Report:
    """The log's report, in ``reports/audit/<when>/``. Raises ReportFailed."""
    when = clock.stamp().now[:19].replace(":", "").replace("-", "") + "Z"
    return render("audit", {}, places.home_of(home) / "reports" / "audit" / when, home=home, clock=clock)


def report_acceptance(home: Home = None, clock: Clock = CLOCK) -> Report:
    """The newest acceptance's page, as ``reports/acceptance.html``. Raises NoSuchRun, ReportFailed."""
    acceptance(home)
    folder = places.home_of(home) / "reports"
    return render("acceptance", {}, folder, name="acceptance", home=home, clock=clock)


def render(
    story: str,
    parameters: Parameters,
    folder: Path,
    *,
    name: str = "report",
    home: Home = None,
    clock: Clock = CLOCK,
) -> Report:
    """Run a notebook of `notebooks/` with these parameters; write `<name>.ipynb` and `<name>.html` into `folder`.

    Both appear whole or not at all: what stood there before stays until the new one is complete.
    """
    notebook = nbformat.read(NOTEBOOKS / f"{story}.ipynb", as_version=4)
    inject(notebook, parameters)
    execute(notebook, places.home_of(home))
    folder.mkdir(parents=True, exist_ok=True)
    title = _title(notebook, story)
    page = page_of(notebook, title, made_at=clock.stamp().now[:19].replace("T", " ") + " UTC")
    replace_file(folder / f"{name}.ipynb", nbformat.writes(notebook).encode())
    replace_file(folder / f"{name}.html", page.encode())
    return Report(title, folder / f"{name}.html", folder / f"{name}.ipynb", _verdicts(notebook))


def inject(notebook: nbformat.NotebookNode, parameters: Parameters) -> None:
    """Put a cell with these values behind the one tagged `parameters`, as papermill does. Raises ReportFailed."""
    tagged = [at for at, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ())]
    if not tagged:
        raise ReportFailed("the notebook has no cell tagged `parameters`")
    known = notebook.cells[tagged[0]].source
    unknown = [name for name in parameters if f"\n{name} = " not in f"\n{known}"]
    if unknown:
        raise ReportFailed(f"the notebook has no parameter {unknown[0]}")
    source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["injected-parameters"]}, id="injected-parameters")
    notebook.cells.insert(tagged[0] + 1, cell)


def execute(notebook: nbformat.NotebookNode, home: Path) -> None:
    """Run all cells, in a kernel that talks over sockets in a private folder. Raises ReportFailed."""
    with _private_folder() as folder:
        manager = AsyncKernelManager(
            kernel_name=_KERNEL,
            kernel_spec_manager=_this_python(folder / "kernels"),
            transport="ipc",
            connection_file=str(folder / "kernel.json"),
        )
        client = NotebookClient(
            notebook, km=manager, timeout=CELL_TIMEOUT_S, resources={"metadata": {"path": str(folder)}}
        )
        # nothing of the person at this machine reaches the figures, and nothing is left in their home
        surroundings = {**os.environ, "KIRCERTA_HOME": str(home), "IPYTHONDIR": str(folder), "PYTHONSAFEPATH": "1"}
        surroundings.pop("PYTHONSTARTUP", None)
        said = folder / "kernel.log"
        try:
            with said.open("wb") as log:
                _Running(client, env=surroundings, stdout=log, stderr=log).to_its_end()
        except CellExecutionError as error:
            raise ReportFailed(f"a cell of the notebook failed: {error.ename}: {error.evalue}") from None
        except (CellTimeoutError, DeadKernelError) as error:
            last = said.read_text(errors="replace").strip().rpartition("\n")[2]
            raise ReportFailed(f"the notebook did not come to its end: {error} {last}".rstrip()) from None


class _Running:
    """A notebook that runs in a thread of its own: there nbclient leaves the process's signals alone.

    With them in its hands, Ctrl-C would end the kernel under a run that goes on.
    """

    def __init__(self, client: NotebookClient, **start: Any) -> None:
        self._client, self._start = client, start
        self._cancel: Callable[[], object] = lambda: None

    def to_its_end(self) -> None:
        """Wait for the last cell. Ctrl-C cancels the run, ends the kernel, and goes on as KeyboardInterrupt."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            running = pool.submit(asyncio.run, self._run())
            try:
                running.result()
            except KeyboardInterrupt:
                with suppress(RuntimeError):  # it has just come to its end by itself
                    self._cancel()
                raise

    async def _run(self) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        await self._client.async_execute(cleanup_kc=True, **self._start)


def _this_python(folder: Path) -> KernelSpecManager:
    """The kernels there are: this very Python, and none that somebody installed for themselves under the same name."""
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python 3",
        "language": "python",
    }
    (folder / _KERNEL).mkdir(parents=True)
    (folder / _KERNEL / "kernel.json").write_bytes(orjson.dumps(spec))
    return KernelSpecManager(kernel_dirs=[str(folder)], ensure_native_kernel=False)


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder with a short name (a socket's path has room for some hundred characters) that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="kc-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _title(notebook: nbformat.NotebookNode, story: str) -> str:
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("# "):
            return str(cell.source.splitlines()[0][2:])
    return story


def _verdicts(notebook: nbformat.NotebookNode) -> tuple[dict[str, Any], ...]:
    found: list[dict[str, Any]] = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            found += output.get("data", {}).get(VERDICTS, {}).get("verdicts", ())
    return tuple(found)
