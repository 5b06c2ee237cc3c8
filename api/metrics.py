"""The numbers of this process, in a registry of its own."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from api.refusals import RefusalCounter
from api.stream import EventStream
from ssot.alarms import WATCHED
from ssot.store import Store

_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
_STATUSES: Final = ("pending", "needs_review", "approved", "rejected")


class Metrics:
    """Requests are counted as they end; everything else is looked up when somebody asks."""

    def __init__(self, refusals: RefusalCounter) -> None:
        self.registry = CollectorRegistry()
        self._refusals = refusals
        self._requests = Counter(
            "kircerta_http_requests",
            "Requests by route, method and status.",
            ["route", "method", "code"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "kircerta_http_request_seconds",
            "Time from the request's head to the last byte handed over.",
            ["route"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._counts: dict[tuple[str, str, int], Counter] = {}
        self._timers: dict[str, Histogram] = {}
        self._tasks = self._gauge("kircerta_tasks", "Tasks by status.", ["status"])
        self._seq = self._gauge("kircerta_log_seq", "The log's last sequence number.")
        self._held = self._gauge("kircerta_held_files", "Task files that wait for a person.")
        self._opened = self._gauge("kircerta_open_attempts", "Attempts under way.")
        self._denied = self._gauge("kircerta_refused_requests", "Requests without a valid token or role so far.")
        self._alarms = self._gauge("kircerta_alarm", "1 while an alarm stands.", ["alarm"])
        self._lag = self._gauge("kircerta_loop_lag_seconds", "How late the event loop was at the last look.")
        self._worst_lag = self._gauge("kircerta_loop_lag_worst_seconds", "The worst lag of about the last minute.")

    def _gauge(self, name: str, says: str, labels: list[str] | None = None) -> Gauge:
        return Gauge(name, says, labels or [], registry=self.registry)

    def watch(self, streams: EventStream) -> None:
        """Tell how the streams are."""
        counts = streams.counts
        for name, says, value in (
            ("open", "Streams open now.", lambda: streams.open_streams),
            ("opened", "Streams opened so far.", lambda: counts.opened),
            ("cut_off", "Streams cut off so far because their clients did not read.", lambda: counts.cut_off),
            (
                "turned_away",
                "Streams turned away so far, for being too many or at shutdown.",
                lambda: counts.turned_away,
            ),
            ("reset", "Clients told so far that the log is not the one they knew.", lambda: counts.resets),
        ):
            self._gauge(f"kircerta_streams_{name}", says).set_function(value)

    def watch_deliveries(self, rejections: RefusalCounter) -> None:
        """Tell how many deliveries were refused."""
        says = "Deliveries refused so far."
        self._gauge("kircerta_refused_deliveries", says).set_function(lambda: rejections.total)

    def request(self, route: str, method: str, code: int, seconds: float) -> None:
        """One request that has ended. `route` is a pattern: raw paths would grow without bound."""
        count = self._counts.get((route, method, code))
        if count is None:
            count = self._counts[route, method, code] = self._requests.labels(route, method, str(code))
            self._timers.setdefault(route, self._seconds.labels(route))
        count.inc()
        self._timers[route].observe(seconds)

    def take(self, store: Store, *, lag_s: float, worst_lag_s: float) -> None:
        """Look up everything that is not counted."""
        counts = store.view.counts()
        for status in _STATUSES:
            self._tasks.labels(status).set(counts.get(status, 0))
        self._seq.set(store.last_seq())
        self._held.set(len(store.held_files()))
        self._opened.set(len(store.open_attempts()))
        self._denied.set(self._refusals.total)
        self._alarms.clear()
        for alarm in {*WATCHED, *store.view.alarms}:
            self._alarms.labels(alarm).set(alarm in store.view.alarms)
        self._lag.set(lag_s)
        self._worst_lag.set(worst_lag_s)
