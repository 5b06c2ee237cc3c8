"""What it means: the log, the runs and the tasks as tidy tables, figures and pages. Reads only.

One line each; every table documents its columns and units in its function: ``help(reports.events)``.
"""

from reports.evidence import coverage, issues
from reports.facts import events
from reports.records import acceptance, record, runs, samples, series, tasks
from reports.work import attempts

__all__ = [
    "acceptance",
    "attempts",
    "coverage",
    "events",
    "issues",
    "record",
    "runs",
    "samples",
    "series",
    "tasks",
]
