"""The checklist: which modules there are, what each needs, and how their checks are carried out and told."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from audit.stamp import rfc3339
from flows.accept import agents, gate, load, record, stream, webhooks
from flows.accept.ground import Broken, Checks, Ground, Look, NotShown, ground
from flows.accept.record import Acceptance, Check, Module
from flows.load import machine
from flows.playground import API_COMMAND, NotStarted, Playground
from ssot.settings import Settings

Show = Callable[[str], None]
"""Called with what is being looked at."""
_KEPT: Final = ("audit", "ssot", "reports")


@dataclass(frozen=True, slots=True)
class Subject:
    """A module: what finds out, and the secrets that its servers are given."""

    checks: Callable[[Ground], Checks]
    secret: dict[str, str] = field(default_factory=dict)
    not_shown: tuple[str, ...] = ()


MODULES: Final[dict[str, Subject]] = {
    "truth-and-gate": Subject(gate.checks),
    "stream": Subject(stream.checks, not_shown=stream.NOT_SHOWN),
    "webhooks": Subject(webhooks.checks, webhooks.SECRETS, webhooks.NOT_SHOWN),
    "agents": Subject(agents.checks, not_shown=agents.NOT_SHOWN),
    "load": Subject(load.checks, load.SECRETS, load.NOT_SHOWN),
}


def carry_out(
    settings: Settings,
    names: Sequence[str] = (),
    *,
    show: Show = lambda line: None,
    command: Sequence[str] = API_COMMAND,
) -> Acceptance:
    """Check modules (all of them by default) and keep the record with its evidence in the workspace.

    Args:
        command: what serves the API under test; ``--port`` and a number are added.
    """
    began, chosen = time.time(), list(names or MODULES)
    found = [_module(settings, name, show, command) for name in chosen]
    if "load" in chosen:
        found = [_with_long_soak(settings, one) if one.name == "load" else one for one in found]
    commit, dirty = machine.commit()
    accepted = Acceptance(
        started_at=rfc3339(began),
        finished_at=rfc3339(time.time()),
        ok=all(one.ok for one in found),
        version=machine.versions().get("kircerta", "unknown"),
        git_commit=commit,
        git_dirty=dirty,
        evidence=str(record.EVIDENCE),
        modules=tuple(found),
        not_run=tuple(name for name in MODULES if name not in chosen),
    )
    record.save(settings.home, accepted)
    return accepted


def _with_long_soak(settings: Settings, module: Module) -> Module:
    """The one criterion that only a run of the user's own workspace shows."""
    check, open_ = load.long_soak(settings)
    checks, not_shown = (*module.checks, *check), (*module.not_shown, *open_)
    return module.model_copy(update={"checks": checks, "not_shown": not_shown})


def _module(settings: Settings, name: str, show: Show, command: Sequence[str]) -> Module:
    """One module on a playground of its own."""
    subject, begun = MODULES[name], time.monotonic()
    found = _Found(name, show, [], list(subject.not_shown))
    show(f"{name}: starting an API of its own")
    try:
        given = _unset(settings)
        with (
            Playground(given, f"accept-{name}", dispatcher=False, secret=subject.secret, command=command) as playground,
            ground(playground) as on,
        ):
            try:
                found.take(subject.checks(on))
            finally:
                _keep(settings.home, name, playground.home)
    except NotStarted as error:
        found.checks.append(Check(name="its API starts", ok=False, detail=str(error)))
    ok = bool(found.checks) and all(one.ok for one in found.checks)
    seconds = round(time.monotonic() - begun, 2)
    return Module(name=name, ok=ok, seconds=seconds, checks=tuple(found.checks), not_shown=tuple(found.not_shown))


def _unset(settings: Settings) -> Settings:
    """The settings with which everything is checked: the defaults, not those of the workspace around it."""
    defaults: dict[str, Any] = {
        name: field.get_default() for name, field in Settings.model_fields.items() if name not in ("home", "keyring")
    }
    return settings.model_copy(update=defaults)


@dataclass(slots=True)
class _Found:
    """What a module's checks came to so far."""

    name: str
    show: Show
    checks: list[Check]
    not_shown: list[str]

    def take(self, checks: Checks) -> None:
        """Carry checks out, each on its own: one that breaks does not stop the next."""
        try:
            for name, look in checks:
                self._look(name, look)
        except Exception as error:
            self.checks.append(Check(name="its checks can be carried out", ok=False, detail=_told(error)))

    def _look(self, name: str, look: Look) -> None:
        self.show(f"{self.name}: {name}")
        try:
            self.checks.append(Check(name=name, ok=True, detail=look()))
        except NotShown as unseen:
            self.not_shown.append(f"{name}: {unseen}")
        except Broken as broken:
            self.checks.append(Check(name=name, ok=False, detail=str(broken)))
        except Exception as error:
            self.checks.append(Check(name=name, ok=False, detail=_told(error)))


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]


def _keep(home: Path, name: str, playground: Path) -> None:
    """Keep the log and the tasks that the checks point into, in the place of those of the acceptance before."""
    kept = home / record.EVIDENCE / name
    shutil.rmtree(kept, ignore_errors=True)
    for part in _KEPT:
        if (playground / part).is_dir():
            shutil.copytree(playground / part, kept / part)
