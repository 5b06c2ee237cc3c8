"""Rules for what starts by itself: what they mean, and that the example which ships is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ssot import projects
from ssot.ingest import github, telegram, xcode
from ssot.projects import BadProjectsFile
from ssot.task import Task
from tests import builders
from tests.builders import a_store

EXAMPLE = Path(__file__).parents[2] / "examples" / "projects.toml"
HEAD = (
    "[project.a]\nproducts = ['Hello']\nchats = [-1001]\nrepositories = ['octo-org/*']\n[[project.a.auto_dispatch]]\n"
)


@pytest.fixture
def tasks(tmp_path: Path) -> dict[str, Task]:
    """A task of each kind from outside."""
    store = a_store(tmp_path)
    store.deliver(github.read("issues", "d-1", builders.issue_payload()))
    store.deliver(telegram.read(builders.update_payload()))
    store.deliver(xcode.read(builders.build_payload("COMPLETE", "FAILED")))
    task_id, create = xcode.mending(store.task("xcode-0ab1-cd"))
    store.commit(task_id, create, actor="dispatcher")
    found = {"fix" if one.startswith("fix") else store.task(one).source: store.task(one) for one in store.view.entries}
    store.close()
    return found


@pytest.mark.parametrize(
    ("rule", "starts"),
    [
        ('source = "github"', {"github"}),
        ('source = "github"\nlabels = ["AGENT"]', {"github"}),
        ('source = "github"\nlabels = ["x", "ag*"]', {"github"}),
        ('source = "github"\nlabels = ["other"]', set()),
        ('source = "github"\nrepositories = ["octo-org/hello.world"]', {"github"}),
        ('source = "github"\nrepositories = ["acme/*"]\nlabels = ["agent"]', set()),
        ('source = "telegram"', {"telegram"}),
        ('source = "telegram"\nchats = [1]', set()),
        ('source = "xcode"', {"xcode", "fix"}),
        ('source = "xcode"\nfailed_builds = true', {"fix"}),
        ('source = "xcode"\nproducts = ["Other"]', set()),
    ],
)
def test_everything_that_a_rule_gives_has_to_fit(tasks: dict[str, Task], rule: str, starts: set[str]) -> None:
    found = projects.parse((HEAD + rule).encode())
    assert {name for name, task in tasks.items() if found.starts_by_itself(task)} == starts


def test_a_rule_is_its_projects_alone(tasks: dict[str, Task]) -> None:
    other = '[project.a]\nrepositories = ["acme/*"]\n[[project.a.auto_dispatch]]\nsource = "github"\n'
    assert not projects.parse(other.encode()).starts_by_itself(tasks["github"])


@pytest.mark.parametrize(
    "rule",
    [
        'source = "manual"',
        'source = "github"\nfailed_builds = true',
        'source = "telegram"\nlabels = ["x"]',
        "lables = []",
    ],
)
def test_a_rule_that_could_be_misread_makes_the_file_unusable(rule: str) -> None:
    with pytest.raises(BadProjectsFile, match="auto_dispatch"):
        projects.parse((HEAD + rule).encode())


def test_the_example_that_ships_is_used_as_it_says() -> None:
    found = projects.parse(EXAMPLE.read_bytes()).project["shop"]
    assert [one.source for one in found.auto_dispatch] == ["github", "github", "xcode"]
    assert found.task_for_failed_build


def test_the_task_for_a_failed_build_has_a_valid_id_however_long_the_run_s_is(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    run_id = "R" * 120
    store.deliver(xcode.read(builders.build_payload("COMPLETE", "ERRORED", run_id=run_id)))
    task_id, create = xcode.mending(store.task(f"xcode-{run_id.lower()}"))
    made = store.commit(task_id, create, actor="dispatcher").task
    assert made.task_id == f"fix-{run_id.lower()}"
    assert not xcode.has_failed(made)
    store.close()


@pytest.mark.parametrize(
    ("build", "failed"),
    [(("COMPLETE", "FAILED"), True), (("COMPLETE", "ERRORED"), True), (("COMPLETE", "CANCELED"), False),
     (("COMPLETE", None), False), (("RUNNING", "FAILED"), False), ((None, None), False)],
)  # fmt: skip
def test_only_a_build_that_came_to_its_end_has_failed(tmp_path: Path, build: Any, failed: bool) -> None:
    store = a_store(tmp_path)
    store.deliver(xcode.read(builders.build_payload(*build)))
    assert xcode.has_failed(store.task("xcode-0ab1-cd")) is failed
    store.close()
