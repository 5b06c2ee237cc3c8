"""`[project.NAME.landing]`: what it takes, and that its absence changes nothing."""

from __future__ import annotations

import pytest

from ssot.projects import BadProjectsFile, parse

CHECKOUT = '[project.shop]\ncheckout = "shop"\n[project.shop.landing]\n'


def test_the_author_is_a_name_and_an_address() -> None:
    told = CHECKOUT + 'branch = "kircerta/approved"\nauthor = "Ada Bot <ada@example.org>"\n'
    landing = parse(told.encode()).project["shop"].landing
    assert landing is not None
    assert (landing.branch, landing.name, landing.address) == ("kircerta/approved", "Ada Bot", "ada@example.org")


@pytest.mark.parametrize("branch", ["", "-x", "a..b", "a//b", "a/", ".a", "a/.b", "a.lock", "a b", "a~1", "a\\nb"])
def test_names_that_git_takes_for_no_branch_are_refused(branch: str) -> None:
    with pytest.raises(BadProjectsFile, match=r"landing\.branch"):
        parse(f'{CHECKOUT}branch = "{branch}"\n'.encode())


@pytest.mark.parametrize("author", ["ada", "Ada <>", "Ada <a@b> x", "<a@b>", "A\\nb <a@b>"])
def test_an_author_of_another_form_is_refused(author: str) -> None:
    with pytest.raises(BadProjectsFile, match=r"landing\.author"):
        parse(f'{CHECKOUT}branch = "b"\nauthor = "{author}"\n'.encode())


def test_landing_needs_a_checkout() -> None:
    with pytest.raises(BadProjectsFile, match="landing needs checkout"):
        parse(b'[project.shop.landing]\nbranch = "b"\n')


def test_a_project_that_lands_nothing_has_the_digest_that_it_had() -> None:
    assert parse(b"[project.shop]\n").project["shop"].digest == (
        "sha256:f2416bc016b45d33c30e0679919d7241801fa67dda4e00f8fbfd3676def708df"
    )
