"""What a run recorded, read back.

Any script may write such lines, so none is trusted: what is no number, no count or no JSON is left
out, and named. See :mod:`negplug.hosts.trainer.metrics` for who writes them.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypedDict, cast

# A longer line, in bytes, or a longer name, in characters, is no metric.
_LONGEST_LINE = 2**20
_LONGEST_NAME = 200

# Of a file, to say what is wrong with them: a script may write the same fault at every step.
_MOST_FAULTS = 1_000

# Of a file, to find its last line in, in bytes.
_TAIL_BYTES = 2**16

_COUNTS = ("trainer", "epoch", "max_epochs", "step", "batch_size")
_SECONDS = ("left", "train_seconds")


class Record(TypedDict, total=False):
    """One line of the file; counts are Lightning's, epochs are completed ones at ``fit_end``.

    ``left`` is in seconds, until the end of the fit; ``train_seconds`` since it began, without
    those of its validations. ``batch_size`` is over all ranks.
    """

    trainer: int
    event: str
    epoch: int
    max_epochs: int | None
    step: int
    batch_size: int
    metrics: dict[str, float]
    left: float
    train_seconds: float


@dataclass
class Recording:
    """The usable lines of a file, and a clause for each that is not, or not wholly, usable.

    Of the latter the first thousand.
    """

    records: list[Record] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def final_metrics(self) -> dict[str, float]:
        """Return the union over the lines, where a later line wins."""
        metrics: dict[str, float] = {}
        for record in self.records:
            metrics.update(record.get("metrics", {}))
        return metrics

    def tell(self, fault: str) -> None:
        """Take note of what cannot be used."""
        if len(self.faults) < _MOST_FAULTS:
            self.faults.append(fault)


def read_recording(path: Path) -> Recording:
    """Read the lines written so far; a file that is not there has none."""
    recording = Recording()
    try:
        if path.exists() and not path.is_file():  # whose end may never come
            recording.tell("it is no file")
            return recording
        with path.open("rb") as file:
            for number, line in enumerate(_lines(file), start=1):
                _read(line, f"line {number}", recording)
    except FileNotFoundError:
        pass
    except OSError as error:
        recording.tell(f"it cannot be read ({error.strerror})")
    return recording


def last_record(path: Path) -> Record | None:
    """Return the last line written so far, without reading all of a long file."""
    recording = Recording()
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            for line in file.read().splitlines()[-2:]:  # the last may still be being written
                _read(line, "", recording)
    except OSError:
        pass
    return recording.records[-1] if recording.records else None


def numbers(metrics: object) -> dict[str, float]:
    """Return what can be used of metrics by name: numbers, under names that can be shown."""
    if not isinstance(metrics, Mapping):
        return {}
    return {name: value for name, value in metrics.items() if _is_name(name) and _is_number(value)}


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines, and of one that is too long its beginning."""
    while line := file.readline(_LONGEST_LINE + 1):
        yield line
        while len(line) > _LONGEST_LINE and not line.endswith(b"\n"):
            line = file.readline(_LONGEST_LINE + 1)


def _read(line: bytes, where: str, recording: Recording) -> None:
    """Add a line to a recording, as far as it can be used."""
    if not line.strip():
        return
    try:
        if len(line) > _LONGEST_LINE:
            raise ValueError(f"it has more than {_LONGEST_LINE} bytes")
        record = json.loads(line.decode())
        if not isinstance(record, dict):
            raise ValueError("it is no object")
    except (ValueError, RecursionError) as error:
        recording.tell(f"{where} is no record: {reprlib.repr(str(error))}")
        return
    read: dict[str, Any] = {}
    for name in _COUNTS:
        value: Any = record.get(name)
        if _is_count(value):
            read[name] = int(value)
        elif value is not None:
            recording.tell(f"{where}: {name} is {reprlib.repr(value)}, no count")
    if isinstance(record.get("event"), str):
        read["event"] = record["event"]
    for name in _SECONDS:
        seconds: Any = record.get(name)
        if _is_number(seconds) and 0 <= seconds < 1e9:
            read[name] = float(seconds)
    metrics = record.get("metrics", {})
    if not isinstance(metrics, dict):
        recording.tell(f"{where}: metrics is {reprlib.repr(metrics)}, no names and numbers")
    read["metrics"] = used = numbers(metrics)
    for name in metrics if isinstance(metrics, dict) else ():
        if name not in used:
            what = f"{reprlib.repr(name)}: {reprlib.repr(metrics[name])}"
            recording.tell(f"{where}: {what} is no name and number")
    recording.records.append(cast(Record, read))


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name.isprintable() and 0 < len(name) <= _LONGEST_NAME


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return isinstance(value, float) or abs(value) < 2**1000  # what a float holds


def _is_count(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return -1 <= value < 2**63 and value == int(value)  # Lightning's -1 epochs are without end
