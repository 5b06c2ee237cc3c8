"""An agent that comes by itself, over HTTP: nothing is started, and no run waits for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from flows.agents.protocol import AgentFailed


@dataclass(frozen=True, slots=True)
class RemoteAgent:
    """A marker. Its principal is empty: who it is, the first valid ACK says."""

    name: str = "remote"
    principal: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    timeout_s: float = 3600.0
    local: bool = False

    def open(self, job: bytes) -> NoReturn:
        """Start nothing.

        Raises:
            AgentFailed: always.
        """
        raise AgentFailed("not_started", f"{self.name} comes over HTTP: there is nothing to start")
