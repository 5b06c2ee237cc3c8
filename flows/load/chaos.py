"""Chaos."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from flows.load.session import Asked
from ssot.settings import Settings


class Playground:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass

    def prepare(self, wanted: Asked) -> None:
        pass
