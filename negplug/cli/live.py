"""The live table of a terminal: the run in progress, what it logged last, its time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from negplug.hosts.trainer.recording import Record

# More columns than these do not fit a terminal.
_MOST_METRICS = 4


def is_live(console: Console) -> bool:
    """Return whether something can be redrawn there."""
    return console.is_terminal and not console.is_dumb_terminal


class LiveTable:
    """The table of one run.

    Args:
        name: What the run is called.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._began = self._shown = time.monotonic()
        self._record: Record = {}

    def update(self, record: Record) -> None:
        """Take in where the run stands."""
        if record != self._record:
            self._record, self._shown = record, time.monotonic()

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the end of the run; None if that cannot be told."""
        left, now = self._record.get("left"), time.monotonic()
        if left is None:
            # A script without a Trainer may say how many epochs it has done.
            done, of = self._record.get("epoch", 0), self._record.get("max_epochs") or 0
            if not 0 < done < of:
                return None
            left = (self._shown - self._began) * (of - done) / done
        return max(0.0, left - (now - self._shown))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table as it is now, with as many metrics as there is room for."""
        metrics = shown_metrics(self._record.get("metrics", {}))
        # `negplug/criterion/hardness` is too long for a heading.
        values = [(name.rpartition("/")[2], f"{value:.4g}") for name, value in metrics.items()]
        before = [("epoch", epoch_of(self._record))]
        elapsed = duration(time.monotonic() - self._began)
        behind = [("elapsed", elapsed), ("left", duration(self.seconds_left))]
        while values and _width([*before, *values, *behind]) > options.max_width:
            values.pop()
        table = Table(box=box.SIMPLE_HEAD, title=Text(self._name, "bold"), title_justify="left")
        cells = [*before, *values, *behind]
        for name, _ in cells:
            table.add_column(Text(name), justify="right", no_wrap=True)
        table.add_row(*(Text(value) for _, value in cells))
        yield table


class RunDisplay:
    """Shows the fits of this process in the terminal, see :mod:`negplug.hosts.trainer.progress`.

    Args:
        name: What the run is called.
        console: The terminal.
    """

    def __init__(self, name: str, console: Console) -> None:
        self._name = name
        self._console = console
        self._live: Live | None = None
        self._table = LiveTable(name)

    def start(self) -> None:
        """Begin a table."""
        self.stop()
        self._table = LiveTable(self._name)
        # Without a thread that refreshes it: workers are forked while it is on.
        self._live = Live(self._table, console=self._console, auto_refresh=False)
        self._live.start()

    def show(self, record: Record) -> None:
        """Draw it anew."""
        self._table.update(record)
        if self._live is not None:
            self._live.refresh()

    def stop(self) -> None:
        """Leave the table as it is."""
        if self._live is not None:
            self._live.stop()
        self._live = None


def display_of_run(script: str, sampler: str) -> RunDisplay | None:
    """Return the display of ``negplug run``; None where there is no terminal."""
    console = Console(file=sys.stdout)
    return RunDisplay(f"{script}, {sampler}", console) if is_live(console) else None


def _width(cells: Sequence[tuple[str, str]]) -> int:
    return 2 + sum(3 + max(map(len, cell)) for cell in cells)


def shown_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics that the table has columns for: losses first, negplug's own last."""
    # Lightning logs `loss_step` and `loss_epoch` beside `loss`, which is the latter.
    echoes = {name + end for name in metrics for end in ("_step", "_epoch")}
    names = [name for name in metrics if name not in echoes]
    names.sort(key=lambda name: (name.startswith("negplug/"), "loss" not in name.lower()))
    return {name: metrics[name] for name in names[:_MOST_METRICS]}


def epoch_of(record: Record) -> str:
    """Return which epoch a run is in, ``3/10``; empty if that is unknown."""
    if "epoch" not in record:
        return ""
    # Lightning counts an epoch as completed only after its last hook.
    epoch = record["epoch"] + (record.get("event") != "fit_end")
    of = record.get("max_epochs") or -1
    return f"{min(epoch, of)}/{of}" if of > 0 else str(epoch)


def duration(seconds: float | None) -> str:
    """Return ``1:02:03`` or ``2:03``; a dash for what is unknown."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
