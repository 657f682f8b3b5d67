"""Which negatives help, by how much: one recipe, many choices, three batch sizes.

Usage: python study.py
       python study.py --data cameras --train-size 3000 --epochs 8
       python study.py --recipe moco --batch-size 32 --data cameras --train-size 3000 --epochs 8
       python study.py --device cuda --processes 4 --train-size 55000 --epochs 30 --width 48

Protocol. Every choice is tuned over the same number of temperatures, by linear accuracy on images
that are neither of the training nor of the test, with a seed that is used for nothing else. At the
best temperature it is trained with further seeds and scored once on the test set. A choice is
compared with the untouched recipe at that recipe's own best temperature, seed by seed: the same
weights to begin with, and the same batches and views unless batches are composed.

Of some twenty choices the best looks better than it is: ``--again`` trains some of them with
fifteen seeds that nothing was chosen by.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from choices import CHOICES, COLUMNS, RECIPES, TUNED, UNTOUCHED, choices_for
from neighbours import RESULTS, completed
from summary import AGAIN, best_temperatures, table
from training import QUESTION, Run, train

TUNING_SEED = 1_000


def main(
    data: Annotated[str, typer.Option(help="fashion-mnist or cameras")] = "fashion-mnist",
    batch_size: Annotated[list[int] | None, typer.Option(help="B; repeat for several")] = None,
    choice: Annotated[list[str] | None, typer.Option(help="repeat for several")] = None,
    recipe: Annotated[str, typer.Option(help="simclr or moco")] = "simclr",
    again: Annotated[bool, typer.Option("--again", help="with fifteen new seeds")] = False,
    seeds: Annotated[int, typer.Option(help="on the test set, paired")] = 5,
    train_size: Annotated[int, typer.Option(help="images to train on")] = 4_000,
    epochs: Annotated[int, typer.Option(help="of each run")] = 6,
    width: Annotated[int, typer.Option(help="channels of the first convolution")] = 16,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    processes: Annotated[int, typer.Option(help="runs at a time, one thread each")] = 2,
    results: Annotated[Path, typer.Option(help="folder of table and plot")] = RESULTS,
) -> None:
    """Tune every choice on the validation split, then compare on the test set."""
    if data not in COLUMNS:
        raise typer.BadParameter(f"no data set {data!r}; there are: {', '.join(COLUMNS)}")
    if recipe not in RECIPES:
        raise typer.BadParameter(f"no recipe {recipe!r}; there are: {', '.join(RECIPES)}")
    names = choices_for(data, recipe)
    if unknown := set(choice or ()) - set(names):
        raise typer.BadParameter(f"no choice {min(unknown)!r}; there are: {', '.join(names)}")
    if choice:
        names = [
            name for name in names if name in (*choice, TUNED, *(() if again else (UNTOUCHED,)))
        ]
    rest = (train_size, epochs, width, device)
    sizes = batch_size or [32, 128, 512]
    for size in sizes:
        tuning = [
            Run(recipe, data, size, name, temperature, "validation", TUNING_SEED, *rest)
            for name in names
            for temperature in CHOICES[name].temperatures
        ]
        best = best_temperatures(completed(QUESTION, tuning, train, processes, results))
        scored = [
            Run(recipe, data, size, name, best[name], "test", seed, *rest)
            for name in names
            for seed in (AGAIN if again else range(seeds))
        ]
        rows = completed(QUESTION, scored, train, processes, results)
        print(table(rows))


if __name__ == "__main__":
    typer.run(main)
