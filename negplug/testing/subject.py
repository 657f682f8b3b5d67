"""The sampler under test, the data it is given, and what is seen of a step.

The data set is small enough that every sample comes back within a few steps, so that a memory
meets the earlier keys of its anchors. Views are noisy and fresh in every step: no two embeddings
of a run are equal, and a row of a pool tells by its bits which sample it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.dataset import DatasetAccess
from negplug.contract.negatives import Choice, Columns, Mixtures, Negatives, Whole
from negplug.contract.rows import Rows
from negplug.contract.sampler import NegativeSampler
from negplug.loss.contrastive import ContrastiveLoss
from negplug.plugins.build import make_sampler

WIDTH = 8
CLASSES = 4
TEMPERATURE = 0.2

Form = Literal["views", "pairs"]


@dataclass(frozen=True)
class Subject:
    """A sampler and how to try it.

    Attributes:
        sampler: An expression, or a function without arguments that returns a new sampler.
        objective: Serves the estimator of the sampler's negatives.
        batch_size: B, samples of a batch; two views of each.
        samples: Size of the data set.
        ranks: Processes of the checks that compare ranks; below 2 leaves these checks out.
        timeout: Seconds after which a rank that waits for another one counts as hanging.
        device: Where batches and losses are; ranks compute on the CPU.

    Raises:
        ValueError: If torch has no such device here.
    """

    sampler: str | Callable[[], NegativeSampler]
    objective: str = "infonce()"
    batch_size: int = 16
    samples: int = 48
    ranks: int = 2
    timeout: float = 30.0
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"torch has no device={str(self.device)!r} here: {reason}") from error

    def __str__(self) -> str:
        if isinstance(self.sampler, str):
            return self.sampler
        return getattr(self.sampler, "__name__", repr(self.sampler))

    def loss(self, seed: int = 0, temperature: float = TEMPERATURE) -> ContrastiveLoss:
        """Return a new loss with a new sampler."""
        return ContrastiveLoss(self.new(), self.objective, temperature, seed).to(self.device)

    def new(self) -> NegativeSampler:
        """Return a new sampler."""
        return make_sampler(self.sampler) if isinstance(self.sampler, str) else self.sampler()

    def indexes(self, number: int, size: int | None = None) -> Tensor:
        """Return the data set indexes ``[B]`` of a batch: epochs in random order.

        Every third batch holds a sample twice.
        """
        place = torch.arange(number * self.batch_size, (number + 1) * self.batch_size)
        epochs = [
            torch.randperm(self.samples, generator=_generator(1, int(epoch)))
            for epoch in range(int(place[-1]) // self.samples + 1)
        ]
        chosen = torch.cat(epochs)[place]
        if number % 3 == 1:
            chosen[-1] = chosen[0]
        return chosen[:size]

    def labels(self, indexes: Tensor) -> Tensor:
        """Return the metadata of samples."""
        return indexes % CLASSES

    def views(
        self, number: int, size: int | None = None, dtype: torch.dtype = torch.float64
    ) -> tuple[Tensor, Tensor]:
        """Return the embeddings ``[B, d]`` of the two views of a batch."""
        base = torch.randn(self.samples, WIDTH, dtype=torch.float64, generator=_generator(2))
        base = base[self.indexes(number)]
        first, second = (
            (base + 0.5 * torch.randn(base.shape, dtype=base.dtype, generator=generator))[:size]
            for generator in (_generator(3, number), _generator(4, number))
        )
        # Drawn on the CPU: the same numbers everywhere.
        return first.to(self.device, dtype), second.to(self.device, dtype)

    def encode(self, indexes: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings ``[n, d]`` of two views of any samples of the data set."""
        shape = (2, self.samples, WIDTH)
        table = torch.randn(shape, dtype=torch.float64, generator=_generator(5))
        first, second = table[:, indexes.cpu()].to(indexes.device)
        return first, second

    def batch(
        self, views: tuple[Tensor, Tensor], number: int, form: Form = "views"
    ) -> ContrastiveBatch:
        """Return the batch of a symmetric loss (views), or of a one-directional one (pairs)."""
        indexes = self.indexes(number, len(views[0])).to(views[0].device)
        labels = self.labels(indexes)
        if form == "pairs":
            batch = ContrastiveBatch.from_pairs(*views, indexes, labels)
        else:
            batch = ContrastiveBatch.from_views(views, indexes, labels)
        return batch.within(dataset=DatasetAccess(self.samples, self.encode))


@dataclass
class Step:
    """One call of a loss.

    Attributes:
        views: The leaves, ``[B, d]`` each.
        batch: As the sampler saw it, with its graph.
        negatives: As the sampler returned them, with their graph.
        values: A copy of the negatives, as nested built-in types and detached tensors.
        loss: Scalar, with its graph until the step is closed.
        gradient: ``[2, B, d]``, of the loss by the views; set when the step is closed.
    """

    views: tuple[Tensor, Tensor]
    batch: ContrastiveBatch
    negatives: tuple[Negatives, ...]
    values: list[dict[str, Any]]
    loss: Tensor
    gradient: Tensor | None = None

    def outcome(self) -> dict[str, Any]:
        """Return all that a second run must repeat."""
        return {"negatives": self.values, "loss": self.loss.detach(), "gradient": self.gradient}


def call(
    subject: Subject,
    loss: ContrastiveLoss,
    number: int,
    *,
    form: Form = "views",
    size: int | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    training: bool = True,
) -> Step:
    """Call the loss with batch ``number`` and keep what its sampler was asked and said."""
    first, second = subject.views(number, size, dtype)
    if device is not None:
        first, second = first.to(device), second.to(device)
    views = (first.requires_grad_(training), second.requires_grad_(training))
    seen: list[tuple[ContrastiveBatch, tuple[Negatives, ...], list[dict[str, Any]]]] = []
    hook = loss.objective.register_forward_pre_hook(
        lambda _, given: insist_on_rows_of_the_pool(given[1])
    )
    # Which sampler serves the call is the loss's own affair, and so is what its objective is given.
    loss.witness = lambda batch, pools: seen.append((batch, pools, copied(pools)))
    try:
        with torch.set_grad_enabled(training):
            value = loss.contrast(subject.batch(views, number, form))
    finally:
        hook.remove()
        loss.witness = None
    return Step(views, *seen[0], value)


def close(loss: ContrastiveLoss, step: Step) -> Step:
    """Do the backward pass and end the training step."""
    step.loss.backward()  # type: ignore[no-untyped-call]
    step.gradient = torch.stack([_gradient(view) for view in step.views])
    loss.end_step()
    return step


def train(
    subject: Subject, loss: ContrastiveLoss, numbers: Iterable[int], **kwargs: Any
) -> list[Step]:
    """Train on some batches, one step each."""
    return [close(loss, call(subject, loss, number, **kwargs)) for number in numbers]


def evaluate(subject: Subject, loss: ContrastiveLoss, number: int, **kwargs: Any) -> Step:
    """Call the loss as an evaluation does."""
    loss.eval()
    try:
        return call(subject, loss, number, training=False, **kwargs)
    finally:
        loss.train()


def insist_on_rows_of_the_pool(negatives: Sequence[Negatives]) -> None:
    """Raise if a column is outside the pool: the kernels would read foreign memory."""
    for part in negatives:
        for name, columns in _columns(part.choice).items():
            wrong = columns[(columns < 0) | (columns >= len(part.rows))]
            assert not wrong.numel(), (
                f"{name} holds {int(wrong[0])}, but the pool has {len(part.rows)} rows (masked "
                f"entries must name a row too)"
            )
        if part.attracted is not None:
            wrong = part.attracted[(part.attracted < -1) | (part.attracted >= len(part.rows))]
            assert not wrong.numel(), (
                f"attracted holds {int(wrong[0])}, but the pool has {len(part.rows)} rows"
            )


def _columns(choice: Choice) -> dict[str, Tensor]:
    """Return the columns that a choice holds, by name."""
    if isinstance(choice, Columns):
        return {"columns": choice.columns}
    return {"first": choice.first, "second": choice.second} if isinstance(choice, Mixtures) else {}


def copied(negatives: Sequence[Negatives]) -> list[dict[str, Any]]:
    """Return the negatives as nested built-in types and copies of their tensors."""
    return [
        {
            "rows": _plain(part.rows),
            "kind": type(part.choice).__name__,
            "choice": _plain(part.choice if part.blocks is None else Whole(part.mask)),
            "log_weight": _copy(part.log_weight),
            "estimator": part.estimator,
            "attracted": _copy(part.attracted),
        }
        for part in negatives
    ]


def _plain(value: Rows | Choice) -> dict[str, Any]:
    # Names of rows tell one memory of a process from another; a second run has others.
    held = {f.name: getattr(value, f.name) for f in fields(value) if f.name != "name"}
    return {name: _copy(part) for name, part in held.items()}


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def restored(values: Sequence[dict[str, Any]]) -> tuple[Negatives, ...]:
    """Return the negatives that :func:`copied` copied."""
    kinds = {kind.__name__: kind for kind in (Whole, Columns, Mixtures)}
    return tuple(
        Negatives(
            Rows(**part["rows"]),
            kinds[part["kind"]](**part["choice"]),
            part["log_weight"],
            part["estimator"],
            part["attracted"],
        )
        for part in values
    )


def difference(one: Any, two: Any, where: str = "") -> str | None:
    """Name the first difference between nested values, bit for bit; None if there is none."""
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        if one.shape != two.shape or one.dtype != two.dtype:
            return f"{where}: {one.dtype} {list(one.shape)} and {two.dtype} {list(two.shape)}"
        return None if torch.equal(one, two) else f"{where}: other values"
    if isinstance(one, dict) and isinstance(two, dict):
        if one.keys() != two.keys():
            return f"{where}: entries {sorted(one)} and {sorted(two)}"
        pairs = [(f"{where}.{name}".strip("."), one[name], two[name]) for name in one]
    elif isinstance(one, (list, tuple)) and isinstance(two, (list, tuple)):
        if len(one) != len(two):
            return f"{where}: {len(one)} and {len(two)} entries"
        pairs = [(f"{where}[{n}]", a, b) for n, (a, b) in enumerate(zip(one, two, strict=True))]
    else:
        return None if type(one) is type(two) and one == two else f"{where}: {one!r} and {two!r}"
    return next(filter(None, (difference(a, b, place) for place, a, b in pairs)), None)


def _gradient(view: Tensor) -> Tensor:
    return torch.zeros_like(view) if view.grad is None else view.grad


def _generator(*key: int) -> torch.Generator:
    seed = 0
    for part in key:
        seed = 1_000_003 * seed + part
    return torch.Generator().manual_seed(seed)
