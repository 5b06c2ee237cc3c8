"""What every test gets: asyncio for async tests, quick tests before slow ones, peace from a Prefect leak."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

# Read when Prefect is imported: a test that forgot its server fails, instead of starting one in this process.
os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
    for item in items:
        if item.get_closest_marker("prefect"):
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"))


@pytest.fixture(autouse=True)
def sockets_that_prefect_forgets(request: pytest.FixtureRequest) -> Iterator[None]:
    """Its client leaves sockets to the collector: collect them here, where the warning may pass."""
    yield
    if request.node.get_closest_marker("prefect"):
        gc.collect()
