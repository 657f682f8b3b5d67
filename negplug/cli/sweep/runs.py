"""The runs of a sweep, one after the other, each a child process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from negplug.cli.child import METRICS_FILE, RunFailedError, run_child
from negplug.cli.sweep.command import run_command, run_folder
from negplug.cli.sweep.curve import curve_of
from negplug.cli.sweep.progress import SweepProgress
from negplug.cli.sweep.results import write_csv
from negplug.cli.sweep.study import Result, Run, Settings, SweepStudy
from negplug.cli.sweep.summary import Summary
from negplug.hosts.trainer.recording import read_recording


def do_runs(
    runs: Sequence[Run],
    study: SweepStudy,
    settings: Settings,
    summarize: Callable[[], Summary],
    out: Path,
    timeout: float | None = None,
) -> None:
    """Do the runs that are still to do, showing where they stand.

    Args:
        runs: All runs of the sweep.
        study: Says which of them are left.
        settings: What all runs share.
        summarize: Returns what is finished, for ``results.csv``, which grows with each run.
        out: Folder of the sweep.
        timeout: Seconds after which a run has failed.
    """
    finished = {result.run for result in study.results()}.intersection(runs)
    with SweepProgress(total=len(runs), finished=len(finished)) as progress:

        def execute(run: Run) -> Result:
            # What ran before this run is in the study by now.
            write_csv(summarize(), out / "results.csv")
            directory = out / "runs" / run_folder(run)
            progress.started(run)
            begin = time.monotonic()
            try:
                command = run_command(run, settings)
                run_child(command, directory, progress.tick, timeout, progress.live)
            except RunFailedError:
                progress.ended(run, "failed")
                raise
            seconds = time.monotonic() - begin
            progress.ended(run, f"finished in {seconds:.1f} s")
            recording = read_recording(directory / METRICS_FILE)
            progress.told(run, recording.faults)
            curve = curve_of(recording.records, "negplug/gradient_snr")
            return Result(run, seconds, recording.final_metrics(), curve)

        study.work(runs, execute, progress.waiting)
