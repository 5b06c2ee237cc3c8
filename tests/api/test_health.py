"""Alive, ready, numbers, pages; and what every answer has in common."""

from __future__ import annotations

import asyncio
import http.server
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from api.app import create_app
from api.health import _answers
from api.problems import PROBLEMS, problem_of
from audit.files import StorageFailed, SyncFailed
from ssot.store import Store
from tests.api.scene import AS_APPROVER, HEADERS_OF, api, at_stage, client_of, lifespan, post, settings_for, task


async def test_nothing_is_healthy_before_recovery_is_done(home: Path, store: Store) -> None:
    door = create_app(settings_for(home))
    async with client_of(door) as client:
        for path in ("/healthz", "/readyz", "/api/tasks"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (503, "starting")
        async with lifespan(door):
            assert (await client.get("/healthz")).status_code == 200


async def test_readiness_tells_each_dependencys_state(home: Path, store: Store) -> None:
    at_stage(store, "dispatched")
    (home / "ssot" / "tasks" / "T-2.json").write_text("{ not json")
    async with api(home, prefect_api_url="http://127.0.0.1:9/api") as client:
        answer = await client.get("/readyz")
        while answer.json()["held_files"] == 0:  # a file that young may still be being written
            await asyncio.sleep(0.05)
            answer = await client.get("/readyz")
    body = answer.json()
    assert (answer.status_code, body["ready"], body["log"], body["disk"], body["watcher"]) == (
        200,
        True,
        "ok",
        "ok",
        "ok",
    )
    assert (body["held_files"], body["open_attempts"]) == (1, 1)
    assert body["prefect"] in ("unknown", "unreachable"), "a missing Prefect is reported, not fatal"


async def test_a_prefect_that_answers_is_seen(home: Path, store: Store) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/api/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            assert _answers(f"http://127.0.0.1:{server.server_port}/api")
            assert not _answers(f"http://127.0.0.1:{server.server_port}/elsewhere")
        finally:
            server.shutdown()
            thread.join()
    assert not _answers("nonsense")


async def test_a_corrupt_log_is_not_ready_and_decides_nothing(home: Path, store: Store) -> None:
    at_stage(store, "needs_review")
    async with api(home) as client:
        path = home / "audit" / "events.jsonl"
        path.write_bytes(path.read_bytes() + b'{"not": "an event"}\n')
        ready = await client.get("/readyz")
        reading = await client.get("/api/tasks")
        deciding = await post(client, "approve")
        alive = await client.get("/healthz")
    assert (ready.status_code, ready.json()["ready"]) == (503, False)
    assert ready.json()["log"].startswith("corrupt")
    assert [a.json()["code"] for a in (reading, deciding)] == ["log_corrupt"] * 2
    assert alive.status_code == 200


async def test_a_log_that_is_gone_is_a_503(home: Path, store: Store) -> None:
    task(store)
    async with api(home) as client:
        assert (await client.get("/api/tasks")).json()["total"] == 1
        (home / "audit" / "events.jsonl").unlink()
        answer = await client.get("/api/tasks")
    assert (answer.status_code, answer.json()["code"]) == (503, "log_corrupt")


def test_what_the_disk_refuses_is_a_507_when_it_is_full_and_a_503_otherwise() -> None:
    assert problem_of(StorageFailed("no room", full=True)).status == 507
    assert problem_of(StorageFailed("no")).status == problem_of(SyncFailed("no")).status == 503


async def test_the_numbers_are_prometheus_text(home: Path, store: Store) -> None:
    at_stage(store, "needs_review")
    async with api(home) as client:
        await client.get("/api/tasks")
        await client.get("/api/tasks/T-1")
        await client.get("/api/tasks/T-404")
        await client.post("/api/tasks/T-1/approve")
        await client.get("/api/" + "x" * 50)
        answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    for line in (
        'kircerta_tasks{status="needs_review"} 1.0',
        f"kircerta_log_seq {store.last_seq():.1f}",
        'kircerta_http_requests_total{code="404",method="GET",route="/api/tasks/{task_id}"} 1.0',
        'kircerta_http_requests_total{code="401",method="POST",route="/api/tasks/{task_id}/approve"} 1.0',
        'kircerta_http_requests_total{code="404",method="GET",route="unknown"} 1.0',
        "kircerta_refused_requests 1.0",
        "kircerta_held_files 0.0",
    ):
        assert line in answer.text.splitlines(), line
    assert 'kircerta_http_request_seconds_bucket{le="0.005",route="/api/tasks"}' in answer.text


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_the_pages_load_nothing_from_elsewhere(home: Path, store: Store, path: str) -> None:
    async with api(home) as client:
        page = await client.get(path)
        assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert "require-trusted-types-for 'script'" in page.headers["content-security-policy"]
        assert "<style" not in page.text
        assert not re.search(r"<script(?![^>]*src)", page.text), "no inline script"
        for address in re.findall(r'(?:src|href)="([^"]+)"', page.text):
            assert address.startswith(("/", "#"))
            assert (await client.get(address)).status_code == 200, address


async def test_static_files_are_known_names_only(home: Path, store: Store) -> None:
    async with api(home) as client:
        for name in ("..%2fapp.py", "app.py", "%2e%2e", ".", "app.css%00"):
            assert (await client.get(f"/static/{name}")).status_code == 404


async def test_head_is_get_without_its_body(home: Path, store: Store) -> None:
    task(store)
    async with api(home) as client:
        for path in ("/api/tasks", "/api/tasks/T-1", "/api/audit", "/healthz", "/readyz", "/", "/openapi.json"):
            whole, head = await client.get(path), await client.head(path)
            assert (head.status_code, head.content) == (whole.status_code, b""), path
            if path != "/readyz":
                assert head.headers == whole.headers, path


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("POST", "/api/tasks", "GET, HEAD"), ("DELETE", "/api/tasks/T-1", "GET, HEAD"),
     ("GET", "/api/tasks/T-1/approve", "POST"),
     ("OPTIONS", "/api/tasks", "GET, HEAD"), ("HEAD", "/api/tasks/T-1/ack", "POST"), ("PUT", "/", "GET, HEAD")],
)  # fmt: skip
async def test_a_wrong_method_is_a_405_that_lists_the_right_ones(
    home: Path, store: Store, method: str, path: str, allow: str
) -> None:
    async with api(home) as client:
        answer = await client.request(method, path, headers=AS_APPROVER)
    assert (answer.status_code, answer.headers["allow"]) == (405, allow)


async def test_an_unknown_path_is_a_problem(home: Path, store: Store) -> None:
    async with api(home) as client:
        for path in ("/nope", "/api", "/api/tasks/", "/api/tasks/T-1/approve/", "/api//tasks"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
            assert answer.headers["content-type"] == "application/problem+json"


async def test_what_nobody_expected_is_a_500_that_shows_nothing(
    home: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    door = create_app(settings_for(home))
    framework: Any = door.app
    framework.add_api_route("/broken", _broken, methods=["GET"])
    async with lifespan(door), client_of(door) as client:
        answer = await client.get("/broken")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "secret detail" not in answer.text
    assert [record.levelname for record in caplog.records if "secret detail" in record.getMessage()] == ["ERROR"]


async def _broken() -> None:
    raise RuntimeError("secret detail")


async def test_every_answer_has_the_safe_headers(home: Path, store: Store) -> None:
    task(store)
    async with api(home) as client:
        for path in ("/", "/api/tasks", "/api/tasks/T-1", "/nope", "/openapi.json", "/metrics"):
            headers = (await client.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff", path
            assert headers["referrer-policy"] == "no-referrer"
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert headers["cache-control"] in ("no-cache", "no-store")


async def test_the_description_names_every_route_and_code(home: Path, store: Store) -> None:
    async with api(home) as client:
        api_description = (await client.get("/openapi.json")).json()
    assert set(api_description["paths"]) >= {
        "/api/tasks", "/api/tasks/{task_id}", "/api/audit", "/api/blobs/{sha256}", "/healthz", "/readyz", "/metrics",
        *(f"/api/tasks/{{task_id}}/{name}" for name in HEADERS_OF),
    }  # fmt: skip
    assert api_description["components"]["schemas"]["Problem"]["properties"]["code"]["enum"] == list(PROBLEMS)
    post_approve = api_description["paths"]["/api/tasks/{task_id}/approve"]["post"]
    assert post_approve["security"] == [{"token": []}]
    assert {"400", "401", "403", "404", "408", "409", "413", "415", "422", "503", "507"} <= set(
        post_approve["responses"]
    )
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', str(api_description).replace("'", '"')))
    assert references <= set(api_description["components"]["schemas"])
