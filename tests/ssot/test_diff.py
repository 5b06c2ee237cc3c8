"""Diffs and scopes: what git writes is read, what could be read in two ways is refused."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssot.diff import DiffError, PathError, in_scope, normalise, parse, paths

RECORDED = Path(__file__).parents[3] / "shared" / "data" / "07_diffs_and_worklogs"

EDIT = """\
diff --git a/src/a.py b/src/a.py
index 1111111..2222222 100644
--- a/src/a.py
+++ b/src/a.py
@@ -1,3 +1,3 @@ def top():
 one
-two
+deux
 three
"""


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.invalid", "-c", "init.defaultBranch=m"]
    done = subprocess.run([*command, *arguments], cwd=folder, capture_output=True, check=True)
    return done.stdout.decode()


# Reading


def test_an_edit_has_its_paths_its_hunk_and_its_counts() -> None:
    (patch,) = parse(EDIT)
    assert (patch.old_path, patch.new_path) == ("src/a.py", "src/a.py")
    assert (patch.added, patch.removed) == (1, 1)
    (hunk,) = patch.hunks
    assert (hunk.old_start, hunk.old_count, hunk.new_start, hunk.new_count) == (1, 3, 1, 3)
    assert hunk.header == "def top():"
    assert hunk.lines == (" one", "-two", "+deux", " three")


def test_an_empty_text_is_a_diff_of_nothing() -> None:
    assert parse("") == () == parse("\n\n")
    assert paths("") == ()


def test_a_removed_line_that_looks_like_a_header_is_a_removed_line() -> None:
    text = "--- a/q.sql\n+++ b/q.sql\n@@ -1,2 +1,2 @@\n--- secret/x\n-two\n+++ secret/x\n+deux\n"
    assert paths(text) == ("q.sql",)
    assert parse(text)[0].hunks[0].lines[0] == "--- secret/x"


def test_a_rename_names_both_of_its_paths() -> None:
    text = (
        "diff --git a/old name.py b/new name.py\nsimilarity index 100%\n"
        "rename from old name.py\nrename to new name.py\n"
    )
    (patch,) = parse(text)
    assert patch.renamed
    assert paths(text) == ("old name.py", "new name.py")


def test_new_and_deleted_files_have_one_path() -> None:
    new = "diff --git a/n b/n\nnew file mode 100644\nindex 0000000..e69de29\n"
    gone = (
        "diff --git a/g b/g\ndeleted file mode 100755\n--- a/g\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"
        "\\ No newline at end of file\n"
    )
    assert (parse(new)[0].old_path, parse(new)[0].new_path) == (None, "n")
    assert (parse(gone)[0].old_path, parse(gone)[0].new_path) == ("g", None)


def test_quoted_paths_are_decoded_as_utf8() -> None:
    old, new = (f'"{side}/f\\303\\274r \\"x\\".py"' for side in "ab")
    text = f"diff --git {old} {new}\nold mode 100644\nnew mode 100755\n"
    assert paths(text) == ('für "x".py',)
    assert parse(text)[0].new_mode == "100755"


def test_carriage_returns_stay_in_the_content_and_leave_the_headers() -> None:
    text = EDIT.replace("\n", "\r\n")
    assert paths(text) == ("src/a.py",)
    assert parse(text)[0].hunks[0].lines[2] == "+deux\r"


def test_a_line_separator_inside_a_line_is_content() -> None:
    assert parse(EDIT.replace("deux", "de\u2028ux\fx"))[0].added == 1


def test_plain_diffs_without_a_git_header_are_read() -> None:
    stamped = "--- a/x\t2026-01-01 00:00:00 +0000\n+++ b/x\t2026-01-02 00:00:00 +0000\n"
    text = f"diff -u a/x b/x\n{stamped}@@ -1 +1 @@\n-a\n+b\n"
    assert paths(text) == ("x",)
    assert paths("Index: x\n=====\n--- x\n+++ x\n@@ -1 +1 @@\n-a\n+b\n") == ("x",)


def test_what_git_itself_writes_is_read(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a b.txt").write_text("".join(f"{n}\n" for n in range(40)))
    (tmp_path / "kept.bin").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "gone.txt").write_text("x")
    (tmp_path / "täb\t.txt").write_text("x\n")
    (tmp_path / "run.sh").write_text("#!/bin/sh\n")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    (tmp_path / "d/a b.txt").rename(tmp_path / "d/c d.txt")
    (tmp_path / "d/c d.txt").write_text("".join(f"{n}\n" for n in range(1, 42)))
    (tmp_path / "kept.bin").write_bytes(bytes(reversed(range(256))) * 20)
    (tmp_path / "gone.txt").unlink()
    (tmp_path / "täb\t.txt").write_text("y\r\n")
    (tmp_path / "run.sh").chmod(0o755)
    (tmp_path / "empty").touch()
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "second diff of a kind\n\nwith a body")
    touched = {"d/a b.txt", "d/c d.txt", "kept.bin", "gone.txt", "täb\t.txt", "run.sh", "empty"}
    for form in (
        ["diff", "HEAD^", "HEAD"],
        ["diff", "--binary", "HEAD^", "HEAD"],
        ["diff", "--no-prefix", "--binary", "HEAD^", "HEAD"],
        ["-c", "diff.mnemonicPrefix=true", "diff", "HEAD^", "HEAD"],
        ["-c", "core.quotePath=false", "diff", "-C", "--find-copies-harder", "HEAD^", "HEAD"],
        ["format-patch", "--stdout", "HEAD^"],
        ["show", "HEAD"],
        ["log", "-p", "--root"],
    ):
        assert set(paths(git(tmp_path, *form))) == touched, form


def test_every_recorded_diff_is_read_and_agrees_with_its_header_lines() -> None:
    if not RECORDED.is_dir():
        pytest.skip("no recorded diffs beside the checkout")
    found = sorted(RECORDED.glob("*/*.diff"))
    assert len(found) > 30
    for file in found:
        text = file.read_bytes().decode()
        named = [line.split(" b/")[1] for line in text.split("\n") if line.startswith("diff --git ")]
        assert list(paths(text)) == named, file.name


# Refusing


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("hello\n", "neither a file header"),
        ("@@ -1 +1 @@\n-a\n+b\n", "neither a file header"),
        ("--- a/x\n", "expected '+++ path'"),
        ("--- a/x\n+++ b/x\n", "no hunk"),
        ("--- /dev/null\n+++ /dev/null\n@@ -0,0 +1 @@\n+b\n", "a deleted file with new lines"),
        ("--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n", "inside a hunk"),
        ("--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n+c\n", "more lines than"),
        ("--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n-b\n", "more lines than"),
        ("--- a/x\n+++ b/x\n@@ -1,2 +1 @@\n-a\n@@ -9 +9 @@\n-a\n+b\n", "before its counted lines"),
        ("--- a/x\n+++ b/x\n@@ -0,0 +0,0 @@\n", "without lines"),
        ("--- a/x\n+++ b/x\n@@ -1 +1\n-a\n+b\n", "hunk header"),
        ("--- a/x\n+++ b/x\n@@ -1,99999999999 +1 @@\n-a\n+b\n", "hunk header"),
        ("--- /dev/null\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n", "a new file with old lines"),
        ("diff --git a/x b/y\n", "differ without a rename"),
        ("diff --git a/x b/x\n--- a/x\n+++ b/secret\n@@ -1 +1 @@\n-a\n+b\n", "another path than the header"),
        ("diff --git a/x b/x\nrename from secret\nrename to x\n", "other paths than its header"),
        ("diff --git a/x b/y\nrename from x\n", "belong together"),
        ("diff --git a/x b/x\nnew file mode 100644\nnew file mode 100644\n", "stands twice"),
        ("diff --git a/x b/x\nnew file mode 9\n", "not a file mode"),
        (
            "diff --git a/x b/x\nnew file mode 100644\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n",
            "belong together",
        ),
        ('diff --git "a/x b/x\n', "quoted path"),
        ('diff --git "a/\\377" "b/\\377"\n', "not UTF-8"),
        ('diff --git "a/\\q" "b/\\q"\n', "unknown escape"),
        ("diff --git a/x b/x\n--- a/x\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n", "belong together"),
        ("diff --git a/x b/x\nnew file mode 100644\ndeleted file mode 100644\n", "also a deleted one"),
        ("diff --cc x\nindex 1,2..3\n", "neither a file header"),
        ("diff --git a/x b/x\nGIT binary patch\nliteral 3\nnot base85 at all\n\n", "base85"),
        ("diff --git a/x b/x\nGIT binary patch\nliteral 3\nCabc\n\n", "wrong length"),
        ("Index: secret\n--- x\n+++ x\n@@ -1 +1 @@\n-a\n+b\n", "another path than 'Index: '"),
        (f"From {'0' * 40} Mon\nSubject: x\n\n  --- a/x\n", "a patch inside a message"),
        (EDIT + "-- \nthe end\nsome more\n", "neither a file header"),
        ("*** a/x\n--- b/x\n***************\n", "neither a file header"),
    ],
)
def test_what_another_tool_might_read_differently_is_refused(text: str, reason: str) -> None:
    with pytest.raises(DiffError) as caught:
        parse(text)
    assert reason in str(caught.value)
    assert caught.value.line >= 1


names = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="/\\\0"), min_size=1, max_size=8
).filter(lambda name: name not in (".", "..") and name[1:2] != ":")


def quoted(path: str) -> str:
    """As git writes it with core.quotePath on."""
    letters = {7: "a", 8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r", 34: '"', 92: "\\"}
    raw = path.encode()
    if all(32 <= byte < 127 and byte not in letters for byte in raw):
        return path
    escaped = (
        "\\" + letters[byte] if byte in letters else chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}" for byte in raw
    )
    return f'"{"".join(escaped)}"'


lines = st.lists(
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\n"), max_size=12), max_size=5
)


@given(st.lists(names, min_size=1, max_size=3).map("/".join), lines, lines)
def test_any_edit_of_any_path_is_read_back(path: str, removed: list[str], added: list[str]) -> None:
    if not removed and not added:
        added = ["x"]
    body = "".join(f"-{line}\n" for line in removed) + "".join(f"+{line}\n" for line in added)
    old, new = quoted("a/" + path), quoted("b/" + path)
    text = f"diff --git {old} {new}\n--- {old}\n+++ {new}\n@@ -1,{len(removed)} +1,{len(added)} @@\n{body}"
    (patch,) = parse(text)
    assert (patch.old_path, patch.new_path) == (path, path)
    assert patch.hunks[0].lines == tuple(f"-{line}" for line in removed) + tuple(f"+{line}" for line in added)


pieces = st.sampled_from(
    [
        *EDIT.splitlines(keepends=True),
        "\n",
        "--- a/x\n",
        "+++ b/x\n",
        "rename from x\n",
        "rename to y\n",
        "GIT binary patch\n",
    ]
)


@given(st.one_of(st.text(), st.lists(pieces).map("".join)))
def test_any_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    try:
        touched = paths(text)
    except DiffError:
        return
    assert all(isinstance(path, str) and path for path in touched)


RENAMED = """\
diff --git a/old name.py b/new name.py
similarity index 90%
rename from old name.py
rename to new name.py
--- a/old name.py\t
+++ b/new name.py\t
@@ -1,2 +1,2 @@
 x
--- q
+++ r
"""
NEW_AND_GONE = """\
diff --git a/new b/new
new file mode 100644
index 0000000..e69de29
diff --git a/gone b/gone
deleted file mode 100644
--- a/gone
+++ /dev/null
@@ -1 +0,0 @@
-x
"""
STRAY = [
    *("--- a/evil", "+++ b/evil", "--- evil", "rename from evil", "rename to evil", "copy to evil"),
    *("diff --git a/evil b/evil", "diff --git evil evil", "@@ -1 +1 @@", "@@ -0,0 +1 @@", "+x", "-x", " x", ""),
    *("new file mode 100644", "deleted file mode 100644", "Index: evil", "+++ /dev/null", "--- /dev/null"),
]


def test_no_diff_that_git_applies_touches_a_path_that_is_not_named(tmp_path: Path) -> None:
    """Diffs with stray header lines: where both of us read one, we read the same files out of it."""
    chance = random.Random(7)
    compared = 0
    for _ in range(4000):
        lines = "".join(chance.sample([EDIT, RENAMED, NEW_AND_GONE], 2)).split("\n")
        for _ in range(chance.choice([1, 1, 2, 3])):
            at = chance.randrange(len(lines))
            lines[at : at + chance.choice([0, 0, 1])] = [chance.choice(STRAY)]
        text = "\n".join(lines)
        try:
            named = set(paths(text))
        except DiffError:
            continue
        touched = touched_by_git(tmp_path, text)
        compared += touched is not None
        assert touched is None or touched <= named, text
    assert compared > 30


def touched_by_git(folder: Path, text: str) -> set[str] | None:
    """The paths that `git apply` would write to; None where it refuses the diff."""
    command = ["git", "apply", "--numstat", "-z", "-"]
    done = subprocess.run(command, input=text.encode(), cwd=folder, capture_output=True, check=False)
    if done.returncode != 0:
        return None
    fields = [field.rpartition("\t")[2] for field in done.stdout.decode().split("\0")]
    return {field for field in fields if field}


# Paths and scopes


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        ("a/b", "a/b"),
        ("./a//b/", "a/b"),
        ("a/x/../b", "a/b"),
        ("a/./b", "a/b"),
        ("...", "..."),
        ("ä b", "ä b"),
    ],
)
def test_a_path_is_normalised(path: str, plain: str) -> None:
    assert normalise(path) == plain


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "./",
        "a/..",
        "/etc/passwd",
        "..",
        "../x",
        "a/../../x",
        "C:/x",
        "c:x",
        "a\\b",
        "..\\x",
        "a\0b",
        "\ud800",
        "x" * 5000,
    ],
)
def test_a_path_that_is_no_file_in_the_tree_is_refused_and_in_no_scope(path: str) -> None:
    with pytest.raises(PathError):
        normalise(path)
    assert not in_scope(path, [])
    assert not in_scope(path, ["**"])


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("a/b", "a/**/b"),
        ("a/x/y/b", "a/**/b"),
        ("src/a.py", "src/**"),
        ("src/x/y/a.py", "src/**"),
        ("src/x/a.py", "src/"),
        ("./src//a.py", "src/*"),
        ("a.py", "**/*.py"),
        ("x/y/a.py", "**/*.py"),
        ("anything/at/all", "**"),
        ("anything", "."),
        ("a.py", "?.py"),
        ("b.py", "[a-c].py"),
        ("d.py", "[!a-c].py"),
        ("].py", "[]].py"),
        ("-", "[a-]"),
        ("[x", "[x"),
        (".hidden", "*"),
        ("src/a.py", "/src/a.py"),
        ("src/a.py", "./src/a.py"),
        ("abcabd", "*ab?"),
        ("x/a/b/a/c", "**/a/c"),
    ],
)
def test_a_path_lies_inside_a_pattern(path: str, pattern: str) -> None:
    assert in_scope(path, [pattern])
    assert in_scope(path, ["nothing", pattern])


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("src", "src/**"),
        ("src", "src/"),
        ("src/a.py", "src"),
        ("src/x/a.py", "src/*"),
        ("srcs/a.py", "src/**"),
        ("src/../etc/x", "src/**"),
        ("x/a.py", "*.py"),
        ("a/b", "a?b"),
        ("a/b", "a[/]b"),
        ("A.py", "a.py"),
        ("a.py", ""),
        ("a.py", "a.p"),
        ("a.py", "x" * 5000),
        ("a/c/b/d", "a/**/b"),
    ],
)
def test_a_path_lies_outside_a_pattern(path: str, pattern: str) -> None:
    assert not in_scope(path, [pattern])


def test_an_empty_scope_limits_nothing_inside_the_tree() -> None:
    assert in_scope("any/file", [])


@given(st.lists(names, min_size=1, max_size=4))
def test_a_path_is_inside_what_stands_above_it_and_outside_of_elsewhere(parts: list[str]) -> None:
    path = "/".join(parts)
    assert in_scope(path, ["**"])
    assert in_scope("top/" + path, ["top/**"])
    assert not in_scope(path, ["elsewhere-entirely/**"])
    assert normalise(normalise(path)) == normalise(path)


@given(st.text(alphabet="ab*?[]!-/.", max_size=30), st.text(alphabet="ab/.", max_size=30))
def test_any_pattern_on_any_path_answers(pattern: str, path: str) -> None:
    assert in_scope(path, [pattern]) in (True, False)


@settings(deadline=None)
@given(st.integers(2, 900))
def test_hostile_patterns_take_bounded_time(size: int) -> None:
    began = time.perf_counter()
    assert not in_scope("a" * 4 * size, ["*a" * size + "b"])
    assert not in_scope("a/" * size + "c", ["**/a/" * (size // 2) + "b"])
    assert time.perf_counter() - began < 2
