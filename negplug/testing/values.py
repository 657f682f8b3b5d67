"""Checks of the negatives of a step: what they are, and who must not be among them."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from negplug.contract.ids import comparable_ids
from negplug.contract.negatives import Columns, Mixtures, Negatives, total_counts
from negplug.contract.provenance import PluginError
from negplug.contract.sampler import NegativeSampler
from negplug.contract.shapes import check_negatives
from negplug.testing.subject import (
    Step,
    Subject,
    evaluate,
    insist_on_rows_of_the_pool,
    restored,
    train,
)

_STEPS = 6


def shapes_and_types_fit(subject: Subject) -> None:
    """Negatives have the documented shapes and types, and fit the anchors."""
    for _, step, part in _parts(subject):
        check_negatives([part], step.batch.anchors)


def columns_lie_in_the_pool(subject: Subject) -> None:
    """Columns and partners are rows of the pool, where the mask is False too."""
    for _, step, _ in _parts(subject):
        insist_on_rows_of_the_pool(step.negatives)


def no_column_is_repeated(subject: Subject) -> None:
    """No anchor has the same row twice (draws from the softmax and mixtures may)."""
    for where, _, part in _parts(subject):
        if not isinstance(part.choice, Columns) or part.estimator == "posterior":
            continue
        for anchor, columns in enumerate(part.choice.columns):
            chosen = columns if part.mask is None else columns[part.mask[anchor]]
            repeated = len(chosen) - len(chosen.unique())
            assert not repeated, f"{where}: anchor {anchor} has {chosen.tolist()}"


def weights_are_finite(subject: Subject) -> None:
    """Log weights and the shares of mixtures are finite wherever they count."""
    for where, step, part in _parts(subject):
        chosen = part.serving(step.batch.anchors)
        if part.log_weight is not None:
            weight = part.log_weight.expand(chosen.shape)
            assert not weight.isnan().any(), f"{where}: log_weight holds NaN"
            assert weight[chosen].isfinite().all(), (
                f"{where}: log_weight is infinite for a negative; mask it out instead"
            )
        if isinstance(part.choice, Mixtures):
            assert part.choice.coefficients.isfinite().all(), (
                f"{where}: coefficients are not finite"
            )


def pool_rows_have_unit_length(subject: Subject) -> None:
    """Rows of the pool that serve an anchor have unit length, to rounding."""
    for where, now, part in _parts(subject):
        lengths = part.rows.embeddings.norm(dim=1)
        chosen = part.serving(now.batch.anchors)
        for row in _columns(part).expand_as(chosen)[chosen].unique().tolist():  # type: ignore[no-untyped-call]
            length = float(lengths[row])
            assert abs(length - 1) < 1e-6, f"{where}: row {row} has length {length:.6g}"


def no_anchor_meets_its_own_sample(subject: Subject) -> None:
    """No negative is the anchor, a positive of it, or an earlier key of the same sample."""
    owners: list[int] = []
    past: list[Tensor] = []
    step = None
    for where, now, part in _parts(subject):
        anchors, keys = now.batch.anchors, now.batch.keys
        assert keys.indexes is not None
        assert anchors.indexes is not None
        if now is not step:
            step = now
            past.append(keys.embeddings.detach())
            owners += keys.indexes.tolist()
        owner = _owners(part, torch.cat(past), torch.tensor(owners, device=subject.device))
        chosen = part.serving(anchors)
        columns = _columns(part).expand_as(chosen)
        same_id = part.rows.ids[columns] == comparable_ids(anchors.ids)[:, None]
        same_sample = owner[columns] == anchors.indexes[:, None]
        for anchor, slot in (chosen & (same_id | same_sample)).nonzero().tolist():
            raise AssertionError(
                f"{where}: anchor {anchor}, of sample {int(anchors.indexes[anchor])}, has row "
                f"{int(columns[anchor, slot])} of the pool, which is of the same sample"
            )


def what_is_attracted_is_no_negative(subject: Subject) -> None:
    """A row that an anchor attracts is none of its negatives, nor of its sample, and comes once."""
    for where, now, part in _parts(subject):
        if part.attracted is None:
            continue
        anchors = now.batch.anchors
        chosen, columns = part.serving(anchors), _columns(part)
        for anchor, attracted in enumerate(part.attracted):
            rows = attracted[attracted >= 0]
            assert len(set(rows.tolist())) == len(rows), (
                f"{where}: anchor {anchor} attracts a row twice, of {rows.tolist()}"
            )
            own = part.rows.ids[rows] == comparable_ids(anchors.ids)[anchor]
            assert not own.any(), f"{where}: anchor {anchor} attracts its own sample"
            serves = columns.expand_as(chosen)[anchor][chosen[anchor]]
            both = rows[torch.isin(rows, serves)]
            assert not len(both), (
                f"{where}: anchor {anchor} has row {int(both[0])} as a negative and attracts it"
            )


def a_ragged_batch_is_served(subject: Subject) -> None:
    """A last batch of one sample after full ones gives a finite loss and gradient."""
    loss = subject.loss()
    train(subject, loss, range(3))
    (step,) = train(subject, loss, [3], size=1)
    assert step.gradient is not None
    assert step.loss.isfinite(), f"the loss is {step.loss.item()}"
    assert step.gradient.isfinite().all(), "the gradient is not finite"


def fewer_than_asked_for_are_told_of(subject: Subject) -> None:
    """Where a full batch has fewer than ``num_negatives``, it is an error or a warning says so.

    Asked of samplers with an attribute of that name, 3 or more, that remember no past steps.
    """
    sampler = subject.new()
    asked = getattr(sampler, "num_negatives", None)
    if not isinstance(asked, int) or asked < 3 or _remembers(sampler):
        return
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            (step,) = train(subject, subject.loss(), [0], size=2)
        except (ValueError, PluginError):
            return
    given = int(total_counts(restored(step.values), step.batch.anchors).max())
    assert told or given >= asked, (
        f"num_negatives={asked}, but {given} are given where an anchor has 2 in a full batch, and "
        f"nobody is told; ask self.availability.exceeded(…), as ChoosingSampler has it"
    )


def _remembers(sampler: NegativeSampler) -> bool:
    return any(part.remembers for part in sampler.all_samplers())


def _parts(subject: Subject) -> Iterator[tuple[str, Step, Negatives]]:
    """Yield (where, step, negatives of one pool) of a run, as they were when sampled."""
    for where, step in _run(subject):
        for part in restored(step.values):
            yield where, step, part


@functools.lru_cache(maxsize=1)  # all checks of values look at the same run
def _run(subject: Subject) -> list[tuple[str, Step]]:
    """Train on views, then anew on pairs; end each with an evaluation."""
    run = []
    for form in ("views", "pairs"):
        loss = subject.loss()
        steps = train(subject, loss, range(_STEPS), form=form)
        run += [(f"training step {number} ({form})", step) for number, step in enumerate(steps)]
        run.append((f"evaluation ({form})", evaluate(subject, loss, _STEPS, form=form)))
    return run


def _columns(part: Negatives) -> Tensor:
    """Return the column of each entry, ``[N, E]`` or ``[K]``; of a mixture, its larger part's."""
    choice = part.choice
    if isinstance(choice, Columns):
        return choice.columns
    if isinstance(choice, Mixtures):
        coefficients = choice.coefficients.abs()
        return choice.first.where(coefficients[..., 0] >= coefficients[..., 1], choice.second)
    return torch.arange(len(part.rows), device=part.rows.ids.device)


def _owners(part: Negatives, keys: Tensor, owners: Tensor) -> Tensor:
    """Return ``[K]``: whose key each row of the pool is; what the sampler says where unknown."""
    said, pool = part.rows.indexes, part.rows.embeddings
    known = torch.full_like(part.rows.ids, -1) if said is None else said.clone()
    row, key = (pool[:, None] == keys.to(pool)).all(2).nonzero().unbind(1)
    known[row] = owners[key]
    return known
