"""Profiles of command-line agents, as data: how each is started for the echo, the work and a review, and is read.

Where the arguments and shapes come from stands in docs/agents.md, with dates. A secret never stands in an argument: the
prompt goes in by stdin or in a file, keys by the environment.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

Words = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)]
Part = Literal["echo", "work", "review"]
PARTS: Final[tuple[Part, ...]] = ("echo", "work", "review")

_ROOT: Final = Path(__file__).parents[2]
_START: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from flows.agents.profile_adapter import main; sys.exit(main(sys.argv[2], sys.argv[3:]))"
)
_VALUE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}", re.ASCII)


class Profile(BaseModel):
    """One kind of command-line agent.

    Args:
        program: what is started, before the arguments of a part.
        echo, work, review: arguments of each part. `{prompt_file}`, `{scratch}` and `{session}` are put in by the
            adapter, `{options}` stands for the arguments of the options.
        shut_in: arguments that take the place of a part's where the cage is closed around the program (cage.py):
            one that shuts its commands in by itself cannot do so in there.
        prompt: how the prompt gets there: on stdin, or in the file that `{prompt_file}` names.
        reader: whose output it is (flows/agents/signs.py).
        options: the arguments that an option of a dispatch becomes; `{}` is its value.
        pass_env: variables that the program takes its keys from.
        homes: those of them that name a folder in which it also writes; one that cannot be written does not count.
        env: what is set for it where nothing else is.
        memory_bytes: address space that each of its processes may have, where the file says nothing: an engine that
            reserves more than it ever uses does not start in less.
        own_files: what the program keeps in the work tree for itself.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    about: str
    program: Words = ()
    echo: Words = ()
    work: Words = ()
    review: Words = ()
    shut_in: dict[Part, Words] = Field(default_factory=dict)
    prompt: Literal["stdin", "file"] = "stdin"
    reader: Literal["codex", "claude", "openclaw", "text"] = "text"
    options: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    pass_env: Words = ()
    homes: Words = ()
    env: dict[str, str] = Field(default_factory=dict)
    memory_bytes: int | None = None
    own_files: Words = ()

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raises ValueError for an option that there is not, or a value that could be taken for an argument."""
        for key, value in options.items():
            if key not in self.options:
                listed = ", ".join(sorted({*self.options, "timeout_s"}))
                raise ValueError(f"there is no option {key!r}; there are {listed}")
            if not _VALUE.fullmatch(str(value)):
                raise ValueError(f"{key} has to begin with a letter or a digit, without blanks")

    def line(self, part: Part, options: Mapping[str, Any], *, shut_in: bool = False) -> tuple[str, ...]:
        """The command line of a part, with places left for the prompt and the session."""
        chosen = [word.replace("{}", str(value)) for key, value in options.items() for word in self.options[key]]
        given: tuple[str, ...] = getattr(self, part)
        given = self.shut_in.get(part, given) if shut_in else given
        return (*self.program, *(one for word in given for one in (chosen if word == "{options}" else [word])))

    def command(self, options: Mapping[str, Any], secrets: tuple[str, ...]) -> tuple[str, ...]:
        """The adapter's command line. `secrets` names the variables whose values must never come out again.

        Raises ValueError, as `check_options`.
        """
        self.check_options(options)
        spec = {
            **self._arguments(options, shut_in=False),
            "shut_in": self._arguments(options, shut_in=True),
            "prompt": self.prompt,
            "reader": self.reader,
            "secrets": secrets,
            "homes": self.homes,
            "env": self.env,
            "own_files": self.own_files,
        }
        # the program's words by themselves: what they name is shown to the agent that is shut in
        return (sys.executable, "-I", "-S", "-c", _START, str(_ROOT), json.dumps(spec), *self.program)

    def _arguments(self, options: Mapping[str, Any], *, shut_in: bool) -> dict[str, tuple[str, ...]]:
        return {part: self.line(part, options, shut_in=shut_in)[len(self.program) :] for part in PARTS}


_MODEL: Final = ("--model", "{}")
_CODEX: Final = ("exec", "--json", "--color", "never", "--skip-git-repo-check", "{options}", "--sandbox")
_CLAUDE: Final = ("-p", "--output-format", "stream-json", "--verbose", "{options}")
# What there is, and not what there is not: the tools that could change something are other ones in each version.
_NO_CHANGES: Final = ("--tools", "Read,Glob,Grep")
_AIDER: Final = (
    *("--message-file", "{prompt_file}", "--yes-always", "--no-auto-commits", "--no-dirty-commits", "--no-gitignore"),
    *("--no-pretty", "--no-stream", "--no-fancy-input", "--no-check-update", "--no-show-release-notes"),
    *("--no-detect-urls", "--no-suggest-shell-commands", "--analytics-disable", "{options}"),
    *("--chat-history-file", "{scratch}/chat.md", "--input-history-file", "{scratch}/input"),
)
# Where git knows no name, aider writes one into the repository's configuration; from here it comes by the environment.
_IDENTITY: Final = {
    "GIT_CONFIG_COUNT": "2",
    "GIT_CONFIG_KEY_0": "user.name",
    "GIT_CONFIG_VALUE_0": "aider",
    "GIT_CONFIG_KEY_1": "user.email",
    "GIT_CONFIG_VALUE_1": "aider@localhost",
}
# `agent exec` and not `agent --local`, which works in a folder of its own; without a deadline that comes before ours.
_OPENCLAW: Final = ("agent", "exec", "--json", "--timeout", "604800", "--message-file", "{prompt_file}", "{options}")

BUILT_IN: Final[dict[str, Profile]] = {
    "codex": Profile(
        about="OpenAI's Codex CLI, `codex exec --json`",
        program=("codex",),
        echo=(*_CODEX, "read-only", "-"),
        work=(*_CODEX, "workspace-write", "-"),
        review=(*_CODEX, "read-only", "-"),
        # its own sandbox needs namespaces, which the cage does not give; the cage does what it would do
        shut_in=dict.fromkeys(("work", "review"), (*_CODEX, "danger-full-access", "-")),
        reader="codex",
        options={"model": _MODEL, "user_profile": ("--profile", "{}")},
        pass_env=("CODEX_API_KEY", "CODEX_HOME"),
        homes=("CODEX_HOME",),
    ),
    "claude-code": Profile(
        about="Anthropic's Claude Code, `claude -p --output-format stream-json`",
        program=("claude",),
        echo=(*_CLAUDE, *_NO_CHANGES),
        work=(*_CLAUDE, "--permission-mode", "acceptEdits", "--allowedTools", "Bash,Read,Glob,Grep"),
        review=(*_CLAUDE, *_NO_CHANGES),
        reader="claude",
        options={"model": _MODEL, "max_turns": ("--max-turns", "{}")},
        pass_env=("ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN"),
    ),
    "openclaw": Profile(
        about="OpenClaw, one turn of its embedded agent: `openclaw agent exec --json`",
        program=("openclaw",),
        echo=_OPENCLAW,
        work=_OPENCLAW,
        review=_OPENCLAW,
        prompt="file",
        reader="openclaw",
        options={"model": _MODEL, "thinking": ("--thinking", "{}")},
        pass_env=("ANTHROPIC_API_KEY", "OPENAI_API_KEY"),
        memory_bytes=64 * 1024**3,
    ),
    "aider": Profile(
        about="Aider, one message and out: `aider --message-file`",
        program=("aider",),
        echo=(*_AIDER, "--chat-mode", "ask"),
        work=_AIDER,
        review=(*_AIDER, "--chat-mode", "ask"),
        prompt="file",
        options={"model": _MODEL},
        pass_env=("ANTHROPIC_API_KEY", "OPENAI_API_KEY"),
        env=_IDENTITY,
        own_files=(".aider*", ".aider*/**"),
    ),
    "command": Profile(about="any command: the prompt on stdin, its answer as text on stdout"),
}
