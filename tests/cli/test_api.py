"""`kircerta api`: it says where it answers once it does, and ends quietly."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import orjson
import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("json", [False, True])
def test_it_says_where_it_answers_and_it_does(tmp_path: Path, json: bool) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "cli.main", "api", "--port", url.rpartition(":")[2], *(["--json"] if json else [])]
    environment = {**os.environ, "KIRCERTA_HOME": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        status = httpx.get(f"{url}/healthz").status_code
        process.send_signal(signal.SIGTERM)
        assert (process.wait(10), status) == (0, 200)
    assert orjson.loads(line)["api_url"] == url if json else url in line
