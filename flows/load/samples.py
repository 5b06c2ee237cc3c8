"""Samples: one row a request or a delivered event, appended while the run goes, in columns that stay small.

While a run goes they are an Arrow stream: what was written before a kill can be read. Afterwards they are one
Parquet file. Times are µs since the run's start, on the machine's monotonic clock.
"""

from __future__ import annotations

import os
from array import array
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from flows.load.plan import PHASES

STREAMED: Final = ".samples.arrows"
SAMPLES: Final = "samples.parquet"
KINDS: Final = ("read", "write", "stream", "flood", "calibration")
CODES: Final = {name: code for code, name in enumerate(KINDS)}
NEVER: Final = -1
_FLUSH_ROWS: Final = 20_000
_TYPES: Final = {"b": pa.int8(), "i": pa.int32(), "q": pa.int64(), "h": pa.int16()}
_NUMBERS: Final = (
    ("kind", "b"),
    ("phase", "b"),
    ("client", "i"),
    ("intended_us", "q"),
    ("sent_us", "q"),
    ("done_us", "q"),
    ("status", "h"),
    ("seq", "q"),
)
_STREAM_SCHEMA: Final = pa.schema([*((name, _TYPES[code]) for name, code in _NUMBERS), ("error", pa.string())])


class Recorder:
    """Appends samples to the run's Arrow stream."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / STREAMED).open("wb", buffering=0)
        self._writer = pa.ipc.new_stream(self._file, _STREAM_SCHEMA)
        self._begin()

    def _begin(self) -> None:
        self._columns = [array(code) for _, code in _NUMBERS]
        self._errors: list[str] = []

    def add(
        self,
        kind: int,
        phase: int,
        client: int,
        intended: int,
        sent: int,
        done: int,
        status: int,
        error: str = "",
        seq: int = -1,
    ) -> None:
        """One sample. `sent` and `done` are -1 where that never happened, `status` 0 where there was no answer."""
        values = (kind, phase, client, intended, sent, done, status, seq)
        for column, value in zip(self._columns, values, strict=True):
            column.append(value)
        self._errors.append(error)
        if len(self._errors) >= _FLUSH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Hand over what has come together."""
        rows = len(self._errors)
        if rows == 0:
            return
        arrays = [
            pa.Array.from_buffers(_TYPES[code], rows, [None, pa.py_buffer(column.tobytes())])
            for column, (_, code) in zip(self._columns, _NUMBERS, strict=True)
        ]
        batch = pa.record_batch([*arrays, pa.array(self._errors, pa.string())], schema=_STREAM_SCHEMA)
        self._writer.write_batch(batch)
        self._begin()

    def close(self) -> None:
        """Write the end. A second time changes nothing."""
        if self._file.closed:
            return
        self.flush()
        self._writer.close()
        self._file.close()


def read_streamed(folder: Path) -> Any:
    """The samples of the Arrow stream as a table; what a kill tore off at its end is left out."""
    batches = []
    path = folder / STREAMED
    if path.exists():
        with path.open("rb") as file:
            try:
                stream = pa.ipc.open_stream(file)
                batches.extend(stream)
            except (pa.ArrowInvalid, OSError, StopIteration):
                batches = _whole_batches(path)
    return pa.Table.from_batches(batches, _STREAM_SCHEMA)


def _whole_batches(path: Path) -> list[Any]:
    """Batch by batch, up to the torn one."""
    batches = []
    with path.open("rb") as file:
        try:
            stream = pa.ipc.open_stream(file)
            while True:
                batches.append(stream.read_next_batch())
        except (pa.ArrowInvalid, OSError, StopIteration):
            return batches


def settle(folder: Path) -> Any:
    """Make `samples.parquet` of the Arrow stream, which is removed; gives its table."""
    table = as_kept(read_streamed(folder))
    write_table(table, folder / SAMPLES)
    (folder / STREAMED).unlink(missing_ok=True)
    return table


def as_kept(table: Any) -> Any:
    """The columns as they stand in `samples.parquet`."""
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    columns["kind"] = pa.DictionaryArray.from_arrays(columns["kind"], pa.array(KINDS))
    columns["phase"] = pa.DictionaryArray.from_arrays(columns["phase"], pa.array(PHASES))
    columns["error"] = columns["error"].dictionary_encode()
    order = ("kind", "phase", "client", "intended_us", "sent_us", "done_us", "status", "error", "seq")
    return pa.table({name: columns[name] for name in order})


def write_table(table: Any, path: Path) -> None:
    """A Parquet file that is whole as soon as it has its name."""
    temporary = path.with_name(f".{path.name}")
    pq.write_table(table, temporary, compression="zstd")
    os.replace(temporary, path)
