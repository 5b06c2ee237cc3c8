"""One API under load for the tests that need a real one, and the settings of whoever puts it there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from flows.load.runs import asked
from flows.load.session import Asked
from ssot.runs import Kind
from ssot.settings import Settings
from tests.api.running import server
from tests.api.scene import SECRET

LENIENT = ("foreign_cpu<=1", "generator_cpu<=1", "dispatch_lag_p99<=400")
"""The tests' machine does other things, too."""


@dataclass(frozen=True)
class Loaded:
    """A workspace, the API that serves it, and its process."""

    settings: Settings
    url: str
    pid: int

    def asked(
        self, kind: Kind, seconds: float, *thresholds: str, gates: tuple[str, ...] = LENIENT, **wishes: Any
    ) -> Asked:
        return asked(self.settings, kind, None, {"duration_s": seconds, **wishes}, thresholds, gates)


def settings_for(home: Path, url: str, **more: Any) -> Settings:
    return Settings(home=home, jwt_secret=SecretStr(SECRET), api_url=url, _env_file=None, **more)


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[Loaded]:
    with server(tmp_path, KIRCERTA_GITHUB_SECRET="known to the server only") as (process, port):
        url = f"http://127.0.0.1:{port}"
        yield Loaded(settings_for(tmp_path, url), url, process.pid)
