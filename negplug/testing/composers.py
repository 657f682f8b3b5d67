"""``check_composer``: what every composer of batches must keep to, third parties' too."""

from __future__ import annotations

from collections.abc import Callable

import torch

from negplug.contract.composer import Composer, Epoch
from negplug.contract.dataset import DatasetAccess
from negplug.contract.draws import Draws
from negplug.plugins.build import make_composer

_WIDTH, _CLASSES = 8, 4
_CPU = torch.device("cpu")


def check_composer(
    composer: str | Callable[[], Composer], *, batch_size: int = 8, samples: int = 48
) -> None:
    """Check a composer: its orders are permutations, and follow from the epoch alone.

    Every column of its data set has four classes.

    Args:
        composer: An expression, or a function without arguments that returns a new composer.
        batch_size: Of all ranks together.
        samples: Size of the data set.

    Raises:
        AssertionError: If a property is violated; says which.
        ValueError, TypeError: If the composer cannot be built.

    Example:
        >>> check_composer("clustered(num_neighbors=5)")
    """
    made = [make_composer(composer) if isinstance(composer, str) else composer() for _ in "ab"]
    torch_before = torch.get_rng_state()
    for count in (samples, samples - batch_size // 2, 1):
        first, again = (_order(each, count, batch_size, 1) for each in made)
        if not torch.equal(first, again) or not torch.equal(
            first, _order(made[0], count, batch_size, 1)
        ):
            raise AssertionError(f"{made[0]} gives another order when it is asked again")
    if torch.equal(
        _order(made[0], samples, batch_size, 2), _order(made[0], samples, batch_size, 1)
    ):
        raise AssertionError(f"{made[0]} gives two epochs the same order")
    if not torch.equal(torch_before, torch.get_rng_state()):
        raise AssertionError(f"{made[0]} draws from torch's own generator; draw from epoch.random")


def _order(composer: Composer, count: int, batch: int, number: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(number)
    samples = torch.randperm(count, generator=generator)
    rows = torch.nn.functional.normalize(torch.randn(count, _WIDTH, generator=generator))
    sizes = (batch,) * (count // batch) + ((count % batch,) if count % batch else ())
    classes = torch.arange(count) % _CLASSES
    data = DatasetAccess(count, column=lambda name: classes)
    given = Epoch(samples, sizes, Draws(0, number).random(-1, _CPU), data, rows)
    before = samples.clone(), rows.clone()
    try:
        order = composer.order(given)
    except Exception as error:
        raise AssertionError(f"{composer} fails: {error}") from error
    if not (torch.equal(samples, before[0]) and torch.equal(rows, before[1])):
        raise AssertionError(f"{composer} writes into what it is given")
    return samples[order]
