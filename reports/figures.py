"""The figures of load runs: how long things took, when, and what the machine did meanwhile. Reads tables, draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from reports import statistics
from reports.records import Threshold
from reports.style import (
    CYCLE,
    GREY,
    INK,
    KINDS,
    ORANGE,
    PHASES,
    RED,
    SOFT,
    Chart,
    colour,
    draw,
    elapsed,
    legend,
    log_duration,
    milliseconds,
    nothing,
    plain,
)
from ssot.counted import counted
from ssot.runs import warm_up

_HEAT: Final = LinearSegmentedColormap.from_list("heat", ["#eef4fb", "#8fb8e0", "#2b6cb0", "#173a63", "#0b1c33"])
_NINES: Final = (1, 2, 10, 100, 1000, 10_000, 100_000)
_UNITS: Final = {
    "rss_bytes": ("server memory", 1e6, "MB"),
    "fds": ("open descriptors", 1, ""),
    "loop_lag_ms": ("event-loop lag", 1, "ms"),
    "log_bytes": ("log", 1e6, "MB"),
    "server_cpu": ("server CPU", 0.01, "% of a core"),
    "generator_cpu": ("generator CPU", 1, ""),
    "foreign_cpu": ("foreign CPU", 1, ""),
    "dispatch_lag_ms": ("dispatch lag", 1, "ms"),
}


def measured(found: pd.DataFrame, kinds: Sequence[str] = ()) -> pd.DataFrame:
    """The samples that say something about the server: those asked for, else all but calibration."""
    wanted = found["kind"].isin(list(kinds)) if kinds else found["kind"].ne("calibration")
    return found[wanted]


def _names(found: pd.DataFrame) -> list[str]:
    order = {name: number for number, name in enumerate(KINDS)}
    return sorted(map(str, found["kind"].unique()), key=lambda name: (order.get(name, 99), name))


def _seconds(found: pd.DataFrame) -> float:
    """Until when there are samples (s since the run began)."""
    return float(max(found["intended_us"].max(), found["done_us"].max())) / 1e6


# ------------------------------------------------------------------------------------------ percentiles


def percentile_curve(found: pd.DataFrame, kinds: Sequence[str] = ()) -> Chart:
    """Every percentile, with as much room for each further nine; dashed the service time, where it says less."""
    found = measured(found, kinds)
    title = "Response time by percentile"
    groups = {name: found[found["kind"] == name] for name in _names(found)}
    groups = {name: group for name, group in groups.items() if group["response_ms"].notna().any()}
    if not groups:
        return nothing(title, "nothing was answered")

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for name, group in groups.items():
            tone = colour(name, KINDS, list(groups))
            _curve(axes, group["response_ms"], tone, name)
            if group["service_ms"].notna().any():
                _curve(axes, group["service_ms"], tone, "", dashed=True)
        _nines(axes, max(int(group["response_ms"].notna().sum()) for group in groups.values()))
        axes.plot([], [], color=SOFT, lw=1, ls=(0, (4, 2)), label="service time only")
        legend(axes)

    says = "; ".join(f"{name} p99 {statistics.percentile(g['response_ms'], 99):.3g} ms" for name, g in groups.items())
    return draw(title, says, paint)


def _curve(axes: Axes, values: pd.Series, tone: str, label: str, *, dashed: bool = False, width: float = 1.8) -> None:
    ordered = np.sort(values.dropna().to_numpy())
    if not len(ordered):
        return
    # one point per step of 1/(1 - p), evenly on the logarithmic axis, up to the last sample
    odds = np.geomspace(1, max(len(ordered), 2), 400)
    ranks = np.clip(np.ceil((1 - 1 / odds) * len(ordered)).astype(int) - 1, 0, len(ordered) - 1)
    style = {"ls": (0, (4, 2)), "lw": 1.0} if dashed else {"lw": width}
    axes.plot(odds, np.maximum(ordered[ranks], 1e-3), color=tone, label=label, drawstyle="steps-post", **style)


def _nines(axes: Axes, count: int) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    marks = [odds for odds in _NINES if odds <= max(count, 10)]
    plain(axes.xaxis, marks, _told_odds)
    axes.set_xlim(1, max(count, 10))
    low, high = axes.get_ylim()
    log_duration(axes.yaxis, low, high)
    axes.set_xlabel("percentile")


def _told_odds(odds: float) -> str:
    share = 100 * (1 - 1 / odds)
    return "0 %" if odds == 1 else f"{share:.10g} %"


# -------------------------------------------------------------------------------------------- over time


def over_time(found: pd.DataFrame, kinds: Sequence[str] = (), *, slices: int = 120) -> Chart:
    """Median, p95, p99 and maximum in slices of the run, one drawing a kind; marked, where something failed."""
    found = measured(found, kinds)
    title, names = "Response time over the run", _names(found)
    if found.empty:
        return nothing(title, "there are no samples")
    until = _seconds(found)

    def paint(figure: Figure) -> None:
        rows = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
        for axes, name in zip(rows, names, strict=True):
            _lines_of(axes, found[found["kind"] == name], until, slices, colour(name, KINDS, names))
            axes.set_title(name)
        legend(rows[0])
        elapsed(rows[-1], until)

    says = f"{counted(len(found), 'operation')} in {until:,.0f} s"
    return draw(title, says, paint, height=1.0 + 1.9 * len(names))


def _lines_of(axes: Axes, group: pd.DataFrame, until: float, slices: int, tone: str) -> None:
    width = max(until / slices, 1e-9)
    where = (group["intended_us"] / 1e6 // width).astype("int64")
    values = group["response_ms"].groupby(where)
    told = pd.DataFrame({q: values.quantile(q, interpolation="higher") for q in (0.5, 0.95, 0.99, 1.0)})
    at = (told.index.to_numpy() + 0.5) * width
    axes.fill_between(at, told[0.5], told[0.99], color=tone, alpha=0.13, lw=0)
    axes.plot(at, told[0.5], color=tone, lw=1.8, label="median")
    axes.plot(at, told[0.95], color=tone, lw=1.1, alpha=0.75, label="p95")
    axes.plot(at, told[0.99], color=tone, lw=1.0, ls=(0, (4, 2)), label="p99")
    axes.plot(at, told[1.0], ls="none", marker=".", ms=2.5, color=SOFT, label="max")
    axes.set_yscale("log")
    failed = group.loc[group["error"].notna() | group["done_us"].lt(0), "intended_us"] / 1e6
    low, high = axes.get_ylim()
    if len(failed):
        axes.plot(
            failed, np.full(len(failed), low), ls="none", marker="|", ms=7, color=RED, label="failed", clip_on=False
        )
    axes.set_ylim(low, high)
    log_duration(axes.yaxis, low, high)


def heat_map(found: pd.DataFrame, kind: str, *, slices: int = 140, steps: int = 46) -> Chart:
    """Where the response times of one kind lie, over the run: darker is more."""
    group = found[found["kind"].eq(kind) & found["response_ms"].notna()]
    title = f"Where the {kind} times lie"
    if group.empty:
        return nothing(title, f"no {kind} was answered")
    until, values = _seconds(group), np.maximum(group["response_ms"].to_numpy(), 1e-3)
    low, high = values.min(), max(values.max(), values.min() * 1.5)
    edges = np.geomspace(low * 0.95, high * 1.05, steps)
    counts, xs, ys = np.histogram2d(
        group["intended_us"] / 1e6, values, bins=[np.linspace(0, max(until, 1e-6), slices), edges]
    )

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        shown = np.ma.masked_equal(counts.T, 0)
        mesh = axes.pcolormesh(
            xs, ys, shown, cmap=_HEAT, norm=LogNorm(vmin=1, vmax=max(counts.max(), 2)), rasterized=True
        )
        axes.set_yscale("log")
        log_duration(axes.yaxis, float(edges[0]), float(edges[-1]))
        elapsed(axes, until)
        axes.grid(visible=False)
        bar = figure.colorbar(mesh, ax=axes, pad=0.01, aspect=28)
        bar.outline.set_visible(False)
        bar.set_label("operations")
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))

    return draw(title, f"{counted(len(group), 'answer')} from {low:.3g} to {values.max():.3g} ms", paint, height=3.1)


def errors_over_time(found: pd.DataFrame, *, slices: int = 80) -> Chart:
    """What failed, when, and how."""
    found = measured(found)
    failed = found[found["error"].notna() | found["done_us"].lt(0)]
    title = "What failed"
    if failed.empty:
        return nothing(title, f"none of {counted(len(found), 'operation')} failed")
    until = _seconds(found)
    reason = failed["error"].astype("str").where(failed["error"].notna(), "never answered")
    told = failed["kind"].astype("str") + ": " + reason
    return _stacked(title, failed["intended_us"] / 1e6, told, until, slices)


def statuses_over_time(found: pd.DataFrame, kind: str, *, slices: int = 80) -> Chart:
    """How operations of one kind were answered, per slice of the run: status codes, or what came instead."""
    group = found[found["kind"] == kind]
    title = f"Answers to {kind}"
    if group.empty:
        return nothing(title, f"there was no {kind}")
    told = group["status"].astype("str").where(group["status"].gt(0), group["error"].astype("str"))
    return _stacked(title, group["intended_us"] / 1e6, told, _seconds(found), slices)


def _stacked(title: str, at_s: pd.Series, told: pd.Series, until: float, slices: int) -> Chart:
    width = max(until / slices, 1e-9)
    names = list(told.value_counts().index[:7])
    table = pd.crosstab((at_s // width).astype("int64"), told.where(told.isin(names), "other"))

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        base = np.zeros(len(table))
        for number, name in enumerate(table.columns):
            heights = table[name].to_numpy() / width
            tone = RED if number == 0 else CYCLE[number % len(CYCLE)]
            axes.bar((table.index + 0.5) * width, heights, width * 0.92, bottom=base, color=tone, label=name)
            base += heights
        axes.set_ylabel("per second")
        elapsed(axes, until)
        legend(axes)

    return draw(title, ", ".join(f"{count:,} {name}" for name, count in told.value_counts().items()), paint, height=2.4)


# ------------------------------------------------------------------------------------------ what was watched


def generator(
    found: pd.DataFrame, watched: pd.DataFrame, gates: Sequence[Threshold] = (), *, slices: int = 120
) -> Chart:
    """How late the generator was, and what it and others took of the processor: whether the run may be believed.

    Its lines are the bounds that the run was held to; one that it was not held to is not drawn.
    """
    title = "The generator itself"
    lag = found[found["lag_ms"].notna()]
    if lag.empty:
        return nothing(title, "nothing was sent")
    until = _seconds(found)
    width = max(until / slices, 1e-9)
    told = lag["lag_ms"].groupby((lag["intended_us"] / 1e6 // width).astype("int64"))

    def paint(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        for q, style in ((0.5, "-"), (0.99, (0, (4, 2)))):
            line = told.quantile(q)
            at = (line.index.to_numpy() + 0.5) * width
            left.plot(at, line, color=GREY, ls=style, label="median" if q == 0.5 else "p99")
        left.set_title("sent too late (ms)")
        latest = _bound(gates, "dispatch_lag_p99")
        if latest is not None:
            left.axhline(latest, color=RED, lw=0.9)
            left.set_title("sent too late (ms); p99 over the red line: invalid")
        left.set_ylim(0, max(12, left.get_ylim()[1] * 1.15))
        legend(left, loc="upper left", bbox_to_anchor=(0, 1))
        for name, tone in (("generator_cpu", INK), ("foreign_cpu", ORANGE)):
            rows = watched[watched["name"] == name]
            right.plot(rows["at_us"] / 1e6, rows["value"] * 100, color=tone, label=_UNITS[name][0])
            most = _bound(gates, name)
            if most is not None:  # dotted: over it the run is invalid
                right.axhline(most * 100, color=tone, lw=0.9, ls=(0, (1, 2)))
        right.set_title("processor (%; the generator's of one core, others' of all)")
        right.set_ylim(0, 125)  # the legend stands above what can be reached
        right.set_yticks(range(0, 101, 20))
        legend(right, loc="upper left", bbox_to_anchor=(0, 1))
        for axes in (left, right):
            elapsed(axes, until, most=6)

    return draw(title, f"dispatch lag p99 {statistics.percentile(lag['lag_ms'], 99):.3g} ms", paint, height=2.6)


def _bound(gates: Sequence[Threshold], figure: str) -> float | None:
    """What the figure was to stay under, as in `foreign_cpu<=0.1`."""
    for gate in gates:
        name, _, most = gate.expression.partition("<")
        if name.strip() == figure and most:
            return float(most.removeprefix("="))
    return None


def watched_over_time(
    watched: pd.DataFrame, names: Sequence[str] = ("rss_bytes", "fds", "loop_lag_ms", "log_bytes")
) -> Chart:
    """What was watched on the server, each with the slope that was found (Theil and Sen)."""
    present = [name for name in names if watched["name"].eq(name).any()]
    title = "The server over the run"
    if not present:
        return nothing(title, "nothing was watched")
    until = float(watched["at_us"].max()) / 1e6

    def paint(figure: Figure) -> None:
        grid = figure.subplots(-(-len(present) // 2), 2, squeeze=False)
        for axes in grid.flat[len(present) :]:
            axes.set_visible(False)
        for axes, name in zip(grid.flat, present, strict=False):
            _watched(axes, watched, name, until)

    says = "; ".join(f"{_UNITS.get(name, (name,))[0]}" for name in present)
    return draw(title, says, paint, height=0.6 + 1.9 * (-(-len(present) // 2)))


def _watched(axes: Axes, watched: pd.DataFrame, name: str, until: float) -> None:
    label, unit, unit_name = _UNITS.get(name, (name, 1, ""))
    rows = watched[watched["name"] == name]
    axes.plot(rows["at_us"] / 1e6, rows["value"] / unit, color=CYCLE[0], lw=1.2)
    found = statistics.slope(watched, name)
    if found.points > 2:
        judged = rows[rows["at_us"] >= until * 1e6 * warm_up(until)]
        at = np.array([until * warm_up(until), until])
        middle = judged["value"].median() / unit
        centre = judged["at_us"].median() / 1e6
        axes.plot(at, middle + (at - centre) / 3600 * found.per_hour / unit, color=ORANGE, lw=1.4, ls=(0, (4, 2)))
    axes.set_title(f"{label} ({unit_name})" if unit_name else label)
    low, high = axes.get_ylim()
    room = max(high - low, abs(high) * 0.02)
    axes.set_ylim(low - room * 0.1, high + room * 0.1)
    elapsed(axes, until, most=6)


# --------------------------------------------------------------------------------------- groups against groups


def phases(found: pd.DataFrame, kinds: Sequence[str] = ()) -> Chart:
    """Each kind before, during and after: from the median (dot) over p95 (bar) to p99 (line)."""
    found = measured(found, kinds)
    names = [name for name in _names(found) if name != "flood" or kinds]
    present = [phase for phase in ("before", "during", "after", "main") if found["phase"].eq(phase).any()]
    title = "Before, during, after"
    if not names or not present:
        return nothing(title, "there are no samples")

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for row, name in enumerate(names):
            for number, phase in enumerate(present):
                values = found.loc[found["kind"].eq(name) & found["phase"].eq(phase), "response_ms"].dropna()
                _range(axes, values, row + 0.26 * (number - (len(present) - 1) / 2), PHASES[phase])
        for phase in present:
            axes.plot([], [], color=PHASES[phase], lw=5, label=phase)
        axes.set_yticks(range(len(names)), names, fontsize=9.5, color=INK)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xscale("log")
        log_duration(axes.xaxis, *axes.get_xlim())
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("dot: median · bar: to p95 · line: to p99")
        legend(axes)

    return draw(title, f"{', '.join(names)} in the phases {', '.join(present)}", paint, height=1.5 + 0.75 * len(names))


def _range(axes: Axes, values: pd.Series, at: float, tone: str) -> None:
    if values.empty:
        return
    p50, p95, p99 = (statistics.percentile(values, q) for q in (50, 95, 99))
    axes.plot([p50, p99], [at, at], color=tone, lw=1.3)
    axes.plot([p50, p95], [at, at], color=tone, lw=6, alpha=0.4, solid_capstyle="butt")
    axes.plot([p50], [at], marker="o", ms=6, color=tone)
    text = milliseconds(float(f"{p99:.2g}"))
    axes.annotate(text, (p99, at), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8, color=SOFT)


def curves_of(groups: Mapping[str, Sequence[pd.DataFrame]], kind: str) -> Chart:
    """The percentile curves of every run of two (or more) groups: how much equal runs differ."""
    title = f"{kind}: every run, by percentile"
    tones = dict(zip(groups, (GREY, CYCLE[0], ORANGE), strict=False))
    values = {
        name: [run.loc[run["kind"].eq(kind), "response_ms"].dropna() for run in of] for name, of in groups.items()
    }
    most = max((len(one) for of in values.values() for one in of), default=0)
    if not most:
        return nothing(title, f"no run has a {kind}")

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for name, of in values.items():
            for number, one in enumerate(of):
                _curve(axes, one, tones[name], f"{name} ({len(of)})" if number == 0 else "", width=1.1)
        _nines(axes, most)
        legend(axes)

    return draw(title, "; ".join(f"{len(of)} {name}" for name, of in values.items()), paint)


def dots_of(figures: pd.DataFrame, measure: str) -> Chart:
    """One dot a run, by kind and group, with each group's median: the runs that a test compares."""
    title = f"{measure} of each run"
    if figures.empty:
        return nothing(title, "there are no runs to compare")
    groups = list(dict.fromkeys(figures["group"]))
    kinds = [str(kind) for kind, of in figures.groupby("kind", sort=False) if of["group"].nunique() == len(groups)]
    if not kinds:
        return nothing(title, "the groups have no kind of operation in common")

    def paint(figure: Figure) -> None:
        columns = figure.subplots(1, len(kinds), squeeze=False)[0]
        for axes, kind in zip(columns, kinds, strict=True):
            for at, group in enumerate(groups):
                values = figures.loc[figures["kind"].eq(kind) & figures["group"].eq(group), measure].dropna()
                tone = GREY if at == 0 else CYCLE[0]
                spread = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(len(values))
                axes.plot(at + spread, values, ls="none", marker="o", ms=5, alpha=0.75, color=tone)
                if len(values):
                    axes.hlines(values.median(), at - 0.25, at + 0.25, color=tone, lw=2)
            axes.set_xticks(range(len(groups)), groups, color=INK)
            axes.set_xlim(-0.6, len(groups) - 0.4)
            axes.set_ylim(0, max(float(figures.loc[figures["kind"].eq(kind), measure].max()) * 1.08, 1e-6))
            axes.set_title(f"{kind} (ms)")
            axes.grid(visible=False, axis="x")

    return draw(title, f"{counted(len(figures), 'figure')} of {', '.join(kinds)}", paint, height=2.9)
