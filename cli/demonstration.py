"""The example repository in a new workspace: a real bug, agents that work on it, and a branch where the change lands.

It only ever adds: where a person has agents or projects of their own, nothing is made.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Final

EXAMPLES: Final = Path(__file__).parents[1] / "examples"
TASK: Final = EXAMPLES / "tasks" / "repository.jsonl"
CHECKOUT: Final = Path("checkouts") / "till"
BRANCH: Final = "kircerta/approved"
_MOMENT: Final = "1793520000 +0000"
"""The first commit is the same one everywhere."""
_AUTHOR: Final = {"NAME": "Ada", "EMAIL": "ada@till.example", "DATE": _MOMENT}
_PROJECTS: Final = f"""\
# Made by the first start of `kircerta up`, for its example; examples/projects.toml shows what else can stand here.

[project.till]
title = "The example repository"
checkout = "{CHECKOUT}"
base = "main"
executor = "mender"
reviewer = "tester"

[project.till.landing]
branch = "{BRANCH}"
"""


def prepare(home: Path) -> bool:
    """Make the repository and its configuration; whether the example can be used. Safe to repeat after a kill."""
    from flows.agents.git import NoWorkplace

    wanted = {home / "config" / "agents.toml": _agents(), home / "config" / "projects.toml": _PROJECTS}
    if not TASK.is_file() or any(path.exists() and path.read_text() != text for path, text in wanted.items()):
        return False
    try:
        if not (home / CHECKOUT).exists():
            _make_repository(home / CHECKOUT)
    except NoWorkplace:  # there is no git
        return False
    for path, text in wanted.items():
        _write(path, text)
    return True


def _agents() -> str:
    lines = [
        "# Made by the first start of `kircerta up`, for its example: programs that work in a place of their own.",
        "",
    ]
    for role, name in (("executor", "mender"), ("reviewer", "tester")):
        program = str(EXAMPLES / "agents" / f"{name}.py")
        command = json.dumps([sys.executable, "-I", program])
        lines += [f"[{role}.{name}]", f"command = {command}", f'principal = "{name}"', "timeout_s = 120", ""]
    return "\n".join(lines)


def _make_repository(folder: Path) -> None:
    """The files that ship, as the first commit. Raises NoWorkplace."""
    from flows.agents.git import Git

    young = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(young, ignore_errors=True)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(EXAMPLES / "repository", young, ignore=ignore, copy_function=shutil.copyfile)
    who = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in _AUTHOR.items()}
    git = Git((), young, who)
    git("init", "--quiet", "--template=", "--initial-branch=main")
    git("add", "--all")
    git("commit", "--quiet", "--message", "What a till says to its customers")
    young.rename(folder)


def _write(path: Path, text: str) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    young = path.with_name(f".{path.name}.new")
    young.write_text(text)
    young.rename(path)
