"""What the dashboard's files keep to: nothing from elsewhere, no way for text to become markup, readable colours."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from api.pages import STATIC

SCRIPTS = sorted(STATIC.glob("*.js"))
STYLE = (STATIC / "dashboard.css").read_text()
TONES = ("ink", "soft", "accent", "good", "bad", "warn", "gate", "work")
MARKED = ("good", "bad", "warn", "gate", "idle", "work")
BEHIND = ("hover", "chosen", "add", "del", "warn-bg", "bad-bg")
PAIRS = [
    *((tone, ground) for tone in TONES for ground in ("page", "card", "sunk")),
    *((tone, f"{tone}-bg") for tone in MARKED),
    *((tone, ground) for tone in ("ink", "soft") for ground in BEHIND),
    ("ink", "add2"),
    ("ink", "del2"),
    ("on-accent", "accent"),
    ("card", "good"),
]

MARKUP = ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "DOMParser", "srcdoc", "setHTML"]
MARKUP += ["eval(", "new Function"]


def themes() -> dict[str, dict[str, str]]:
    light = STYLE[STYLE.index(":root {") : STYLE.index("@media")]
    dark = STYLE[STYLE.index(':root[data-theme="dark"] {') : STYLE.index("* { box-sizing")]
    found = {}
    for name, block in (("light", light), ("dark", dark)):
        found[name] = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{3,6})\b", block))
    return found


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_keeps_the_contrast_of_wcag_aa(theme: str) -> None:
    colours = themes()[theme]
    for tone, ground in PAIRS:
        low, high = sorted((luminance(colours[tone]), luminance(colours[ground])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, f"{theme}: {tone} on {ground}"


def test_the_dark_theme_is_one_whether_chosen_or_asked_for_by_the_system() -> None:
    asked = STYLE[STYLE.index("@media (prefers-color-scheme: dark)") : STYLE.index(':root[data-theme="dark"] {')]
    assert dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{3,6})\b", asked)) == themes()["dark"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_no_script_makes_markup_of_text(script: Path) -> None:
    source = script.read_text()
    for way in MARKUP:
        assert way not in source
    stores = {"localStorage", "sessionStorage", "indexedDB", "document.cookie"}
    if script.name == "alarms.js":  # which alarms were put away
        stores -= {"localStorage"}
    for way in stores:
        assert way not in source


def test_every_file_is_there_and_nothing_comes_from_elsewhere() -> None:
    names = {path.name for path in STATIC.iterdir()}
    for path in (*SCRIPTS, STATIC / "index.html", STATIC / "dashboard.css"):
        source = path.read_text()
        asked = re.findall(r"""(?:from|import) "\./([^"]+)"|/static/([A-Za-z0-9_.-]+)""", source)
        assert {a or b for a, b in asked} <= names, path.name
        assert not re.search(r"""["'(](?:https?:)?//[a-z]""", source), path.name
    preloaded = set(re.findall(r'modulepreload" href="/static/([^"]+)', (STATIC / "index.html").read_text()))
    modules = {path.name for path in SCRIPTS} - {"main.js", "docs.js"}
    assert preloaded == modules
