"""What an agent is shut in with: the configuration's words, and the cage's spec that is made of them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from flows.agents.footprint import TooDeep
from flows.agents.workplace import Workplace
from flows.notifications.targets import BadNotificationsFile
from flows.notifications.targets import load as load_notifications
from ssot.observed import Isolation
from ssot.settings import secret_files

_CAGE: Final = str(Path(__file__).with_name("cage.py"))
_OURS: Final = (
    *("ssot", "audit", ".secrets", ".kircerta", "reports", ".env"),
    *("config/agents.toml", "config/projects.toml", "config/notifications.toml"),
)
"""What an agent does not see of the workspace."""
_THEIRS: Final = (
    *(".ssh", ".aws", ".gnupg", ".config", ".netrc", ".docker", ".kube", ".git-credentials", ".pypirc", ".npmrc"),
    *(f".codex/{name}" for name in ("auth.json", "config.toml", "history.jsonl", "sessions")),
    *(".claude.json", *(f".claude/{name}" for name in (".credentials.json", "history.jsonl", "projects"))),
    *(f".openclaw/{name}" for name in (".env", "openclaw.json", "credentials", "agents", "state", "workspace")),
    *(".aider.conf.yml", ".aider/oauth-keys.env"),
)
"""Nor of its user's home. Of other agents' folders their logins and talks alone: their programs may lie there, too."""
_MEETING_PLACES: Final = ("/run/user", "/run/dbus", "/run/docker.sock", "/run/containerd", "/run/snapd.socket")
"""What lies in /run and answers; with a network all of /run cannot be hidden: names are looked up there."""
TMP_BYTES: Final = 256 * 1024 * 1024
_LOOK_S: Final = 1.0

Size = Annotated[int, Field(ge=0, le=2**50)]


class Confinement(BaseModel):
    """The part of an agent's configuration that says how it is shut in. A limit of 0 is none."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    isolation: Literal["required", "best"] = "best"
    """`required`: where this system does not allow all of it, the agent is not started."""
    network: bool = False
    commands: Literal["harness", "reported"] = "harness"
    """`reported`: it runs its tests itself, and its word on them is all there is."""
    cpu_s: Size = 3600
    """Seconds of CPU for each process."""
    memory_bytes: Size = 8 * 1024**3
    """Address space of each process."""
    file_bytes: Size = 256 * 1024**2
    """The largest file."""
    disk_bytes: Size = 2 * 1024**3
    """Everything it has written at one time; looked at once a second."""
    processes: Size = 512
    files: Size = 1024
    """Open files of each process."""
    output_bytes: Size = 32 * 1024**2
    """Everything that it says; of a command that is run for it, too."""
    command_timeout_s: Annotated[float, Field(gt=0, le=24 * 3600)] = 600.0
    """How long a command that is run for it, or a check, may take."""
    review_bytes: Annotated[int, Field(ge=4096, le=2**30)] = 1024**2
    """A review whose job is larger comes in packets."""

    @property
    def limits(self) -> dict[str, int]:
        """The limits that the kernel keeps."""
        asked = {name: getattr(self, name) for name in ("cpu_s", "memory_bytes", "file_bytes", "processes", "files")}
        return {name: value for name, value in asked.items() if value}


@dataclass(frozen=True, slots=True)
class Enclosure:
    """One place with the cage around it; commands may be started in it one after another, each in a cage of its own."""

    place: Workplace
    home: Path
    confinement: Confinement
    read: tuple[str, ...] = ()
    tree_is_read_only: bool = False
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def cwd(self) -> Path:
        return self.place.tree

    def around(self, command: Sequence[str], report: int) -> tuple[str, ...]:
        """The command, in its cage. What is in force is told on the descriptor `report`."""
        return (sys.executable, "-I", "-S", _CAGE, json.dumps(self._spec(report)), *command)

    def environment(self) -> dict[str, str]:
        """What is added to the short list that every agent gets: its own HOME and TMP, and the way to `run-for-me`."""
        private = self.place.private
        path = os.pathsep.join((str(private / "bin"), os.environ.get("PATH", os.defpath)))
        own = {"HOME": str(private), "TMPDIR": str(private / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"}
        return {**own, **self.env, "PATH": path}

    def make_folders(self) -> None:
        for name in ("bin", "tmp"):
            (self.place.private / name).mkdir(mode=0o700, exist_ok=True)

    def is_too_large(self, pid: int) -> bool:
        """Whether more stands in the place than may, or is held open from there by what descends from `pid`."""
        most = self.confinement.disk_bytes
        try:
            return most > 0 and self.place.size(pid) > most
        except TooDeep:  # what cannot be counted counts as too much
            return True

    def isolation(self, report: bytes) -> Isolation:
        """What the cage told, for people: no path of this machine in it."""
        told, names = json.loads(report), self._hidden()
        return Isolation(
            namespaces=tuple(told["namespaces"]),
            network=told.get("network", True),
            no_new_privileges=told.get("no_new_privileges", False),
            limits={**told["limits"], **self._watched()},
            hidden=tuple(names.get(path, "what was another file then") for path in told.get("hidden", ())),
            missing=tuple(told["missing"]),
        )

    def _watched(self) -> dict[str, int]:
        ours = {name: getattr(self.confinement, name) for name in ("disk_bytes", "output_bytes")}
        return {name: value for name, value in ours.items() if value}

    def _spec(self, report: int) -> dict[str, Any]:
        place, confinement = self.place, self.confinement
        return {
            "write": [str(place.private), *([] if self.tree_is_read_only else [str(place.tree)])],
            "read": [*_needed(), *self.read, *([str(place.tree)] if self.tree_is_read_only else [])],
            "hide": list(self._hidden()),
            "network": confinement.network,
            "required": confinement.isolation == "required",
            "tmp_bytes": TMP_BYTES,
            "report": report,
            "limits": confinement.limits,
        }

    def _hidden(self) -> dict[str, str]:
        """What the agent does not see: where it really lies (a link hides nothing), and as what it is told."""
        user = _user_home()
        theirs = {} if user is None else {f"~/{name}": user / name for name in _THEIRS}
        elsewhere = _MEETING_PLACES if self.confinement.network else ("/run",)
        places = {
            **{name: self.home / name for name in _OURS},
            **theirs,
            **{name: Path(name) for name in elsewhere},
            **{f"the file of {name}": path for name, path in secret_files().items()},
            **{f"the URL of {name}": path for name, path in _files_of_targets(self.home).items()},
        }
        found: dict[str, str] = {}
        for shown, path in places.items():
            found.setdefault(os.path.realpath(path), shown)
        return found


def _needed() -> list[str]:
    """Our own programs and the Python that runs them, where they lie in what the cage puts a folder of its own over."""
    programs = (Path(__file__).parents[2] / "flows", Path(sys.prefix), Path(sys.base_prefix))
    return [str(path) for path in programs if path.is_relative_to("/tmp") or path.is_relative_to("/dev/shm")]


def _files_of_targets(home: Path) -> dict[str, Path]:
    """The files with URLs of people who are told outside. Of a notifications' file that cannot be used nothing is."""
    try:
        targets = load_notifications(home).target
    except BadNotificationsFile:
        return {}
    return {name: home / one.url_file for name, one in targets.items() if one.url_file is not None}


async def until_too_large(enclosure: Enclosure, pid: int) -> None:
    """Returns when more stands in the place than may, or is held open by what descends from `pid`.

    Looking takes at most a tenth of the time.
    """
    while True:
        begun = time.monotonic()
        if await asyncio.to_thread(enclosure.is_too_large, pid):
            return
        await asyncio.sleep(max(_LOOK_S, 10 * (time.monotonic() - begun)))


def missing_here() -> tuple[str, ...]:
    """What this system does not allow of a cage, in words; nothing where all of it holds. Starts one."""
    report, reports = os.pipe()
    spec = {"write": [], "hide": [], "network": False, "required": True, "tmp_bytes": 65536, "report": reports}
    command = (sys.executable, "-I", "-S", _CAGE, json.dumps({**spec, "limits": {"files": 64}}), "true")
    try:
        done = subprocess.run(command, pass_fds=(reports,), capture_output=True, timeout=60, check=False)
    finally:
        os.close(reports)
    with os.fdopen(report, "rb") as file:
        line = file.readline()
    if not line:
        return (done.stderr.decode(errors="replace").strip()[:500] or f"exit code {done.returncode}",)
    return tuple(json.loads(line)["missing"])


def _user_home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:
        return None
