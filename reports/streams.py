"""What the clients of a stream got: gaps, repeats, silences, by client and all together. Pure."""

from __future__ import annotations

import numpy as np
import pandas as pd


def by_client(found: pd.DataFrame, kind: str = "stream") -> pd.DataFrame:
    """What each client of the stream got, a row each.

    Columns: client, received (int64), missing (int64: seqs that any client got after this one's first, and this one did
    not), repeated (int64), broken (int64: samples with an error, such as a disconnection), longest_silence_s (float:
    between two events), p50, p99 (delay in ms).
    """
    rows = found[found["kind"].eq(kind)]
    got = rows[rows["done_us"].ge(0) & rows["seq"].ge(0)]
    every = np.sort(got["seq"].unique())
    told = [{"client": client, **_client(group, every)} for client, group in got.groupby("client")]
    frame = pd.DataFrame(told, columns=["client", *_FIGURES])
    broken = rows[rows["error"].notna()].groupby("client").size()
    frame.insert(4, "broken", frame["client"].map(broken).fillna(0).astype("int64"))
    return frame


_FIGURES = ("received", "missing", "repeated", "longest_silence_s", "p50", "p99")


def _client(group: pd.DataFrame, every: np.ndarray) -> dict[str, float]:
    seqs = group["seq"].unique()
    arrived = np.sort(group["done_us"].to_numpy())
    due = int((every >= seqs.min()).sum())
    return {
        "received": len(group),
        "missing": due - len(seqs),
        "repeated": len(group) - len(seqs),
        "longest_silence_s": float(np.diff(arrived).max()) / 1e6 if len(arrived) > 1 else 0.0,
        "p50": float(group["response_ms"].quantile(0.5, interpolation="higher")),
        "p99": float(group["response_ms"].quantile(0.99, interpolation="higher")),
    }


def together(found: pd.DataFrame, kind: str = "stream") -> dict[str, float | int]:
    """All clients at once: clients, received, missing, repeated, broken, longest_silence_s."""
    clients = by_client(found, kind)
    sums = {name: int(clients[name].sum()) for name in ("received", "missing", "repeated", "broken")}
    longest = float(clients["longest_silence_s"].max()) if len(clients) else 0.0
    return {"clients": len(clients), **sums, "longest_silence_s": longest}
