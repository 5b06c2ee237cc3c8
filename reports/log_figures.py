"""The figures of the log: what happened when, how long people and agents took, and how far attempts got. Draws only."""

from __future__ import annotations

from typing import Final

import matplotlib.dates as mdates
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from reports import work
from reports.records import Acceptance
from reports.style import (
    BLUE,
    CYCLE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    RED,
    SOFT,
    Chart,
    draw,
    legend,
    nothing,
    plain,
)
from ssot.counted import counted

_SPANS: Final = {
    "to_ack_s": ("dispatch to ACK", BLUE),
    "to_result_s": ("ACK to result", ORANGE),
    "to_verdict_s": ("result to verdict", GREEN),
    "to_decision_s": ("verdict to decision", RED),
}
_ENDS: Final = {"approved": GREEN, "rejected": RED, "ended": ORANGE, "open": GREY}
_SEVERITIES: Final = {"blocker": RED, "major": ORANGE, "minor": GREY}
_MARKS: Final = (0.001, 0.01, 0.1, 1, 10, 60, 600, 3600, 6 * 3600, 86400, 7 * 86400)


def events_over_time(log: pd.DataFrame, *, types: int = 7) -> Chart:
    """What was logged, when: the most frequent types apart. An event is one, whatever it counts."""
    table = work.per_time(log.assign(count=1))
    title = "Events over time"
    if table.empty:
        return nothing(title, "the log is empty")
    return _bars_over_time(title, table.rename(columns={"type": "name"}), types)


def refused_over_time(log: pd.DataFrame) -> Chart:
    """Requests and deliveries that were turned away, by route; each counted event stands for all that it counts."""
    rows = log[log["type"].isin(("webhook_rejected", "auth_denied"))]
    title = "Turned away"
    if rows.empty:
        return nothing(title, "no request and no delivery was turned away")
    named = rows.assign(type=rows["type"].astype("str") + " " + rows["route"].astype("str"))
    return _bars_over_time(title, work.per_time(named).rename(columns={"type": "name"}), 5)


def _bars_over_time(title: str, table: pd.DataFrame, most: int) -> Chart:
    sums = table.groupby("name")["count"].sum().sort_values(ascending=False)
    kept = list(sums.index[:most])
    named = table.assign(name=table["name"].where(table["name"].isin(kept), "all others"))
    wide = named.pivot_table(index="at_us", columns="name", values="count", aggfunc="sum", fill_value=0)
    wide = wide[[*kept, *(name for name in wide.columns if name not in kept)]]
    step = work.step_of(table["at_us"], 60)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        at = mdates.date2num(pd.to_datetime(wide.index + step // 2, unit="us", utc=True).to_pydatetime())
        base = np.zeros(len(wide))
        for number, name in enumerate(wide.columns):
            tone = GREY if name == "all others" else CYCLE[number % len(CYCLE)]
            axes.bar(at, wide[name], step / 8.64e10 * 0.92, bottom=base, color=tone, label=name)
            base += wide[name].to_numpy()
        locator = mdates.AutoDateLocator(minticks=4, maxticks=9)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator))
        axes.grid(visible=False, axis="x")
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))  # half an event is none
        axes.set_ylabel(f"in {_span(step / 1e6)}")
        figure.legend(loc="outside lower left", ncols=4)

    says = ", ".join(f"{count:,} {name}" for name, count in sums.items())
    return draw(title, says, paint, height=3.2)


def _span(seconds: float) -> str:
    for unit, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= unit:
            return f"{seconds / unit:g} {name}{'s' if seconds > unit else ''}"
    return f"{seconds:g} s"


def waiting(attempts: pd.DataFrame) -> Chart:
    """How long each step took: for every duration the share of attempts that took no longer."""
    title = "How long each step took"
    spans = {name: np.sort(attempts[name].dropna().to_numpy()) for name in _SPANS}
    spans = {name: np.maximum(values, 1e-3) for name, values in spans.items() if len(values)}
    if not spans:
        return nothing(title, "no attempt got as far as an ACK")

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for name, values in spans.items():
            label, tone = _SPANS[name]
            shares = np.arange(1, len(values) + 1) / len(values) * 100
            axes.step(np.r_[values[:1], values], np.r_[0, shares], where="post", color=tone, label=label)
            middle = values[(len(values) - 1) // 2]
            axes.plot([middle], [50], marker="o", ms=5, color=tone)
        axes.set_xscale("log")
        low, high = (edge(edge(one) for one in spans.values()) for edge in (min, max))
        plain(axes.xaxis, [mark for mark in _MARKS if low / 3 <= mark <= high * 3], _told)
        axes.set_ylim(0, 102)
        axes.set_ylabel("% of attempts")
        legend(axes)

    says = "; ".join(
        f"{_SPANS[name][0]} median {_told(values[(len(values) - 1) // 2])}" for name, values in spans.items()
    )
    return draw(title, says, paint)


def _told(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 60 else _span(float(f"{seconds:.3g}"))


def funnel(attempts: pd.DataFrame) -> Chart:
    """How many attempts got how far."""
    table = work.funnel(attempts)
    title = "How far attempts got"
    if not len(attempts):
        return nothing(title, "nothing was dispatched")

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        tones = [BLUE] * (len(table) - 1) + [GREEN]
        axes.barh(table["step"], table["count"], color=tones, height=0.66)
        for row, (count, share) in enumerate(zip(table["count"], table["share"], strict=True)):
            _beside(axes, f"{count:,} ({share:.0%})", count, row)
        _sideways(axes, int(table["count"].max()))

    says = ", ".join(f"{count:,} {step}" for step, count in zip(table["step"], table["count"], strict=True))
    return draw(title, says, paint, height=2.7)


def rounds(attempts: pd.DataFrame) -> Chart:
    """What became of first, second and further attempts: whether sending work back helps."""
    title = "What became of each round"
    if not len(attempts):
        return nothing(title, "nothing was dispatched")
    table = work.rounds(attempts)
    names = [f"attempt {number}" for number in table["attempt"]]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        base = np.zeros(len(table))
        for kind, tone in _ENDS.items():
            axes.barh(names, table[kind], left=base, color=tone, height=0.66, label=kind)
            for row, count in enumerate(table[kind]):
                if count > 0.04 * table["dispatched"].max():
                    axes.annotate(f"{count:,}", (base[row] + count / 2, row), ha="center", va="center", color="white")
            base += table[kind].to_numpy()
        _sideways(axes, int(table["dispatched"].max()))
        legend(axes)

    says = "; ".join(
        f"attempt {row.attempt}: {row.approved} approved of {row.dispatched}" for row in table.itertuples(index=False)
    )
    return draw(title, says, paint, height=1.3 + 0.42 * len(table))


def issues_by_criterion(issues: pd.DataFrame, *, most: int = 15) -> Chart:
    """Which criteria draw issues, and how severe they are; the worst first."""
    title = "Issues by criterion"
    if issues.empty:
        return nothing(title, "no verdict and no decision had an issue")
    named = issues.assign(where=issues["task_id"].astype("str") + "  " + issues["criterion"].astype("str"))
    table = pd.crosstab(named["where"], named["severity"]).reindex(columns=list(_SEVERITIES), fill_value=0)
    table = table.loc[table.sum(axis=1).sort_values(ascending=False, kind="stable").index[:most]]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        base = np.zeros(len(table))
        for severity, tone in _SEVERITIES.items():
            axes.barh(list(table.index), table[severity], left=base, color=tone, height=0.66, label=severity)
            base += table[severity].to_numpy()
        _sideways(axes, int(base.max()))
        legend(axes)

    return draw(
        title,
        f"{counted(len(issues), 'issue')} on {counted(named['where'].nunique(), 'criterion', 'criteria')}",
        paint,
        height=1.2 + 0.3 * len(table),
    )


def _beside(axes: Axes, text: str, x: float, y: float) -> None:
    axes.annotate(text, (x, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8.5, color=SOFT)


def _sideways(axes: Axes, most: int) -> None:
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=9.5)
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, most * 1.12 + 0.01)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))


def checks(found: Acceptance) -> Chart:
    """Each module's checks as squares: green holds, red does not."""
    title = "The checks, module by module"
    if not found.modules:
        return nothing(title, "no module was checked")

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for row, module in enumerate(found.modules):
            for column, one in enumerate(module.checks):
                axes.add_patch(_square(column, row, GREEN if one.ok else RED))
        widest = max((len(module.checks) for module in found.modules), default=1)
        axes.set_yticks(range(len(found.modules)), [module.name for module in found.modules], color=INK, fontsize=9.5)
        axes.set_xlim(-0.6, max(widest, 16) - 0.3)
        axes.set_ylim(len(found.modules) - 0.4, -0.6)
        axes.set_aspect("equal", anchor="W")
        axes.set_xticks([])
        axes.grid(visible=False)
        axes.tick_params(axis="y", length=0)
        for side in axes.spines.values():
            side.set_visible(False)

    held = sum(one.ok for module in found.modules for one in module.checks)
    count = sum(len(module.checks) for module in found.modules)
    return draw(title, f"{held} of {counted(count, 'check')} held", paint, height=0.8 + 0.36 * len(found.modules))


def _square(column: int, row: int, tone: str) -> Rectangle:
    return Rectangle((column - 0.42, row - 0.42), 0.84, 0.84, facecolor=tone, edgecolor="none")
