"""Is the mean of an estimator's gradient the gradient of the global loss?

    python benchmarks/studies/emc2/bias.py

The embeddings are frozen, so that nothing but the estimator is measured. A table of the
embeddings of n images with two fixed views (:mod:`embeddings`) is the only parameter; shuffled
epochs of small batches run through each estimator as training would, and the gradient with
respect to the table is added up. An epoch holds every anchor once: with loss ℓ_t the mean over
the 2B anchors of step t, the epoch's estimate is

    g = (B/n) · Σ_t ∇ℓ_t,      to be compared with ∇L, the mean over all 2n anchors.

The relative error of the mean of g over E epochs falls like 1/√E without bias, and stays at the
bias otherwise. Writes ``emc2_bias.csv`` and ``emc2_bias_digits.png`` (or ``…_clusters.png``) to
``benchmarks/results``.
"""

from __future__ import annotations

import functools
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from bias_figure import draw
from data import shuffled_batches
from embeddings import EMBEDDINGS
from estimators import ESTIMATORS, chosen, described
from exact import embedding_gradient
from neighbours import RESULTS, Row, completed, machine, show
from torch import Tensor

DEFAULT = tuple(name for name in ESTIMATORS if not name.startswith("uniform"))
"""All but the one that says the same as ``in_batch()`` with more noise."""

FIRST_CHECKPOINT = 50
WARM_UP = 10  # epochs that fill queues and let chains start


@dataclass(frozen=True)
class Setting:
    """What all epochs of one measurement share.

    Attributes:
        estimator: Name in :data:`estimators.ESTIMATORS`.
        temperature: τ.
        size: n, number of images.
        batch_size: B.
        epochs: Measured ones, after the warm-up.
        seed: Of shuffling and of the estimator's draws.
        embeddings: Name in :data:`embeddings.EMBEDDINGS`.
    """

    estimator: str
    temperature: float
    size: int
    batch_size: int
    epochs: int
    seed: int
    embeddings: str


def measure(setting: Setting, frozen: Tensor) -> list[Row]:
    """Return one row per checkpoint.

    Args:
        setting: What to measure.
        frozen: Embeddings, ``[n, 2, d]``.
    """
    torch.set_num_threads(1)
    started = time.perf_counter()
    target = embedding_gradient(frozen.double(), setting.temperature)
    table = frozen.clone().requires_grad_()
    build = ESTIMATORS[setting.estimator]
    estimator = build(setting.size, setting.temperature, setting.seed)

    def encode(indexes: Tensor) -> tuple[Tensor, Tensor]:
        rows = table[indexes]
        return rows[:, 0], rows[:, 1]

    generator = torch.Generator().manual_seed(setting.seed)
    total, squares = torch.zeros_like(target), 0.0
    checkpoint = FIRST_CHECKPOINT
    rows: list[Row] = []
    for epoch in range(1 - WARM_UP, setting.epochs + 1):
        table.grad = None
        for indexes in shuffled_batches(setting.size, setting.batch_size, generator):
            loss = estimator(*encode(indexes), indexes=indexes, encode=encode)
            torch.autograd.backward(loss)
        if epoch < 1:
            continue
        assert table.grad is not None
        estimate = table.grad.double() * (setting.batch_size / setting.size)
        total += estimate
        squares += float(estimate.square().sum())
        if epoch == min(checkpoint, setting.epochs):
            rows.append(_row(setting, epoch, total / epoch, squares / epoch, target))
            rows[-1]["seconds"] = round(time.perf_counter() - started, 1)
            checkpoint *= 2
    return rows


def _row(setting: Setting, epoch: int, mean: Tensor, mean_square: float, target: Tensor) -> Row:
    """Return a row of the CSV."""
    norm = target.norm()
    variance = (mean_square - mean.square().sum()) * epoch / max(epoch - 1, 1)
    return {
        "question": "emc2_bias",
        **asdict(setting),
        "averaged": epoch,
        "expression": described(setting.estimator),
        "d": target.shape[2],
        "warm_up": WARM_UP,
        "relative_error": round(float((mean - target).norm() / norm), 4),
        "cosine": round(float((mean * target).sum() / (mean.norm() * norm)), 4),
        # Of one epoch's gradient, in units of the exact gradient's squared norm.
        "epoch_variance": round(float(variance / norm**2), 3),
        "exact_norm": round(float(norm), 5),
        **machine(1),
    }


def report(rows: list[Row]) -> None:
    """Print a table per temperature: the error at each checkpoint, and what goes with the last."""
    for temperature in dict.fromkeys(row["temperature"] for row in rows):
        own = [row for row in rows if row["temperature"] == temperature]
        lines: dict[object, Row] = {}
        for row in own:
            line = lines.setdefault(row["estimator"], {"competitor": row["estimator"]})
            line[f"error {row['averaged']}"] = row["relative_error"]
            line |= {key: row[key] for key in ("cosine", "epoch_variance", "seconds")}
        errors = [f"error {epochs}" for epochs in dict.fromkeys(row["averaged"] for row in own)]
        columns = {"competitor": "estimator"} | dict(zip(errors, errors, strict=True))
        columns |= {"cosine": "cosine", "epoch_variance": "variance", "seconds": "s"}
        first = own[0]
        sizes = f"τ = {temperature}, n = {first['size']}, B = {first['batch_size']}"
        title = f"{first['embeddings']}, {sizes}: relative error after E epochs"
        show(title, list(lines.values()), columns)


def main(
    embeddings: Annotated[str, typer.Option(help=" or ".join(EMBEDDINGS))] = "digits",
    estimator: Annotated[list[str] | None, typer.Option(help="repeat for several")] = None,
    temperature: Annotated[list[float] | None, typer.Option(help="repeat for several")] = None,
    size: Annotated[int, typer.Option(help="n, number of images")] = 256,
    batch_size: Annotated[int, typer.Option(help="B")] = 8,
    epochs: Annotated[int, typer.Option(help="per estimator and temperature")] = 400,
    seed: Annotated[int, typer.Option(help="of shuffling and draws")] = 0,
    processes: Annotated[int, typer.Option(help="measurements at a time")] = 2,
    results: Annotated[Path, typer.Option(help="folder of table and plot")] = RESULTS,
) -> None:
    """Error of the mean gradient of each estimator against the exact gradient."""
    if embeddings not in EMBEDDINGS:
        known = ", ".join(EMBEDDINGS)
        raise ValueError(f"there are no embeddings {embeddings!r}; choose from {known}")
    settings = [
        Setting(name, tau, size, batch_size, epochs, seed, embeddings)
        for tau in temperature or (1.0, 0.2, 0.07)
        for name in chosen(estimator, DEFAULT)
    ]
    if size % batch_size:
        raise ValueError(
            f"batch_size={batch_size} must divide size={size}: an epoch is all anchors"
        )
    frozen = functools.partial(measure, frozen=EMBEDDINGS[embeddings](size))
    rows = completed("emc2_bias", settings, frozen, processes, results)
    report(rows)
    print(draw(rows, results / f"emc2_bias_{embeddings}.png"))


if __name__ == "__main__":
    typer.run(main)
