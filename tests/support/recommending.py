"""Recommendations whose runs are real processes that take no time: they write what a recipe logs.

A run's metric depends on its sampler, its seed and its epoch; files named in `control` steer it.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from systems import skip_without_process_groups

CHILD = """
import json, os, sys, time
sampler, seed, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
name = sampler.split("(")[0] + "-" + str(seed)
attempt = len([each for each in os.listdir(f"{folder}/starts") if each.startswith(name)])
open(f"{folder}/starts/{name}-{os.getpid()}", "w").close()
if os.path.exists(f"{folder}/control/fail-{name}"):
    raise SystemExit("out of luck")
steered = json.load(open(f"{folder}/steered.json"))
level = 0.5 + steered["bonus"].get(sampler.split("(")[0], 0.0) - 0.01 * attempt
level += steered["seeds"] * (0.1 * seed + 0.001 * ((len(sampler) + seed * seed) % 3))
epochs = steered.get("epochs", 9)
for epoch in range(epochs):
    line = {"epoch": epoch, "step": 10 * epoch + 10, "metrics": {"loss": 2.0}, **steered["said"]}
    line["train_seconds"] = (epoch + 1) * (0.3 if "queue" in sampler else 0.2)
    if epoch == epochs - 1 or not steered.get("late"):
        line["metrics"]["val_acc"] = level + 0.01 * epoch
    with open(os.environ["NEGPLUG_METRICS"], "a") as file:
        print(json.dumps(line), file=file)
    for _ in range(1200):
        if epoch != 4 or not os.path.exists(f"{folder}/control/hang-{name}"):
            break
        time.sleep(0.05)
"""


def child_command(folder: Path, sampler: str, seed: int) -> list[str]:
    """The command of a run; Python without what it looks for at its start is there at once."""
    return [sys.executable, "-I", "-S", "-c", CHILD, sampler, str(seed), str(folder)]


def prepared(folder: Path, bonus: dict[str, float], seeds: float = 1.0, **steered: Any) -> Path:
    """Prepare a folder for runs.

    Args:
        folder: The folder.
        bonus: What samplers add to the metric, by name.
        seeds: What seeds make of a difference.
        steered: Number of `epochs`; whether the metric is logged `late`; what else is `said`.
    """
    for name in ("starts", "control"):
        (folder / name).mkdir()
    said = {"said": {"batch_size": 32}, "bonus": bonus, "seeds": seeds, **steered}
    (folder / "steered.json").write_text(json.dumps(said))
    return folder


def bench(folder: Path, metric: str = "val_acc", minimize: bool = False) -> Any:
    """The bench of a prepared folder."""
    from negplug.cli.recommend.bench import Bench
    from negplug.cli.recommend.choice import RecommendSettings
    from negplug.cli.sweep.study import SweepStudy

    skip_without_process_groups()
    settings = RecommendSettings(
        "train.py", ("--seed", "{seed}"), None, None, metric=metric, minimize=minimize
    )
    (folder / "out").mkdir(exist_ok=True)
    study = SweepStudy(folder / "out" / "study.db", "recommend", settings, minimize)
    command_of = partial(_command_of, folder)
    return Bench(study, settings, "train.py", folder / "out", command_of=command_of)


def _command_of(folder: Path, run: Any, settings: object) -> list[str]:
    return child_command(folder, run.sampler, run.seed)


def starts(folder: Path) -> list[str]:
    """Sampler and seed of every start, sorted."""
    return sorted(path.name.rpartition("-")[0] for path in (folder / "starts").iterdir())
