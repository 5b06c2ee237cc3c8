"""Calibrations of reviewers: their cases and shares as tables, their intervals as a figure. Reads, draws."""

from __future__ import annotations

from typing import Any, Final

import orjson
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.places import Home, run_folder
from reports.records import Run
from reports.style import BLUE, GREY, RED, Chart, draw, nothing
from reports.tables import Verdict, Verdicts, number

MEASURES: Final = {
    "miss": "bad work approved",
    "false_block": "good work rejected",
    "rubber_stamp": "approvals that say nothing",
    "unanswered": "cases without a verdict",
}
_SHARE: Final = ("count", "of", "rate", "low", "high")
_CASES: Final = ("name", "shown_as", "is_good", "defect", "decision", "says_something", "issues", "seconds", "summary")


def cases(run: Run, home: Home = None) -> pd.DataFrame:
    """What became of each case.

    Columns: name, shown_as (what the reviewer saw as its id), is_good, defect, decision (missing: no verdict),
    says_something, issues (int), seconds (float), summary, failure (why there is no verdict).
    """
    path = run_folder(home, run.run_id) / "cases.json"
    rows = orjson.loads(path.read_bytes()) if path.exists() else []
    return pd.DataFrame(rows, columns=[*_CASES, "failure"])


def shares(run: Run) -> pd.DataFrame:
    """The measures. Columns: measure, count, of (int), rate, low, high (float: a 95 % interval; missing: of none)."""
    found = run.calibration or {}
    return _table("measure", {said: found[name] for name, said in MEASURES.items() if name in found})


def missed(run: Run) -> pd.DataFrame:
    """For each kind of defect how much was missed. Columns: defect, and as in `shares`."""
    return _table("defect", (run.calibration or {}).get("missed_by_defect", {}))


def wrong(found: pd.DataFrame) -> pd.DataFrame:
    """The cases that were decided wrongly: bad ones approved, good ones rejected."""
    approved = found["decision"].eq("approve")
    return found[found["decision"].notna() & approved.ne(found["is_good"].astype("bool"))]


def verdicts(run: Run) -> Verdicts:
    """A calibration's own thresholds, and before them whether it says anything."""
    found = run.calibration or {}
    ended = {"finished": True, "crashed": False}.get(run.state)
    told = [
        Verdict("the run came to its end", run.problem or run.state, ended),
        Verdict("the reviewer gave verdicts", f"outcome: {run.outcome or 'none yet'}", run.outcome != "invalid"),
        Verdict("it tells good work from bad", _apart(found), found.get("told_apart") or None),
        Verdict("it does not decide all alike", "good and bad work", not found.get("irrespective", False)),
    ]
    told += [
        Verdict(one.expression, "no figure" if one.value is None else number(one.value), one.ok)
        for one in run.thresholds
    ]
    return Verdicts(f"{run.run_id}: {run.config.get('reviewer', '')}", tuple(told))


def _apart(found: dict[str, Any]) -> str:
    return f"the intervals of its approvals {'do not meet' if found.get('told_apart') else 'overlap'}"


def intervals(found: pd.DataFrame, title: str = "Rates and their 95 % intervals") -> Chart:
    """A point and its interval for each row of `shares` or `missed`."""
    known = found.dropna(subset=["rate"])
    if known.empty:
        return nothing(title, "nothing was judged")
    says = ", ".join(f"{row.iloc[0]} {row['rate']:.0%}" for _, row in known.iterrows())

    def paint(figure: Figure) -> None:
        axes: Axes = figure.subplots()
        for place, (_, row) in enumerate(known.iloc[::-1].iterrows()):
            axes.plot([row["low"], row["high"]], [place, place], color=GREY, linewidth=5, solid_capstyle="butt")
            axes.plot(row["rate"], place, "o", color=RED if row["rate"] > 0 else BLUE)
        axes.set_yticks(range(len(known)), [str(name) for name in known.iloc[::-1, 0]])
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel("share")

    return draw(title, says, paint, height=1.2 + 0.3 * len(known))


def _table(first: str, found: dict[str, dict[str, Any]]) -> pd.DataFrame:
    rows = [{first: name, **{key: one.get(key) for key in _SHARE}} for name, one in found.items()]
    table = pd.DataFrame(rows, columns=[first, *_SHARE])
    return table.astype({"rate": "float64", "low": "float64", "high": "float64"})
