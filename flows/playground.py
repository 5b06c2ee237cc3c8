"""A workspace of one's own, with servers of its own: what may be killed, flooded and lied to without anybody's harm."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from pydantic import SecretStr

from flows.server import free_port
from ssot.settings import Settings

CODE: Final = Path(__file__).parents[1]
API_COMMAND: Final = (sys.executable, "-m", "cli.main", "api")
_START_S: Final = 30.0


class NotStarted(Exception):
    """The playground's API does not answer; the message says what it said last."""


class Playground:
    """A workspace in a temporary folder, an API and, where wanted, a dispatcher. Removed with what was in it.

    Args:
        given: the settings that it shares; address, key and folder are its own.
        secret: more settings of its servers by their field's name; they go by environment, never by argument.
        command: what serves the API; ``--port`` and a number are added.
    """

    def __init__(
        self,
        given: Settings,
        name: str,
        *,
        dispatcher: bool = True,
        secret: dict[str, str] | None = None,
        command: Sequence[str] = API_COMMAND,
    ) -> None:
        self.home = Path(tempfile.mkdtemp(prefix=f"kircerta-{name}-"))
        key = SecretStr(secrets.token_urlsafe(48))
        self.port = free_port()
        hidden: dict[str, Any] = {field: SecretStr(value) for field, value in (secret or {}).items()}
        own = {"home": self.home, "jwt_secret": key, "token": None, "prefect_api_url": None, **hidden}
        self.settings = given.model_copy(update={**own, "api_url": f"http://127.0.0.1:{self.port}"})
        self.is_worth_keeping = False
        named = {f"KIRCERTA_{field.upper()}": value for field, value in (secret or {}).items()}
        self.environment = {**_environment(self.home, key), **named}
        self.api: subprocess.Popen[bytes] | None = None
        self.dispatcher: subprocess.Popen[bytes] | None = None
        self._command = tuple(command)
        self._with_dispatcher = dispatcher

    def __enter__(self) -> Self:
        try:
            self.start_api()
            if self._with_dispatcher:
                self.start_dispatcher()
            self.await_api()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End its servers, and remove the workspace unless it is worth keeping."""
        for process in (self.api, self.dispatcher):
            end(process)
        if not self.is_worth_keeping:
            shutil.rmtree(self.home, ignore_errors=True)

    def start_api(self) -> None:
        self.api = self._started("api", [*self._command, "--port", str(self.port)])

    def start_dispatcher(self) -> None:
        self.dispatcher = self._started("flows", [sys.executable, "-m", "cli.main", "flows", "dispatcher"])

    def _started(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with self._log(name).open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=CODE,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _log(self, name: str) -> Path:
        return self.home / f".{name}.log"

    def await_api(self) -> None:
        """Raises NotStarted."""
        until = time.monotonic() + _START_S
        while time.monotonic() < until and self.api is not None and self.api.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                probe.sendall(b"GET /healthz HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
                if b" 200 " in probe.recv(64):
                    return
            time.sleep(0.05)
        said = self._log("api").read_text(errors="replace").strip().rpartition("\n")[2]
        raise NotStarted(f"the API of the own workspace {self.home} did not start: {said[:500] or 'it said nothing'}")


def _environment(home: Path, key: SecretStr) -> dict[str, str]:
    """What its servers see: nothing of the settings of this process but where things are installed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KIRCERTA_", "PREFECT_"))}
    return {**kept, "KIRCERTA_HOME": str(home), "KIRCERTA_JWT_SECRET": key.get_secret_value()}


def end(process: subprocess.Popen[bytes] | None, number: signal.Signals = signal.SIGTERM) -> None:
    """End a process that this one started."""
    if process is None or process.poll() is not None:
        return
    process.send_signal(number)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
