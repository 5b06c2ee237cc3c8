"""Stands between kircerta and a command-line agent: the job comes on stdin, our lines go out, its output is read here.

The agent's program is started once for the echo, where it may change nothing, and again for the work: nothing is done
before the echo was right. Standard library only; the profile comes as JSON in an argument, in which no secret stands.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any, Final

from flows.agents import answers, cage, prompts
from flows.agents.play import Line
from flows.agents.signs import READERS, Alive, Broke, Edited, Ended, Looked, Ran, Reader, Said, Sign
from flows.agents.tree import Tree, TreeFailed, top_of

ECHO_RUNS: Final = 3
REVIEW_RUNS: Final = 2
BEAT_S: Final = 1.0
END_S: Final = 2.0
"""How long a program may go on after it said that its run is over."""
GRACE_S: Final = 0.4
MAX_LINE: Final = 8 * 1024 * 1024
MAX_MESSAGE: Final = 8 * 1024 * 1024 - 1024
MIN_SECRET: Final = 8
NOT_STARTED: Final = 127
BROKE, NOT_HANDED_IN, TOO_EARLY, NO_VERDICT = 4, 5, 6, 7


class Stop(Exception):
    """The job cannot go on: the exit code, and why."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


@dataclass(slots=True)
class Heard:
    """What one run of the program gave."""

    said: list[str] = field(default_factory=list)
    broke: str = ""
    exit_code: int = 0


class Adapter:
    """One job, from the echo to the last word."""

    def __init__(self, profile: Mapping[str, Any], job: Mapping[str, Any], scratch: Path) -> None:
        self._profile = profile
        self._job = job
        self._scratch = scratch
        self._secrets = _secrets(profile["secrets"])
        self._next_beat = 0.0
        self._program: subprocess.Popen[bytes] | None = None

    def execute(self) -> None:
        """Echo, then work. An agent that never echoes rightly is waited with until it is stopped: nothing is done."""
        tree = self._tree()
        right, refused = answers.echo_of(self._job), ""
        for number in range(ECHO_RUNS):
            heard = self._run("echo", prompts.echo_prompt(self._job, refused=refused), f"echo-{number}")
            if tree is not None and (touched := tree.changed()):
                raise Stop(TOO_EARLY, f"changed {', '.join(touched[:5])} when it was only asked to repeat its task")
            echo = answers.find(heard.said, "ack")
            refused = "there was no JSON object of type ack in it"
            if echo is not None:
                self._send(echo)
                refused = answers.difference(echo, right)
            if not refused:
                return self._work(tree)
        while True:
            signal.pause()

    def _work(self, tree: Tree | None) -> None:
        log = answers.WorkLog(str(tree.top if tree is not None else Path.cwd()), str(Path.cwd()))
        heard = self._run("work", prompts.work_prompt(self._job), "work", log)
        diff = None
        if tree is not None:
            tree.clear_own_files()
            text = tree.diff()
            self._check_no_secret(text)
            log.add_found(tree.changed())
            diff = answers.snapshot(text, tree.base) if text else None
        answer = answers.find(heard.said, "result")
        self._send(answers.result_of(self._job, answer, log, diff, "\n".join(heard.said)))

    def review(self) -> None:
        """Ask for the verdict, once more where there was none."""
        for number in range(REVIEW_RUNS):
            heard = self._run("review", prompts.review_prompt(self._job), f"review-{number}")
            answer = answers.find(heard.said, "verdict")
            if answer is not None:
                return self._send(answers.verdict_of(self._job, answer))
        raise Stop(NO_VERDICT, "there was no JSON object of type verdict in what it said")

    def close(self, patience_s: float = 0.0) -> None:
        """Stop the program, where it runs; it may end by itself for a while."""
        program, self._program = self._program, None
        if program is not None and program.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                program.wait(patience_s)
            program.terminate()
            with suppress(subprocess.TimeoutExpired):
                program.wait(GRACE_S)
            program.kill()
            program.wait()

    # ---------------------------------------------------------------------------------------------- one run

    def _run(self, part: str, prompt: str, name: str, log: answers.WorkLog | None = None) -> Heard:
        """Run the program once. Raises Stop where it cannot be started or comes to nothing."""
        file = self._scratch / f"{name}.md"
        file.write_text(prompt)
        session = f"kircerta-{self._job['dispatch']['dispatch_id']}-{name}"
        told = {"{prompt_file}": str(file), "{session}": session, "{scratch}": str(self._scratch)}
        arguments = (self._profile["shut_in"] if cage.SHUT_IN in os.environ else self._profile)[part]
        command = [_filled(word, told) for word in (*self._profile["program"], *arguments)]
        by_stdin = self._profile["prompt"] == "stdin"
        with open(file if by_stdin else os.devnull, "rb") as stdin:
            try:
                self._program = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, env=self._environment())
            except OSError as error:
                raise Stop(NOT_STARTED, f"{command[0]}: {error.strerror}") from None
        assert self._program.stdout is not None
        heard = self._listen(READERS[self._profile["reader"]](), self._program.stdout, log)
        if heard.broke:
            raise Stop(BROKE, heard.broke)
        if heard.exit_code:
            raise Stop(max(1, heard.exit_code), f"{command[0]} ended with exit code {heard.exit_code}")
        return heard

    def _environment(self) -> dict[str, str]:
        """Ours, and what the profile adds where nothing stands; in a cage, no home that cannot be written there."""
        kept = {name: value for name, value in os.environ.items() if name not in self._profile["homes"]}
        homes = {name: os.environ[name] for name in self._profile["homes"] if name in os.environ}
        if cage.SHUT_IN in os.environ:
            homes = {name: folder for name, folder in homes.items() if os.access(folder, os.W_OK)}
        return {**self._profile["env"], **kept, **homes}

    def _listen(self, reader: Reader, stdout: IO[bytes], log: answers.WorkLog | None) -> Heard:
        heard, over = Heard(), False
        with stdout:
            for line in _lines(stdout):
                signs = reader.take(self._without_secrets(line))
                over = self._take(signs, heard, log)
                if over:
                    break
        self._take(reader.end(), heard, log)
        assert self._program is not None
        if over:  # by its own word: what it does beyond that is not waited for
            self.close(END_S)
        else:
            heard.exit_code = self._program.wait()
        return heard

    def _take(self, signs: Sequence[Sign], heard: Heard, log: answers.WorkLog | None) -> bool:
        for sign in signs:
            if isinstance(sign, Ended):
                return True
            if isinstance(sign, Said):
                heard.said.append(sign.text)
            elif isinstance(sign, Broke):
                heard.broke = sign.why
            elif log is not None:
                log.take(sign)
            self._beat(sign)
        return False

    # ------------------------------------------------------------------------------------------ what goes out

    def _beat(self, sign: Sign) -> None:
        """A heartbeat for whatever the agent does, at most one a second."""
        at = time.monotonic()
        if at >= self._next_beat:
            self._next_beat = at + BEAT_S
            self._send({"type": "heartbeat", "dispatch_id": self._job["dispatch"]["dispatch_id"], "note": _note(sign)})

    def _send(self, line: Line) -> None:
        written = json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"
        if len(written) > MAX_MESSAGE:
            raise Stop(NOT_HANDED_IN, f"the {line['type']} is larger than {MAX_MESSAGE} bytes")
        sys.stdout.buffer.write(written)
        sys.stdout.buffer.flush()

    def _without_secrets(self, line: str) -> str:
        for name, value in self._secrets.items():
            line = line.replace(value, f"[{name}]")
        return line

    def _check_no_secret(self, diff: str) -> None:
        """What is handed in is kept for good: a secret in the change must never come so far."""
        for name, value in self._secrets.items():
            if value in diff:
                raise Stop(NOT_HANDED_IN, f"the change holds the value of {name}: it is not handed in")

    def _tree(self) -> Tree | None:
        """The work tree; None where the folder is in none: then the result has no diff."""
        top = top_of(Path.cwd())
        return Tree(top, self._scratch / "git", self._profile["own_files"]) if top is not None else None


def _lines(stdout: IO[bytes]) -> Iterator[str]:
    """Line by line; what is beyond 8 MiB in a line is left out."""
    while line := stdout.readline(MAX_LINE):
        whole = line.endswith(b"\n")
        while not whole and (more := stdout.readline(MAX_LINE)):
            whole = more.endswith(b"\n")
        yield line.rstrip(b"\r\n").decode("utf-8", "replace")


def _filled(word: str, told: Mapping[str, str]) -> str:
    for place, value in told.items():
        word = word.replace(place, value)
    return word


def _note(sign: Sign) -> str:
    match sign:
        case Ran():
            return f"ran {sign.command}"[:200]
        case Edited() | Looked():
            return f"{'changed' if isinstance(sign, Edited) else 'read'} {sign.path}"[:200]
        case Alive():
            return sign.what[:200]
        case _:
            return "said something"


def _secrets(names: Sequence[str]) -> dict[str, str]:
    found = {name: os.environ.get(name, "") for name in names}
    return {name: value for name, value in found.items() if len(value) >= MIN_SECRET}


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main(profile: str, program: list[str]) -> int:
    """Do one job with a program. 0 after its last word; its exit code where it failed, or one of this module's."""
    signal.signal(signal.SIGTERM, _leave)
    job = json.loads(sys.stdin.buffer.read())
    with tempfile.TemporaryDirectory(prefix="kircerta-") as scratch:  # for its owner alone; SIGTERM removes it, too
        adapter = Adapter({**json.loads(profile), "program": program}, job, Path(scratch))
        try:
            adapter.review() if job["kind"] == "review" else adapter.execute()
        except (Stop, TreeFailed) as stop:
            sys.stderr.write(f"{stop}\n")
            return stop.code if isinstance(stop, Stop) else NOT_HANDED_IN
        except BrokenPipeError:  # nobody listens any more
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        finally:
            # The order to stop often comes right behind the last word: what is cleared away now is cleared away whole.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            adapter.close()
    return 0
