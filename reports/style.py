"""How every figure looks: one quiet style, drawn as SVG on its own light ground. Nothing here knows what is drawn."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

INK: Final = "#1d2733"
SOFT: Final = "#66727f"
GRID: Final = "#e4e8ec"
BLUE, ORANGE, GREEN, RED, VIOLET, GREY = "#2b6cb0", "#c8741a", "#2f855a", "#b83227", "#6b55a3", "#8a94a0"
CYCLE: Final = (BLUE, ORANGE, GREEN, RED, VIOLET, "#0f7f8f", "#a8842c", "#9b4f80")
KINDS: Final = {"read": BLUE, "write": ORANGE, "stream": GREEN, "flood": RED, "calibration": GREY}
PHASES: Final = {"before": BLUE, "during": RED, "after": GREEN, "main": BLUE}
WIDTH: Final = 9.0
"""Inches; pages scale it to theirs."""
_STYLE: Final[dict[str, Any]] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": "#b9c1ca",
    "axes.labelcolor": SOFT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": SOFT,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "svg.fonttype": "none",  # text stays text: it can be searched, and a page is a third of the size
    "svg.hashsalt": "kircerta",  # the same figure gives the same bytes
    "date.epoch": "1970-01-01T00:00:00",
}
_FONT: Final = re.compile(r"""font: (?:normal )*([0-9.]+px) '?DejaVu Sans'?""")


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure as SVG. Notebooks show it by itself; `says` is what it tells, for who cannot see it."""

    title: str
    says: str
    svg: str

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"image/svg+xml": self.svg, "text/plain": f"{self.title}: {self.says}"}


def draw(title: str, says: str, paint: Callable[[Figure], None], *, height: float = 3.4) -> Chart:
    """A chart that `paint` fills; `height` in inches."""
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        figure.suptitle(title, x=0.008, ha="left", fontsize=11.5, fontweight="bold", color=INK)
        paint(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Chart(title, says, _tidied(out.getvalue(), title, says))


def nothing(title: str, why: str) -> Chart:
    """A chart of what there is nothing of: it says so, instead of being empty."""

    def paint(figure: Figure) -> None:
        figure.text(0.5, 0.42, why, ha="center", va="center", color=SOFT, fontsize=10)

    return draw(title, why, paint, height=1.3)


def _tidied(svg: str, title: str, says: str) -> str:
    """The `<svg>` element alone, with a name for who cannot see it, and a font that is found elsewhere, too."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, count=1, flags=re.DOTALL)
    svg = _FONT.sub(r"font: \1 'DejaVu Sans', Verdana, sans-serif", svg)
    svg = re.sub(r' width="[0-9.]+pt" height="[0-9.]+pt"|(?<=<svg) height="[0-9.]+pt"', "", svg, count=2)
    label = _attribute(f"{title}: {says}")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def _attribute(text: str) -> str:
    for char, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(char, entity)
    return text


# ----------------------------------------------------------------------------------------------- axes


def colour(name: str, known: dict[str, str], names: Sequence[str]) -> str:
    """A name's colour: its own, else the next that nobody has."""
    if name in known:
        return known[name]
    free = [one for one in CYCLE if one not in {known[other] for other in names if other in known}]
    others = [other for other in names if other not in known]
    return free[others.index(name) % len(free)]


def milliseconds(value: float) -> str:
    """A duration as people say it."""
    if value >= 1000:
        return f"{value / 1000:g} s"
    return f"{value:g} ms" if value >= 0.1 else f"{value * 1000:g} µs"


def log_duration(axis: Any, low: float, high: float) -> None:
    """A logarithmic axis of milliseconds, with marks at 1, 2 and 5."""
    marks = [m * 10.0**e for e in range(-3, 8) for m in (1, 2, 5)]
    inside = [mark for mark in marks if low * 0.8 <= mark <= high * 1.25]
    if len(inside) > 7:
        inside = [mark for mark in inside if f"{mark:e}".startswith("1.0")]
    plain(axis, inside, milliseconds)


def plain(axis: Any, marks: Sequence[float], told: Callable[[float], str]) -> None:
    """Exactly these marks on an axis, told like this."""
    axis.set_major_locator(FixedLocator(list(marks)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: told(value)))
    axis.set_minor_formatter(NullFormatter())


def elapsed(axes: Axes, until_s: float, *, most: int = 11) -> None:
    """The time axis of a run: seconds, minutes or hours since it began; at most so many marks."""
    unit, name = (3600, "h") if until_s > 3 * 3600 else (60, "min") if until_s > 300 else (1, "s")
    steps = (1, 2, 5, 10, 15, 20, 30, 60, 120)
    step = next((one for one in steps if until_s / unit / one <= most - 1), steps[-1])
    marks = [number * step * unit for number in range(int(until_s / unit / step) + 1)]
    plain(axes.xaxis, marks, lambda value: f"{value / unit:g} {name}")
    axes.set_xlim(0, max(until_s, 1e-9))
    axes.grid(visible=False, axis="x")


def legend(axes: Axes, **more: Any) -> None:
    """What the colours mean, above the drawing, in one row."""
    axes.legend(**{"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "ncols": 8, "borderaxespad": 0.2, **more})
