"""`/reports/`: read-only, as guarded as every other read, no way out of the folder, nothing runs in a page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssot.store import Store
from tests.api.scene import api, bearer

PAGE = "<!doctype html><title>t</title><p>figures</p>"


@pytest.fixture
def reports(home: Path, store: Store) -> Path:
    """A run, an audit and an acceptance; and around them what is nobody's business."""
    folder = home / "reports"
    run, audit = folder / "runs" / "soak-1", folder / "audit" / "20261101T080000Z"
    for place in (run, audit, folder / "private"):
        place.mkdir(parents=True)
        (place / "report.html").write_text(PAGE)
    record = {"run_id": "soak-1", "kind": "soak", "started_at": "2026-11-01T08:00:00Z", "outcome": "<b>pass"}
    (run / "run.json").write_text(json.dumps({**record, "state": "finished"}))
    (run / "samples.parquet").write_bytes(b"PAR1")
    (run / "secret.txt").write_text("no")
    (run / ".hidden.html").write_text("no")
    (folder / "acceptance.json").write_text('{"ok": true}')
    (folder / "page.css").write_text("no")
    (folder / "render.py").write_text("no")
    (home / "outside.html").write_text("no")
    (run / "link.html").symlink_to(home / "outside.html")
    (folder / "runs" / "linked").symlink_to(folder / "private")
    return folder


async def test_the_list_shows_what_there_is(home: Path, reports: Path) -> None:
    async with api(home) as client:
        answer = await client.get("/reports/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert '<a href="/reports/runs/soak-1/report.html">soak-1</a>' in answer.text
    assert '<a href="/reports/runs/soak-1/samples.parquet">samples.parquet</a>' in answer.text
    assert '<a href="/reports/audit/20261101T080000Z/report.html">20261101T080000Z</a>' in answer.text
    assert "all hold" in answer.text
    assert "&lt;b&gt;pass" in answer.text
    assert "<script" not in answer.text
    for name in ("private", "secret", "hidden", "render.py"):
        assert name not in answer.text


async def test_an_empty_workspace_has_an_empty_list(home: Path, store: Store) -> None:
    async with api(home) as client:
        answer = await client.get("/reports/")
    assert answer.text.count("none yet") == 3
    assert "<code>kircerta report audit</code>" in answer.text


async def test_a_page_is_served_in_a_sandbox(home: Path, reports: Path) -> None:
    async with api(home) as client:
        answer = await client.get("/reports/runs/soak-1/report.html")
        again = await client.get("/reports/runs/soak-1/report.html", headers={"If-None-Match": answer.headers["etag"]})
    assert (answer.status_code, answer.text, again.status_code) == (200, PAGE, 304)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-same-origin; default-src 'none'; ")
    assert "script" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("runs/soak-1/run.json", "application/json"),
        ("runs/soak-1/samples.parquet", "application/vnd.apache.parquet"),
        ("audit/20261101T080000Z/report.html", "text/html; charset=utf-8"),
        ("acceptance.json", "application/json"),
    ],
)
async def test_files_come_as_they_lie_there(home: Path, reports: Path, path: str, media_type: str) -> None:
    async with api(home) as client:
        answer = await client.get(f"/reports/{path}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, media_type)
    assert answer.content == (reports / path).read_bytes()
    assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "path",
    [
        "runs/soak-1/../../../outside.html",
        "runs/soak-1/%2e%2e/%2e%2e/%2e%2e/outside.html",
        "runs/..%2f..%2foutside.html/report.html",
        "%2e%2e/outside.html",
        "/etc/passwd",
        "runs/soak-1/link.html",
        "runs/linked/report.html",
        "private/report.html",
        "runs/soak-1/secret.txt",
        "runs/soak-1/.hidden.html",
        "runs/soak-1",
        "runs/soak-1/",
        "runs/soak-1/nope.html",
        "runs/nope/report.html",
        "runs/soak-1/report.html/run.json",
        "runs/soak-1/report.html%00.json",
        "runs/soak-1/report.html%0a",
        "runs\\soak-1\\report.html",
        "render.py",
        "page.css",
        "__init__.py",
    ],
)
async def test_nothing_else_is_reached(home: Path, reports: Path, path: str) -> None:
    async with api(home) as client:
        answer = await client.get(f"/reports/{path}")
    assert answer.status_code == 404
    assert answer.json()["code"] == "not_found"


async def test_reports_are_only_read(home: Path, reports: Path) -> None:
    async with api(home) as client:
        for method in ("POST", "PUT", "DELETE"):
            answer = await client.request(method, "/reports/runs/soak-1/report.html")
            assert answer.status_code == 405
        head = await client.head("/reports/runs/soak-1/report.html")
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("path", ["/reports/", "/reports/runs/soak-1/report.html", "/reports/nope"])
async def test_where_reads_need_a_token_reports_do(home: Path, reports: Path, path: str) -> None:
    async with api(home, read_auth=True) as client:
        assert (await client.get(path)).status_code == 401
        assert (await client.get(path, headers=bearer("vera", "viewer"))).status_code in (200, 404)
        forwarded = await client.get(path, headers={"X-Forwarded-For": "203.0.113.9"})
        assert forwarded.status_code == 401


async def test_a_file_that_is_no_record_does_not_break_the_list(home: Path, reports: Path) -> None:
    (reports / "runs" / "soak-1" / "run.json").write_text("[1, 2")
    async with api(home) as client:
        answer = await client.get("/reports/")
    assert answer.status_code == 200
    assert "soak-1" in answer.text
