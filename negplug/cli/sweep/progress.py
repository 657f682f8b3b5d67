"""Where a sweep stands: a bar in a terminal, a line per event elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from negplug.cli.child import METRICS_FILE
from negplug.cli.sweep.study import Run
from negplug.hosts.trainer.recording import Record

# Of the lines of a run that cannot be used; a script may write the same fault at every step.
_MOST_FAULTS = 5


class SweepProgress:
    """The display of one sweep, on between ``with`` and its end.

    Args:
        total: Number of runs in the grid.
        finished: How many of them were finished before.
    """

    def __init__(self, total: int, finished: int) -> None:
        self._total = total
        self._done = finished
        self._waits = False
        self._console = Console(markup=False, highlight=False, soft_wrap=True)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[epoch]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("sweep", total=total, completed=finished, epoch="")

    def __enter__(self) -> SweepProgress:
        if self._done:
            self._console.print(f"{self._done} of {self._total} runs were finished before.")
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def started(self, run: Run) -> None:
        """Show which run is in progress."""
        self._waits = False
        self._bar.update(self._task, description=str(run), epoch="")
        if not self._console.is_terminal:
            self._console.print(f"{run}: started")

    def tick(self, last: Record | None) -> None:
        """Show how far the run in progress is, from what it has recorded last."""
        self._bar.update(self._task, epoch=_epoch(last or {}))

    def told(self, run: Run, faults: Sequence[str]) -> None:
        """Show what could not be used of a run's metrics, the first few of it."""
        for fault in faults[:_MOST_FAULTS]:
            self._console.print(f"{run}: {METRICS_FILE}, {fault}; left out")
        if len(faults) > _MOST_FAULTS:
            self._console.print(f"{run}: and {len(faults) - _MOST_FAULTS} more")

    def ended(self, run: Run, how: str) -> None:
        """Tell how a run ended."""
        self._done += 1
        self._bar.update(self._task, completed=self._done, epoch="")
        self._console.print(f"[{self._done}/{self._total}] {run}: {how}")

    def waiting(self, runs: Sequence[Run]) -> None:
        """Tell once that what is left is in other hands."""
        if not self._waits:
            what = "; ".join(map(str, runs))
            self._console.print(f"Waiting for what another sweep runs, or was killed in: {what}")
        self._waits = True


def _epoch(last: Record) -> str:
    """Where a run stands, from the last line that it recorded."""
    if "epoch" not in last:
        return ""
    # Lightning counts an epoch as completed only after its last hook.
    epoch = last["epoch"] + (last.get("event") != "fit_end")
    of = last.get("max_epochs") or -1
    return f"epoch {min(epoch, of)}/{of}" if of > 0 else f"epoch {epoch}"
