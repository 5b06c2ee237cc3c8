"""The Prefect server beside kircerta: every setting that it and its clients need, in one place; started and asked here.

Imports nothing of Prefect: a command that only wants to know whether flows are served must not pay for that.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import certifi
import httpx

from flows.workspace import home_tag
from ssot.presence import is_dispatcher_alive
from ssot.settings import Settings

_TIMEOUT_S: Final = 2.0
_BUSY_S: Final = 10.0
"""Where a dispatcher lives, the server is there: on a machine with much to do it took more than two seconds."""
_FOLDER: Final = Path(".kircerta") / "prefect"

PREFECT_ENVIRONMENT: Final[dict[str, str]] = {
    # One write for 200 task runs: with the default of 1 a flow stalled for a minute after some 4,000 of them.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "200",
    # serve() looks for runs every 10 s by default: a start from the UI would take 6 s.
    "PREFECT_RUNNER_POLL_FREQUENCY": "1",
    # Every line of a run's log is another insert; what happened is in kircerta's own log. Trouble still shows.
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # Two requests before every run, for a protection that a local server does not have.
    "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "false",
    "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
    # It talks to nobody but us.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_CLI_PROMPT": "false",
    # Nothing is started by accident where the server is not there: the pipeline runs without Prefect then.
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    # Results are in the workspace, never in Prefect's storage.
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
}
"""What keeps Prefect 3.8 out of its traps, for the server, the dispatcher and the flows alike."""


class ServerFailed(Exception):
    """The Prefect server did not start; the message says where its log is."""


def prefect_environment(settings: Settings, prefect_api_url: str | None = None) -> dict[str, str]:
    """The environment of every process that works with Prefect for this workspace.

    Call before Prefect is imported; makes the private folder that it names. `prefect_api_url` stands above that of
    the settings.
    """
    folder = settings.home / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    found = {**PREFECT_ENVIRONMENT, "PREFECT_HOME": str(folder), "KIRCERTA_HOME": str(settings.home)}
    url = prefect_api_url or settings.prefect_api_url
    if url is not None:
        found["PREFECT_API_URL"] = url
        if urlsplit(url).scheme == "http":
            found["PREFECT_API_SSL_CERT_FILE"] = str(_one_certificate(folder))
    return found


def _one_certificate(folder: Path) -> Path:
    """A bundle of one certificate. Each run loads the bundle, though nothing is encrypted on the way to a local server:
    the usual 150 certificates cost 30 ms of CPU a run."""
    path = folder / "one-certificate.pem"
    if not path.exists():
        end = "-----END CERTIFICATE-----\n"
        bundle = Path(certifi.where()).read_text()
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(bundle[: bundle.index(end) + len(end)])
        temporary.rename(path)
    return path


def use_environment(settings: Settings, prefect_api_url: str | None = None) -> None:
    """Set this process up for Prefect; what a person set in the environment stays. Call before Prefect is imported."""
    for name, value in prefect_environment(settings, prefect_api_url).items():
        if name in ("KIRCERTA_HOME", "PREFECT_API_URL"):
            os.environ[name] = value
        else:
            os.environ.setdefault(name, value)


# ---------------------------------------------------------------------------------------------- the server


@dataclass(slots=True)
class PrefectServer:
    """A Prefect server that this process started, in a process group of its own, on 127.0.0.1."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def ui_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self, patience_s: float = 5.0) -> None:
        """Ask it to end, then kill it and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(patience_s)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def server_command(port: int) -> list[str]:
    """The command that serves Prefect on 127.0.0.1 alone."""
    return [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]


def server_environment(settings: Settings, port: int) -> dict[str, str]:
    """The environment of that command."""
    return {**os.environ, **prefect_environment(settings, f"http://127.0.0.1:{port}/api")}


def start_prefect_server(settings: Settings, port: int) -> PrefectServer:
    """Start a server whose database and log lie in the workspace's private folder."""
    log = settings.home / ".kircerta" / "logs" / "prefect.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            server_command(port),
            env=server_environment(settings, port),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return PrefectServer(process, port, log)


def wait_until_ready(
    server: PrefectServer, patience_s: float = 90.0, progress: Callable[[float], None] = lambda waited_s: None
) -> None:
    """Wait for a server's first answer: some 15 s on its first start, 5 s later on. Raises ServerFailed."""
    begun = time.monotonic()
    while not answers(server.api_url):
        waited_s = time.monotonic() - begun
        if server.process.poll() is not None:
            raise ServerFailed(f"the Prefect server ended with {server.process.returncode}: see {server.log}")
        if waited_s > patience_s:
            raise ServerFailed(f"the Prefect server did not answer within {patience_s:g} s: see {server.log}")
        progress(waited_s)
        time.sleep(0.1)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ------------------------------------------------------------------------------------------------ asked


def is_served(settings: Settings) -> bool:
    """Whether a dispatch can be left to the flows that are served for this workspace.

    That is: PREFECT_API_URL is set, the server answers and has deployments with this workspace's tag, and a
    dispatcher lives. A server that is not there is told at once; a silent one is waited for ten seconds.
    """
    if settings.prefect_api_url is None or not is_dispatcher_alive(settings.home):
        return False
    return has_deployments(settings, _BUSY_S)


def has_deployments(settings: Settings, timeout_s: float = _TIMEOUT_S) -> bool:
    """Whether the Prefect server has deployments of this workspace; False when it does not answer."""
    wanted = {"deployments": {"tags": {"all_": [home_tag(settings.home)]}}, "limit": 1}
    try:
        answer = httpx.post(f"{settings.prefect_api_url}/deployments/filter", json=wanted, timeout=timeout_s)
        return answer.status_code == 200 and len(answer.json()) > 0
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return False


def answers(prefect_api_url: str, timeout_s: float = _TIMEOUT_S) -> bool:
    """Whether a Prefect server is there."""
    try:
        return httpx.get(f"{prefect_api_url}/health", timeout=timeout_s).status_code == 200
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
