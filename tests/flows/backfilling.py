"""One run of the backfill as a process of its own, to be killed; the environment says of what."""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime, timedelta

import httpx

from flows.backfill import Wish, backfill
from flows.github import GitHub, Hook
from flows.workspace import Workspace
from ssot.settings import load


async def run() -> bool:
    """Whether nothing was left to ask for."""
    settings = load()
    assert settings.github_token is not None
    hooks = tuple(map(Hook.named, settings.github_hooks))
    wish = Wish(hooks, datetime.now(UTC) - timedelta(hours=1), limit=1000, most_tries=1000)
    async with httpx.AsyncClient() as client:
        token, deadline = settings.github_token.get_secret_value(), time.monotonic() + 60
        github = GitHub(client, settings.github_api, token, deadline, between_s=0.01)
        report = await backfill(Workspace.open(settings), github, wish)
    return report.trouble is None and {row.fate for row in report.rows} <= {"known"}


if __name__ == "__main__":
    sys.exit(not asyncio.run(run()))
