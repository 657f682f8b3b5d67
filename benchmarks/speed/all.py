"""All questions in turn, then the tables of what was measured.

    python benchmarks/speed/all.py

runs each question's script in a process of its own and writes ``speed.md`` beside their CSV files,
and the tables of ``docs/how/cost.md``. A question that fails is named at the end, and the others
run all the same. For figures to publish, have the machine for yourself. ``--quick`` tries
everything out in small. ``--device cuda`` measures a card, into a folder with its name.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import cost_page
import torch
import typer
from devices import CPU, DeviceOption
from harness import RESULTS
from report import write

QUESTIONS = {
    "ceilings": "--seconds 1",
    "in_batch_loss": "--batch-size 256 --seconds 1",
    "queue_loss": "--seconds 1",
    "every_choice": "--batch-size 256 --choice in_batch() --choice emc2(size=4096) --seconds 1",
    "negatives_number": "--num-negatives 4 --num-negatives 64 --seconds 1",
    "chosen_columns": "--pool 512 --seconds 0.1",
    "growth": "--batch-size 256 --batch-size 512 --seconds 1",
    "chain": "--batch-size 256 --seconds 1",
    "emc2_step": "--batch-size 256 --seconds 1",
    "overhead": "--sampler in_batch() --sampler uniform(num_negatives=8) --seconds 1",
    "resnet_step": "--batch-size 4 --sampler in_batch() --seconds 1",
    "step_share": "--epochs 3 --sampler baseline --sampler in_batch()",
    "injection": "--epochs 4",
    "gradient_snr": "--epochs 3",
}
"""Script → its arguments for a quick try."""
ON_CARDS = dict.fromkeys(
    ("in_batch_loss", "every_choice", "growth", "negatives_number", "overhead"), "--seconds 5"
)
"""Script → its arguments on a card, where 200 rounds take seconds."""
NOT_ON_A_CPU = {"resnet_step"}
"""Scripts that take too long there, and whose question others answer."""


def main(
    only: Annotated[list[str] | None, typer.Option(help="one question; repeat for several")] = None,
    device: DeviceOption = CPU,
    threads: Annotated[int, typer.Option(help="torch's threads")] = 2,
    quick: Annotated[bool, typer.Option("--quick", help="small settings, to try it out")] = False,
    results: Annotated[Path, typer.Option(help="folder of tables and plots")] = RESULTS,
) -> None:
    """Measure everything, and write it down beside the targets."""
    if unknown := set(only or ()) - set(QUESTIONS):
        raise typer.BadParameter(f"no question {sorted(unknown)}; there are {list(QUESTIONS)}")
    if quick and results.resolve() == RESULTS.resolve():
        raise typer.BadParameter("--quick gives no figures to keep; name another --results")
    # What a caller's environment asks of negplug is no part of any question.
    environment = {key: os.environ[key] for key in os.environ if not key.startswith("NEGPLUG_")}
    failed = []
    for question in only or _asked_of(device):
        script = Path(__file__).with_name(f"{question}.py")
        command = [sys.executable, str(script), "--device", str(device), "--results", str(results)]
        if question != "overhead":
            command += ["--threads", str(threads)]
        if quick:
            command += QUESTIONS[question].split()
        elif device.type == "cuda":
            command += ON_CARDS.get(question, "").split()
        start = time.perf_counter()
        print(f"\n{question}", flush=True)
        if subprocess.run(command, env=environment).returncode:
            failed.append(question)
        print(f"{question}: {time.perf_counter() - start:.0f} s", flush=True)
    print(write(results))
    if results.resolve() == RESULTS.resolve() and device.type == "cpu":
        print(cost_page.write())
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
        raise typer.Exit(1)


def _asked_of(device: torch.device) -> list[str]:
    return [name for name in QUESTIONS if device.type == "cuda" or name not in NOT_ON_A_CPU]


if __name__ == "__main__":
    typer.run(main)
