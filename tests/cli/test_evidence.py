"""`kircerta keys`, and the parts of `kircerta audit` that stand up to somebody who trusts nobody here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from audit.keys import SigningKey
from ssot.settings import load
from ssot.store import Store
from tests.audit.flipping import flips
from tests.builders import Walk
from tests.cli.conftest import Run
from tests.cli.test_doctor import found

SECRET = "the secret of this server, long enough"


@pytest.fixture(autouse=True)
def plain(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No keyring of this machine, no key of this environment."""
    monkeypatch.setenv("KIRCERTA_KEYRING", "0")
    for name in ("KIRCERTA_SIGNING_KEY", "KIRCERTA_SIGNING_KEY_FILE", "KIRCERTA_CHECKPOINT_COPY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def key(run: Run) -> str:
    """The fingerprint of the workspace's key."""
    fingerprint: str = run("keys", "create", "--json").json["fingerprint"]
    return fingerprint


def approve(home: Path, task_id: str = "T-1") -> None:
    """A whole way through, decided by a process that has what the settings give it."""
    store = Store.open(home, source="kircerta/api", settings=load(home=home).store)
    walk = Walk(store, task_id)
    walk.create()
    walk.to_gate()
    walk.approve()
    store.close()


def test_keys_are_made_listed_and_rotated_by_their_fingerprints(run: Run, home: Path) -> None:
    assert run("keys", "list", "--json").json == {"keys": []}
    for command in (("keys", "rotate"), ("keys", "public"), ("audit", "checkpoint"), ("audit", "prove", "1")):
        ran = run(*command)
        assert ran.code == 2
        assert "kircerta keys create" in ran.err
    first = run("keys", "create")
    assert (first.code, first.out[:8]) == (0, "ed25519:")
    assert "keys rotate" in run("keys", "create").err
    second = run("keys", "rotate", "--json").json["fingerprint"]
    listed = {row["fingerprint"]: row["state"] for row in run("keys", "list", "--json").json["keys"]}
    assert listed == {second: "signs", first.out.strip(): "checks what it signed"}
    public = run("keys", "public", first.out.strip(), "--json").json
    assert public["fingerprint"] == first.out.strip()
    assert public["public"] != run("keys", "public").out.strip()
    assert run("keys", "public", "ed25519:" + "0" * 32).code == 1
    seed = (home / ".secrets/signing_key").read_text().strip()
    everything = "".join(run(*one).out for one in (("keys", "list"), ("doctor", "--json"), ("audit", "checkpoint")))
    assert seed not in everything


def test_a_key_of_the_environment_is_not_rotated_here(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import base64

    monkeypatch.setenv("KIRCERTA_SIGNING_KEY", base64.b64encode(b"k" * 32).decode())
    assert run("keys", "list", "--json").json["keys"][0]["from"] == "environment"
    assert "KIRCERTA_SIGNING_KEY" in run("keys", "rotate").err
    inline = run("keys", "public").out
    (home.parent / "seed").write_text(base64.b64encode(b"k" * 32).decode() + "\n")
    monkeypatch.delenv("KIRCERTA_SIGNING_KEY")
    monkeypatch.setenv("KIRCERTA_SIGNING_KEY_FILE", str(home.parent / "seed"))
    assert run("keys", "public").out == inline
    monkeypatch.delenv("KIRCERTA_SIGNING_KEY_FILE")
    monkeypatch.setenv("KIRCERTA_SIGNING_KEY", "junk")
    ran = run("audit", "checkpoint")
    assert (ran.code, "junk" in ran.err) == (2, False)
    assert run("keys", "create", "--keyring").code == 2


def test_the_head_is_signed_and_printed(run: Run, home: Path, key: str, tmp_path: Path) -> None:
    assert "empty" in run("audit", "checkpoint").err
    run("task", "create", "text", "--id", "T-1")
    printed = run("audit", "checkpoint").out
    assert printed.splitlines()[1] == "1"
    told = run("audit", "checkpoint", "--json").json
    assert (told["checkpoint"], told["keys"], told["new"]) == (printed, [key], False)
    assert run("audit", "checkpoint", "--kept").out == printed
    assert run("audit", "checkpoint", "--out", str(tmp_path / "kept.txt")).out == ""
    assert (tmp_path / "kept.txt").read_text() == printed


def test_a_checkpoint_that_was_kept_elsewhere_tells_a_rewritten_log(
    run: Run, home: Path, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIRCERTA_CHECKPOINT_COPY", str(tmp_path / "kept.txt"))
    for number in (1, 2, 3):
        run("task", "create", "text", "--id", f"T-{number}")
    assert run("audit", "checkpoint", "--json").json["copied"] == str(tmp_path / "kept.txt")
    verified = ("audit", "verify", "--checkpoint", str(tmp_path / "kept.txt"))
    assert run(*verified).code == 0
    assert run(*verified, "--json").json["checkpoints"] == {"checked": 2, "up_to": 3, "problems": []}
    log = home / "audit" / "events.jsonl"
    whole = log.read_bytes()
    log.write_bytes(b"".join(whole.splitlines(keepends=True)[:2]))
    cut = run("audit", "verify")
    assert (cut.code, "the chain holds" in cut.out, "the log was cut" in cut.out) == (1, True, True)
    shutil.rmtree(home / "audit" / ".checkpoints")
    assert run("audit", "verify").code == 0, "who rewrites the log removes what is kept beside it"
    public = run("keys", "public").out.strip()
    told = run(*verified, "--key", public, "--json")
    assert (told.code, told.json["ok"], told.json["problem"]) == (1, False, None)
    assert "the log was cut" in told.json["checkpoints"]["problems"][0]
    assert run("audit", "checkpoint").code == 1, "and the copy is not replaced"
    log.write_bytes(whole)
    for flipped in flips((tmp_path / "kept.txt").read_bytes(), step=23):
        (tmp_path / "bad.txt").write_bytes(flipped)
        assert run("audit", "verify", "--checkpoint", str(tmp_path / "bad.txt")).code == 1
    assert run("audit", "verify", "--checkpoint", str(tmp_path / "none.txt")).code == 2


def test_decisions_without_the_servers_mark_are_told(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    approve(home)
    assert "were not checked" in run("audit", "verify").out
    assert run("audit", "verify", "--json").json["decisions"] == {"checked": None, "problems": []}
    monkeypatch.setenv("KIRCERTA_JWT_SECRET", SECRET)
    approve(home, "T-2")
    ran = run("audit", "verify")
    assert ran.code == 1
    assert "seq 6 (task_approved of T-1 by alice) carries no MAC" in ran.out
    told = run("audit", "verify", "--json").json
    assert (told["ok"], told["problem"], told["decisions"]["checked"]) == (False, None, 2)
    assert len(told["decisions"]["problems"]) == 1


def test_marks_hold_after_the_secret_was_changed(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIRCERTA_JWT_SECRET", SECRET)
    approve(home)
    monkeypatch.setenv("KIRCERTA_JWT_SECRET", SECRET + " another")
    approve(home, "T-2")
    ran = run("audit", "verify")
    assert (ran.code, "2 decisions bear the server's mark" in ran.out) == (0, True)
    keys = run("keys", "list", "--json").json["keys"]
    assert [(row["use"], row["state"]) for row in keys] == [
        ("decisions", "signs"),
        ("decisions", "checks what it signed"),
    ]
    assert run("doctor", "--json").json["ok"]


def test_a_task_goes_out_as_a_bundle_that_is_checked_without_the_workspace(
    run: Run, home: Path, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    approve(home)
    out = tmp_path / "T-1.zip"
    assert run("audit", "export", "--task", "T-1", "--out", str(out), "--json").json["key"] == key
    public = run("keys", "public").out.strip()
    (tmp_path / "key.pub").write_text(public)
    shutil.rmtree(home)
    monkeypatch.setenv("KIRCERTA_HOME", str(tmp_path / "nowhere"))
    told = run("audit", "verify-bundle", str(out), "--json").json
    assert (told["ok"], told["trusted"], told["status"], told["decision"]["by"]) == (True, False, "approved", "alice")
    for trusted in (key, public, str(tmp_path / "key.pub")):
        assert run("audit", "verify-bundle", str(out), "--key", trusted, "--json").json["trusted"]
    assert "compare" in run("audit", "verify-bundle", str(out)).out
    for other in (SigningKey.new().public.text, "ed25519:" + "0" * 32):
        assert run("audit", "verify-bundle", str(out), "--key", other).code == 1
    assert run("audit", "verify-bundle", str(out), "--key", "junk").code == 2
    bad = bytearray(out.read_bytes())
    bad[len(bad) // 2] ^= 1
    out.write_bytes(bytes(bad))
    ran = run("audit", "verify-bundle", str(out))
    assert (ran.code, "does not hold" in ran.err) == (1, True)
    assert not (tmp_path / "nowhere").exists()


def test_an_export_of_a_task_takes_no_filters(run: Run, home: Path, key: str) -> None:
    run("task", "create", "text", "--id", "T-1")
    assert run("audit", "export", "--task", "T-1", "--type", "alert", "--out", "x").code == 2
    assert run("audit", "export", "--task", "T-1", "--json").code == 2
    ran = run("audit", "export", "--task", "T-9", "--out", "x")
    assert (ran.code, "no task T-9" in ran.err) == (1, True)


PROVEN = ("origin", "size", "keys", "event", "continues")


def test_proofs_are_made_and_checked(run: Run, home: Path, key: str, tmp_path: Path) -> None:
    run("task", "create", "text", "--id", "T-1")
    run("audit", "checkpoint", "--out", str(tmp_path / "first.txt"))
    run("task", "create", "text", "--id", "T-2")
    run("audit", "prove", "2", "--out", str(tmp_path / "place.json"))
    run("audit", "prove", "--since", str(tmp_path / "first.txt"), "--out", str(tmp_path / "growth.json"))
    place = run("audit", "verify-proof", str(tmp_path / "place.json"), "--key", key, "--json").json
    assert (place["event"]["subject"], place["size"], place["trusted"]) == ("T-2", 2, True)
    growth = run("audit", "verify-proof", str(tmp_path / "growth.json"), "--json").json
    again = tmp_path / "again.json"
    made = run("audit", "prove", "2", "--out", str(again), "--json").json
    assert made == {"out": str(again), "bytes": again.stat().st_size, **{name: place[name] for name in PROVEN}}
    assert run("audit", "prove", "2", "--json").json == json.loads(again.read_bytes())
    assert (growth["continues"], growth["size"], growth["trusted"]) == (1, 2, False)
    for name in ("place", "growth"):
        assert run("audit", "verify-proof", str(tmp_path / f"{name}.json")).code == 0
        text = (tmp_path / f"{name}.json").read_text()
        (tmp_path / "bad.json").write_text(text.replace(json.loads(text)["path"][0], "0" * 64))
        assert run("audit", "verify-proof", str(tmp_path / "bad.json")).code == 1
    assert run("audit", "prove", "9").code == 1
    assert run("audit", "prove").code == 2
    assert run("audit", "prove", "1", "--since", "x").code == 2


def test_doctor_says_whether_there_is_a_key_and_how_old_the_last_checkpoint_is(run: Run, home: Path) -> None:
    run("task", "create", "text", "--id", "T-1")
    assert "no signing key" in found(run("doctor", "--json"))["evidence"]["what"]
    fingerprint = run("keys", "create", "--json").json["fingerprint"]
    assert "signed nothing" in found(run("doctor", "--json"))["evidence"]["what"]
    run("audit", "checkpoint")
    run("task", "create", "text", "--id", "T-2")
    told = found(run("doctor", "--json"))["evidence"]
    assert (told["level"], told["what"].startswith(fingerprint), told["what"].endswith("1 event came since")) == (
        "ok",
        True,
        True,
    )
    (home / ".secrets/signing_key").chmod(0o644)
    assert found(run("doctor", "--json"))["evidence"]["level"] == "fail"
