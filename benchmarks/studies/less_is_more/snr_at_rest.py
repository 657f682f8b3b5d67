"""The gradient's signal-to-noise ratio by number of negatives, with the parameters at rest.

    python benchmarks/studies/less_is_more/snr_at_rest.py

In a short run the ratio from moving moments is mostly that of pure noise: over n steps even a
gradient of mean zero has E|mean|/std = √(2/(πn)). Here the network stands still, and n batches
give n gradients for every number of negatives, from the same batches, views and embeddings:

- ``snr``: |mean|/std of each parameter, averaged over the parameters, as the paper has it;
- ``floor``: what of it remains if every mean were zero;
- ``signal``: ‖E g‖²/tr Cov g, the squared ratio of the whole gradient, without that bias:
  (‖ḡ‖² − v/n)/v with v the summed sample variance.

The network is that of the Lightly recipe, trained with all negatives for a few epochs, and for
more. ``less_is_more_snr.csv`` goes to ``benchmarks/results``.
"""

from __future__ import annotations

import functools
import math
import sys
from pathlib import Path
from typing import Annotated

import pytorch_lightning as pl
import torch
import typer
from torch import Tensor
from torch.utils.data import DataLoader

import negplug

sys.path.insert(1, str(Path(__file__).parents[2] / "recipes"))
sys.path.insert(1, str(Path(__file__).parents[2] / "speed"))
from datasets import MEAN, STD, build_dataset
from harness import RESULTS, Row, append, machine, show
from lightly.transforms.simclr_transform import SimCLRTransform
from lightly_simclr import SimCLR

NUMBERS = (1, 2, 5, 10, 50, 100, None)
OBJECTIVES = ("infonce()", "relic(alpha=1)")
TEMPERATURE = 0.1
BATCH_SIZE = 128
IMAGES = 1024


def batches() -> DataLoader[tuple[list[Tensor], Tensor]]:
    """Return the recipe's batches of views."""
    views = SimCLRTransform(
        input_size=32,
        cj_strength=0.5,
        min_scale=0.6,
        gaussian_blur=0.0,
        hf_prob=0.0,
        normalize={"mean": list(MEAN), "std": list(STD)},
    )
    images = build_dataset("digits", True, views, size=IMAGES, unlabeled=True)
    return DataLoader(images, BATCH_SIZE, shuffle=True, drop_last=True)


def trained(epochs: int, seed: int) -> SimCLR:
    """Return the recipe's network after some epochs with all negatives."""
    pl.seed_everything(seed, verbose=False)
    model = SimCLR("small", 32, 2e-3, TEMPERATURE)
    if epochs:
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, batches())
    return model.train()


class Moments:
    """Sums of the gradients of all parameters, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def add(self, gradient: Tensor) -> None:
        """Take one batch's gradient."""
        self.count += 1
        self.total = self.total + gradient
        self.squares = self.squares + gradient**2

    def ratios(self) -> dict[str, float]:
        """Return what the module describes."""
        mean = torch.as_tensor(self.total / self.count)
        variance = torch.as_tensor(self.squares / self.count) - mean**2
        moving = variance > 1e-9 * mean**2  # one that no loss reaches has neither
        snr = (mean.abs() / variance.sqrt())[moving]
        noise = float(variance.sum()) * self.count / (self.count - 1)
        return {
            "snr": float(snr.mean()),
            "snr_std": float(snr.std()),
            "floor": math.sqrt(2 / (math.pi * self.count)),
            "signal": (float(mean.square().sum()) - noise / self.count) / noise,
        }


def measure(epochs: int, seed: int, steps: int) -> list[Row]:
    """Return one row per objective and number of negatives."""
    model = trained(epochs, seed)
    asked = [(objective, number) for objective in OBJECTIVES for number in NUMBERS]
    losses = [
        negplug.ContrastiveLoss(
            "in_batch()" if number is None else f"uniform(num_negatives={number})",
            objective,
            temperature=TEMPERATURE,
            seed=seed,
        )
        for objective, number in asked
    ]
    moments = [Moments() for _ in asked]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    loader = batches()
    for step in range(steps):
        if step % len(loader) == 0:
            order = iter(loader)
        views, *_ = next(order)
        z = model.projection_head(model(torch.cat(views)))
        for loss, seen in zip(losses, moments, strict=True):
            gradient = torch.autograd.grad(loss(*z.chunk(2)), parameters, retain_graph=True)
            seen.add(torch.cat([part.reshape(-1) for part in gradient]).double())
    return [
        {
            "question": "less_is_more_snr",
            "objective": objective,
            "num_negatives": 2 * BATCH_SIZE - 2 if number is None else number,
            "temperature": TEMPERATURE,
            "epochs": epochs,
            "seed": seed,
            "batches": steps,
            "batch_size": BATCH_SIZE,
            **machine(torch.get_num_threads()),
            **{name: round(value, 5) for name, value in seen.ratios().items()},
        }
        for (objective, number), seen in zip(asked, moments, strict=True)
    ]


def main(
    epochs: Annotated[list[int] | None, typer.Option(help="trained before; repeat")] = None,
    seeds: Annotated[int, typer.Option(help="networks")] = 2,
    steps: Annotated[int, typer.Option(help="gradients of each, n")] = 64,
    threads: Annotated[int, typer.Option(help="of torch")] = 2,
    results: Annotated[Path, typer.Option(help="folder of the table")] = RESULTS,
) -> None:
    """SNR of the gradient at fixed parameters, for each number of negatives."""
    torch.set_num_threads(threads)
    measured = functools.partial(measure, steps=steps)
    for trained_for in epochs or (2, 16):
        for seed in range(seeds):
            rows = measured(trained_for, seed)
            append(rows, results)
            headings = ("objective", "num_negatives", "snr", "snr_std", "floor", "signal")
            title = f"after {trained_for} epochs, seed {seed}"
            show(title, rows, {heading: heading for heading in headings})


if __name__ == "__main__":
    typer.run(main)
