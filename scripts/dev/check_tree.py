"""Finds what must not be committed: registry hosts, this machine's paths, big files, secrets. Reads only."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LARGEST = 1024 * 1024  # bytes


class Finding(NamedTuple):
    path: Path
    line: int | None
    what: str

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else str(self.path)
        return f"{place}: {self.what}"


# Hosts and folders are put together here, so that this file does not hold what it looks for.
HOSTS = (
    ("pypi", "org"),
    ("python" + "hosted", "org"),
    ("npmjs", "org"),
    ("npmjs", "com"),
    ("yarnpkg", "com"),
    ("deb", "debian", "org"),
    ("archive", "ubuntu", "com"),
    ("crates", "io"),
    ("rubygems", "org"),
    ("proxy", "golang", "org"),
    ("conda", "anaconda", "org"),
)
FOLDERS = ("root", "work", "home/[a-z][a-z0-9_-]*", "Users/[A-Za-z][A-Za-z0-9._-]*")

CONTENT = {
    "names a registry's host": "|".join(r"\.".join(host) for host in HOSTS),
    "names a folder of one machine": rf"(?<![\w.*>)}}\]~/-])/(?:{'|'.join(FOLDERS)})/",
    "looks like a private key": "-----BEGIN (?:[A-Z]+ )?PRIVATE " + "KEY-----",
    "looks like a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60,})",
    "looks like a cloud key": r"\bAKIA[0-9A-Z]{16}\b",
    "looks like a bot token": r"\b[0-9]{8,10}:AA[A-Za-z0-9_-]{33}\b",
}
PATTERNS = {what: re.compile(pattern.encode()) for what, pattern in CONTENT.items()}
SECRET_NAME = re.compile(
    r"(?:^|/)(?:\.env(?!\.example$)(?:\..*)?|\.secrets/.*|\.netrc|id_(?:rsa|ed25519)|.*\.(?:pem|key|p12|pfx))$"
)


def main() -> int:
    """0 when nothing is found; 1 with one line for each finding."""
    try:
        paths = committable()
    except (OSError, subprocess.CalledProcessError):
        print("tree: not checked: this is not a git checkout")
        return 0
    here = re.compile(re.escape(str(Path.cwd()).encode()) + rb"(?![\w.-])")
    patterns = PATTERNS | {"names the checkout's own folder": here}
    findings = [finding for path in paths for finding in look_at(path, patterns)]
    for finding in findings:
        print(finding)
    if findings:
        return 1
    print(f"tree: {len(paths)} files, nothing that must not be there")
    return 0


def committable() -> list[Path]:
    """What git tracks, and what it would take in with `git add`."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, check=True).stdout
    return sorted({Path(name.decode(errors="surrogateescape")) for name in listed.split(b"\0") if name})


def look_at(path: Path, patterns: dict[str, re.Pattern[bytes]]) -> Iterator[Finding]:
    if SECRET_NAME.search(path.as_posix()):
        yield Finding(path, None, "looks like a secret, by its name")
    if path.is_symlink() or not path.is_file():
        return
    if (size := path.stat().st_size) > LARGEST:
        yield Finding(path, None, f"{size:,} bytes: at most {LARGEST:,}")
        return
    content = path.read_bytes()
    for what, pattern in patterns.items():
        for match in pattern.finditer(content):
            yield Finding(path, content.count(b"\n", 0, match.start()) + 1, what)


if __name__ == "__main__":
    sys.exit(main())
