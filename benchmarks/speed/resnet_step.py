"""How much longer a training step of a ResNet-18 takes with each sampler than untouched.

    python benchmarks/speed/resnet_step.py --device cuda

writes ``resnet_step.csv`` to the card's folder in ``benchmarks/results``: encoder, loss, backward
pass and optimizer on two views of B random images, with Lightly's ``NTXentLoss`` and with ours in
its place. All losses train the same network in turns. On a card under autocast. On a CPU such a
step takes many seconds at B = 512; ``step_share.py`` and ``injection.py`` ask there.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from devices import CPU, DeviceOption, in_precision, precisions, results_of
from harness import RESULTS, Row, Step, append, interleaved, machine, quantiles, show
from losses import LIGHTLY, TEMPERATURE, lightly, on_device, ours
from overhead import CLASSES, IMAGES
from views import known_samples

sys.path.insert(1, str(Path(__file__).parents[1] / "recipes"))
from backbone import build_backbone

SIDE = 32
DIMENSION = 128
BATCH_SIZES = {"cpu": 16, "cuda": 512}
SAMPLERS = (
    "in_batch()",
    "uniform(num_negatives=16)",
    "queue(size=65536)",
    f"memory_bank(size={IMAGES})",
    "hard(num_negatives=16)",
    f"emc2(size={IMAGES})",
    f"isir(size={IMAGES})",
)


def steps_of(samplers: list[str], batch_size: int, device: torch.device) -> dict[str, Step]:
    """Return a training step for each loss; they share network and images."""
    encoder, features = build_backbone("resnet18", SIDE)
    model = torch.nn.Sequential(encoder, torch.nn.Linear(features, DIMENSION))
    model.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    images = torch.randn(2 * batch_size, 3, SIDE, SIDE).to(device)
    images = images.contiguous(memory_format=torch.channels_last)
    known = known_samples(IMAGES, CLASSES, batch_size, device)
    precision = precisions(device)[-1]

    def step_with(name: str) -> Step:
        untouched = name == LIGHTLY
        built = lightly(TEMPERATURE, "NTXentLoss") if untouched else ours(TEMPERATURE, name)
        loss: Any = on_device(built, device)

        def step() -> None:
            optimizer.zero_grad()
            with in_precision(precision, device):
                views = model(images).chunk(2)
                # The host's loss has no place for what is known of the images.
                value = loss(*views, **({} if untouched else next(known)))
            torch.autograd.backward(value)
            optimizer.step()
            if not untouched:
                loss.end_step()

        return step

    return {name: step_with(name) for name in (LIGHTLY, *samplers)}


def measure(
    samplers: list[str], batch_size: int, threads: int, seconds: float, device: torch.device
) -> list[Row]:
    """Return one row per loss."""
    torch.set_num_threads(threads)
    times = interleaved(steps_of(samplers, batch_size, device), seconds, device=device)
    rows: list[Row] = []
    for name, taken in times.items():
        pairs = zip(taken.first, times[LIGHTLY].first, strict=True)
        added = statistics.median(own / untouched for own, untouched in pairs) - 1
        rows.append(
            {
                "question": "resnet_step",
                "competitor": name,
                "batch_size": batch_size,
                "dtype": precisions(device)[-1],
                **machine(threads, device),
                "rounds": len(taken.first),
                **quantiles(taken.first),
                "added_percent": round(100 * added, 2),
            }
        )
    return rows


def main(
    sampler: Annotated[list[str] | None, typer.Option(help="repeat for several")] = None,
    batch_size: Annotated[int, typer.Option(help="B; 0: 16 on a CPU, 512 on a card")] = 0,
    device: DeviceOption = CPU,
    threads: Annotated[int, typer.Option(help="torch's threads")] = 2,
    seconds: Annotated[float, typer.Option(help="time in all, at five rounds least")] = 20,
    results: Annotated[Path, typer.Option(help="folder of the table")] = RESULTS,
) -> None:
    """Training steps of a ResNet-18, beside the untouched one."""
    size = batch_size or BATCH_SIZES[device.type]
    rows = measure(sampler or list(SAMPLERS), size, threads, seconds, device)
    append(rows, results_of(results, device))
    columns = {
        "competitor": "loss",
        "median_ms": "step, ms",
        "q20_ms": "20 %",
        "q80_ms": "80 %",
        "added_percent": "added, %",
    }
    show(f"ResNet-18, B = {size}, {rows[0]['rounds']} rounds", rows, columns)


if __name__ == "__main__":
    typer.run(main)
