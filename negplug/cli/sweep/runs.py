"""The runs of a sweep, one after the other, each a child process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from negplug.cli.child import METRICS_FILE, RunFailedError, run_child
from negplug.cli.sweep.command import run_folder
from negplug.cli.sweep.progress import SweepProgress
from negplug.cli.sweep.recorded import batch_size_of, curve_of, step_seconds_of
from negplug.cli.sweep.study import SweepStudy
from negplug.cli.sweep.trials import Result, Run, StoppedEarlyError
from negplug.hosts.trainer.recording import Record, read_recording

#: Told the records of a run while it goes on and at its end; ends it by raising.
Observer = Callable[[Sequence[Record]], None]


def do_runs(
    runs: Sequence[Run],
    study: SweepStudy,
    command_of: Callable[[Run], Sequence[str]],
    keep: Callable[[], None],
    out: Path,
    timeout: float | None,
    observed: Callable[[], Observer] | None = None,
) -> None:
    """Do the runs that are still to do, showing where they stand.

    Args:
        runs: All runs of the sweep.
        study: Says which of them are left.
        command_of: Returns the ``negplug run …`` of a run.
        keep: Writes what is finished, for ``results.csv`` grows with each run.
        out: Folder of the sweep.
        timeout: Seconds after which a run has failed.
        observed: Makes the observer of a run.
    """
    finished = {*(result.run for result in study.results()), *study.stopped()}.intersection(runs)
    with SweepProgress(total=len(runs), finished=len(finished)) as progress:

        def execute(run: Run) -> Result:
            # What ran before this run is in the study by now.
            keep()
            directory = out / "runs" / run_folder(run)
            observe = observed() if observed is not None else None

            def tick(last: Record | None) -> None:
                progress.tick(last)
                if observe is not None:
                    observe(read_recording(directory / METRICS_FILE).records)

            progress.started(run)
            begin = time.monotonic()
            try:
                run_child(command_of(run), directory, tick, timeout, progress.live)
                tick(None)  # what it has recorded since the last time
            except RunFailedError:
                progress.ended(run, "failed")
                raise
            except StoppedEarlyError as stop:
                progress.ended(run, str(stop))
                raise
            seconds = time.monotonic() - begin
            progress.ended(run, f"finished in {seconds:.1f} s")
            recording = read_recording(directory / METRICS_FILE)
            progress.told(run, recording.faults)
            records, metrics = recording.records, recording.final_metrics()
            curve = curve_of(records, "negplug/gradient_snr")
            size, step = batch_size_of(records), step_seconds_of(records)
            return Result(run, seconds, metrics, curve, size, step)

        study.work(runs, execute, progress.waiting)
