"""Where settings come from, and which of them wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssot.settings import SettingsError, load

SECRETS = ("KIRCERTA_JWT_SECRET", "KIRCERTA_JWT_SECRET_FILE")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in (*SECRETS, "KIRCERTA_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def key(letter: str) -> str:
    return letter * 40


def kept_in(path: Path, letter: str) -> str:
    path.write_text(key(letter) + "\n")
    return str(path)


def jwt_secret() -> str | None:
    secret = load().jwt_secret
    return None if secret is None else secret.get_secret_value()


def test_without_any_there_is_no_secret() -> None:
    assert jwt_secret() is None


@pytest.mark.parametrize("source", ["environment", ".env"])
@pytest.mark.parametrize("as_file", [False, True])
def test_a_secret_comes_as_a_value_or_as_a_path_from_the_environment_or_the_dot_env_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, source: str, as_file: bool
) -> None:
    name, value = (SECRETS[1], kept_in(folder / "secret", "a")) if as_file else (SECRETS[0], key("a"))
    if source == ".env":
        (folder / ".env").write_text(f"{name}={value}\n")
    else:
        monkeypatch.setenv(name, value)
    assert jwt_secret() == key("a")


@pytest.mark.parametrize("as_file", [False, True])
def test_the_environment_comes_before_the_dot_env_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, as_file: bool
) -> None:
    (folder / ".env").write_text(f"{SECRETS[1] if as_file else SECRETS[0]}={kept_in(folder / 'other', 'b')}\n")
    monkeypatch.setenv(SECRETS[0], key("a"))
    assert jwt_secret() == key("a")


def test_a_path_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / ".env").write_text(f"KIRCERTA_JWT_SECRET_FILE={folder / 'missing'}\n")
    with pytest.raises(SettingsError, match=r"KIRCERTA_JWT_SECRET_FILE: .*missing cannot be read"):
        load()


def test_a_home_that_is_no_folder_is_named(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(SettingsError, match=r"KIRCERTA_HOME: .*notes.txt is not a folder"):
        load(home=folder / "notes.txt")
