"""Where a sweep stands: a live table in a terminal, a line per event elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from negplug.cli.child import METRICS_FILE
from negplug.cli.live import LiveTable, duration, is_live
from negplug.cli.sweep.trials import Run
from negplug.hosts.trainer.recording import Record

# Of the lines of a run that cannot be used; a script may write the same fault at every step.
_MOST_FAULTS = 5


class SweepProgress:
    """The display of one sweep, on between ``with`` and its end.

    Args:
        total: Number of runs in the grid.
        finished: How many of them were finished before.

    Attributes:
        live: Whether it shows where the run in progress stands.
    """

    def __init__(self, total: int, finished: int) -> None:
        self._total = total
        self._done = self._before = finished
        self._waits = False
        self._console = Console(markup=False, highlight=False, soft_wrap=True)
        self.live = is_live(self._console)
        self._began = self._started = time.monotonic()
        self._spent = 0.0  # by the runs that were done here
        self._run: LiveTable | None = None
        self._live = Live(console=self._console, get_renderable=self._drawn, refresh_per_second=2)

    def __enter__(self) -> SweepProgress:
        if self._done:
            self._console.print(f"{self._done} of {self._total} runs were finished before.")
        if self.live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self._live.stop()

    def started(self, run: Run) -> None:
        """Show which run is in progress."""
        self._waits = False
        self._run, self._started = LiveTable(str(run)), time.monotonic()
        if not self.live:
            self._console.print(f"{run}: started")

    def tick(self, last: Record | None) -> None:
        """Show how far the run in progress is, from what it has recorded last."""
        if self._run is not None and last is not None:
            self._run.update(last)

    def told(self, run: Run, faults: Sequence[str]) -> None:
        """Show what could not be used of a run's metrics, the first few of it."""
        for fault in faults[:_MOST_FAULTS]:
            self._console.print(f"{run}: {METRICS_FILE}, {fault}; left out")
        if len(faults) > _MOST_FAULTS:
            self._console.print(f"{run}: and {len(faults) - _MOST_FAULTS} more")

    def ended(self, run: Run, how: str) -> None:
        """Tell how a run ended."""
        self._done += 1
        self._spent += time.monotonic() - self._started
        self._run = None
        self._console.print(f"[{self._done}/{self._total}] {run}: {how}")

    def waiting(self, runs: Sequence[Run]) -> None:
        """Tell once that what is left is in other hands."""
        if not self._waits:
            what = "; ".join(map(str, runs))
            self._console.print(f"Waiting for what another sweep runs, or was killed in: {what}")
        self._waits = True

    @property
    def _seconds_left(self) -> float | None:
        """Seconds until the end of the sweep, if all runs take what those here took."""
        here, rest = self._done - self._before, self._total - self._done
        if self._run is None:
            return rest * self._spent / here if here else None
        elapsed, left = time.monotonic() - self._started, self._run.seconds_left
        if not here:
            return None if left is None else left + (rest - 1) * (elapsed + left)
        each = self._spent / here
        return (max(0.0, each - elapsed) if left is None else left) + (rest - 1) * each

    def _drawn(self) -> Group:
        line = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=self._total, completed=self._done, width=24)
        clock = f"{duration(time.monotonic() - self._began)}, {duration(self._seconds_left)} left"
        line.add_row(Text("sweep"), bar, Text(f"{self._done}/{self._total}"), Text(clock))
        return Group(line) if self._run is None else Group(self._run, line)
