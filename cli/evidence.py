"""Signed heads, proofs and bundles: the parts of `kircerta audit` that stand up to somebody who trusts nobody here."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli import workspace
from cli.audit_log import app
from cli.failures import Failure, WrongUse
from cli.screen import Json, note, one_line, progress, put_bytes, put_json, say
from ssot.counted import counted

if TYPE_CHECKING:
    from audit.head import Head
    from audit.keys import PublicKey, SigningKey
    from audit.proof import Proven
    from ssot.bundle import Evidence
    from ssot.settings import Settings

Key = Annotated[
    list[str] | None,
    typer.Option("--key", help="A public key to trust: its fingerprint, its text, or a file with it; repeatable."),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="The file; stdout where absent.")]
PROOF_BYTES: Final = 1 << 20


def add_to(parent: typer.Typer) -> None:
    """They are commands of `kircerta audit`, which is added by itself."""
    app.command(epilog="Example: kircerta audit checkpoint --out kept-elsewhere.txt")(checkpoint)
    app.command(epilog="Example: kircerta audit prove 12 --out proof.json")(prove)
    app.command("verify-proof", epilog="Example: kircerta audit verify-proof proof.json --key key.pub")(verify_proof)
    app.command("verify-bundle", epilog="Example: kircerta audit verify-bundle T-1.zip --key key.pub")(verify_bundle)


# -------------------------------------------------------------------------------------------------- checkpoint


def checkpoint(
    kept: Annotated[bool, typer.Option("--kept", help="Print the newest that is kept; sign nothing.")] = False,
    out: Out = None,
    json: Json = False,
) -> None:
    """Sign the log's head as it stands now (a C2SP checkpoint), and print it.

    Keep it, or its copy, where whoever writes this workspace cannot write: it tells the true log from any other.
    """
    from audit.head import Checkpoints, open_checkpoint
    from ssot.signing import known_keys, signer_of

    given = workspace.settings()
    if kept:
        text = Checkpoints(given.home / "audit").latest()
        if text is None:
            raise Failure("no checkpoint is kept yet: `kircerta audit checkpoint` signs one")
        head, held = open_checkpoint(text, known_keys(given, None))
        _put_checkpoint(text, head, held, out, json=json)
        return
    with progress("reading events") as tell:
        signed = signer_of(given, needed_key(given)).sign(lambda count: tell(count, None))
    _, held = open_checkpoint(signed.note, known_keys(given, None))
    _put_checkpoint(signed.note, signed.head, held, out, json=json, new=signed.is_new, copied=signed.copied)
    if signed.not_copied is not None:
        raise Failure(f"the checkpoint is signed, but not kept elsewhere: {signed.not_copied}")


def needed_key(given: Settings) -> SigningKey:
    from ssot.signing import signing_key

    key = signing_key(given)
    if key is None:
        raise WrongUse("there is no signing key: `kircerta keys create` makes one")
    return key


def _put_checkpoint(
    text: bytes, head: Head, held: Sequence[PublicKey], out: Path | None, *, json: bool, **more: Any
) -> None:
    if out is not None:
        write_out(out, text)
    if json:
        signers = [key.fingerprint for key in held]
        told = {"origin": head.origin, "size": head.size, "root": head.root.hex(), "keys": signers}
        put_json({**told, "checkpoint": text.decode(), **more})
    elif out is None:
        put_bytes(text)
    else:
        note(f"{counted(head.size, 'event')} vouched for in {one_line(str(out))}")


def write_out(out: Path, data: bytes) -> None:
    """Write a file that gets its name only when it is complete."""
    temporary = out.with_name(f".{out.name}.part")
    try:
        temporary.write_bytes(data)
        temporary.replace(out)
    except OSError as error:
        raise WrongUse(f"{out} cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


# -------------------------------------------------------------------------------------------------------- keys


def chosen(given: Sequence[str] | None, offered: Sequence[PublicKey]) -> list[PublicKey] | None:
    """The keys that the caller trusts, of those at hand where only a fingerprint was given; None where none was."""
    from audit.keys import BadKey, PublicKey, is_fingerprint

    if not given:
        return None
    found = []
    for one in given:
        if is_fingerprint(one):
            found += [key for key in offered if key.fingerprint == one]
            continue
        with suppress(OSError):  # else it is no file, but the key itself
            if (path := Path(one)).is_file():
                one = path.read_text(errors="replace")
        try:
            found.append(PublicKey.of(one))
        except BadKey as error:
            raise WrongUse(f"--key: {error}") from None
    return found


def is_trusted(given: Sequence[str] | None, signers: Sequence[PublicKey]) -> bool:
    """Whether a signer is one whom the caller trusts. Raises Failure where he named keys, and none of them signed."""
    trusted = chosen(given, signers)
    if trusted is None:
        return False
    if not any(key in trusted for key in signers):
        told = ", ".join(key.fingerprint for key in signers)
        raise Failure(f"it does not hold: it is signed by {told}, which is none of the trusted keys")
    return True


# ------------------------------------------------------------------------------------------------ verify's part


@dataclass
class Witnesses:
    """What `audit verify` asks besides the chain: kept checkpoints, and the server's mark on decisions."""

    heads: list[tuple[str, Head]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    decisions: int | None = None
    """How many decisions were checked; None where there is no secret to check them with."""
    unmarked: list[str] = field(default_factory=list)

    @property
    def hold(self) -> bool:
        return not self.problems and not self.unmarked

    def report(self) -> dict[str, Any]:
        sizes = sorted(head.size for _, head in self.heads)
        return {
            "checkpoints": {"checked": len(sizes), "up_to": sizes[-1] if sizes else 0, "problems": self.problems},
            "decisions": {"checked": self.decisions, "problems": self.unmarked},
        }

    def tell(self) -> None:
        for problem in (*self.problems, *self.unmarked):
            say(problem)
        if self.heads and not self.problems:
            up_to = max(head.size for _, head in self.heads)
            say(f"{counted(len(self.heads), 'checkpoint holds', 'checkpoints hold')}, up to seq {up_to}")
        elif not self.heads:
            say("no checkpoint is kept: lines that were cut off the end would not be missed")
        if self.decisions is None:
            say("decisions were not checked for the server's mark: KIRCERTA_JWT_SECRET is not at hand")
        elif not self.unmarked:
            say(counted(self.decisions, "decision bears the server's mark", "decisions bear the server's mark"))


def collect(given: Settings, files: Sequence[Path], keys: Sequence[str] | None) -> Witnesses:
    """The checkpoints that a log has to agree with: those that are kept, and those that were named."""
    from audit.head import Checkpoints
    from ssot.signing import known_keys

    found, kept = Witnesses(), Checkpoints(given.home / "audit")
    known = known_keys(given, None)
    for size in kept.sizes():
        with suppress(FileNotFoundError):  # thinned out in this moment
            _take(found, f"{size}", kept.load(size), known)
    trusted = chosen(keys, known)
    for path in files:
        _take(found, str(path), read_in(path), known if trusted is None else trusted)
    return found


def _take(found: Witnesses, name: str, text: bytes, keys: Sequence[PublicKey]) -> None:
    from audit.head import open_checkpoint
    from audit.note import Unproven

    try:
        found.heads.append((name, open_checkpoint(text, keys)[0]))
    except Unproven as error:
        found.problems.append(f"checkpoint {name} does not hold: {error}")


def read_in(path: Path, limit: int = PROOF_BYTES) -> bytes:
    from audit.files import NotRegular, read_regular

    try:
        return read_regular(path, limit)[0]
    except (OSError, NotRegular) as error:
        raise WrongUse(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


# ------------------------------------------------------------------------------------------------------ proofs


def prove(
    seq: Annotated[int | None, typer.Argument(help="The event whose place in the log is to be proven.")] = None,
    since: Annotated[
        Path | None, typer.Option("--since", help="Prove instead that the log continues this earlier checkpoint.")
    ] = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Print a proof (JSON) that an event is in the log whose head is signed, or that it continues an earlier head.

    With --out, --json tells what the file proves.
    """
    from audit import proof
    from ssot.signing import known_keys, signer_of

    if (seq is None) == (since is None):
        raise WrongUse("name the seq of an event, or an earlier checkpoint with --since")
    given = workspace.settings()
    key = needed_key(given)
    earlier = read_in(since) if since is not None else b""
    with progress("reading events") as tell:
        signed = signer_of(given, key).sign()
        folder, keys = given.home / "audit", known_keys(given, key)
        if seq is not None:
            made = proof.prove_event(folder, seq, signed.note, keys, lambda count: tell(count, signed.head.size))
        else:
            made = proof.prove_continuation(folder, earlier, signed.note, keys, lambda count: tell(count, None))
    if out is None:
        put_bytes(made)
        return
    write_out(out, made)
    if json:
        put_json({"out": str(out), "bytes": len(made), **_proven_facts(proof.check(made))})


def verify_proof(file: Annotated[Path, typer.Argument(help="The proof.")], key: Key = None, json: Json = False) -> None:
    """Check a proof, with nothing else at hand. Exit code 1 when it does not hold.

    Without --key it is checked under the key that it brings: compare the fingerprint with one that you trust.
    """
    from audit import proof

    proven = proof.check(read_in(file))
    trusted = is_trusted(key, proven.signers)
    if json:
        put_json({"ok": True, "trusted": trusted, **_proven_facts(proven)})
        return
    if proven.event is not None:
        event = proven.event
        said = f"seq {event.seq} is in the log: {event.type} of {event.subject or '-'} by {event.actor} at {event.time}"
    else:
        said = f"the log at {proven.head.size} continues the one at {proven.earlier.size if proven.earlier else 0}"
    say(said)
    say(f"{proven.head.origin}, {counted(proven.head.size, 'line')}")
    _tell_trust(proven.signers, trusted=trusted)


def _proven_facts(proven: Proven) -> dict[str, Any]:
    import orjson

    return {
        "origin": proven.head.origin,
        "size": proven.head.size,
        "keys": [key.fingerprint for key in proven.signers],
        "event": orjson.loads(proven.event.line) if proven.event is not None else None,
        "continues": proven.earlier.size if proven.earlier is not None else None,
    }


def _tell_trust(signers: Sequence[PublicKey], *, trusted: bool) -> None:
    told = ", ".join(key.fingerprint for key in signers)
    say(f"signed by {told}" + ("" if trusted else ": compare this with a fingerprint that you trust (--key)"))


# ----------------------------------------------------------------------------------------------------- bundles


def export_task(task_id: str, out: Path | None, *, json: bool) -> None:
    """Write the bundle of one task."""
    from ssot import bundle
    from ssot.signing import signer_of

    given = workspace.settings()
    key = needed_key(given)
    with progress("reading events") as tell:
        signed = signer_of(given, key).sign()
        try:
            made = bundle.make(given.home, task_id, signed, key, lambda count: tell(count, signed.head.size))
        except bundle.NothingKnown as error:
            raise Failure(str(error)) from None
    if out is None:
        put_bytes(made)
        return
    write_out(out, made)
    if json:
        put_json({"task_id": task_id, "out": str(out), "bytes": len(made), "key": key.fingerprint})
    else:
        note(f"{task_id}, proven up to seq {signed.head.size}, in {one_line(str(out))}; signed by {key.fingerprint}")


def verify_bundle(
    file: Annotated[Path, typer.Argument(help="The archive that `kircerta audit export --task` wrote.")],
    key: Key = None,
    json: Json = False,
) -> None:
    """Check a task's evidence, with nothing else at hand: no workspace, no network. Exit code 1 when it does not hold.

    Without --key it is checked under the key that it brings: compare the fingerprint with one that you trust.
    """
    from ssot import bundle

    shown = bundle.check(read_in(file, bundle.MOST_BYTES))
    trusted = is_trusted(key, [shown.key])
    if json:
        put_json({"ok": True, "trusted": trusted, **_bundle_facts(shown)})
        return
    task = shown.task
    say(f"{task.task_id} is {task.status}: {task.title}")
    decision = task.current.decision if task.current is not None else None
    if decision is not None:
        say(f"{decision.decision} by {decision.by} at {decision.at}")
    lead = counted(len(shown.events), "event leads", "events lead")
    say(f"{lead} to the task document, each proven to be in {shown.head.origin}")
    say(f"diff or document sha256: {shown.subject}")
    _tell_trust([shown.key], trusted=trusted)


def _bundle_facts(shown: Evidence) -> dict[str, Any]:
    task = shown.task
    decision = task.current.decision if task.current is not None else None
    return {
        "task_id": task.task_id,
        "status": task.status,
        "revision": task.revision,
        "decision": {"decision": decision.decision, "by": decision.by, "at": decision.at} if decision else None,
        "events": len(shown.events),
        "origin": shown.head.origin,
        "size": shown.head.size,
        "subject_sha256": shown.subject,
        "key": shown.key.fingerprint,
    }
