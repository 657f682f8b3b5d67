"""The check on several ranks: real processes against one process that plays all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from negplug.contract.sampler import NegativeSampler
from negplug.testing.one_process import mean_loss
from negplug.testing.processes import pickled, run
from negplug.testing.subject import Subject, call, close, difference

_STEPS = 4
_TOLERANCE = 1e-9


def ranks_equal_one_process(subject: Subject) -> None:
    """Gradients, averaged over ranks, are those of one process on everybody's batches.

    All of it on the CPU. The ranks' last batches have different sizes. No rank leaves another one
    waiting. State is the same on all ranks to the last bit, unless the sampler says ``per_rank``,
    and it is that of the one process.
    """
    if subject.ranks < 2:
        return
    insist_on_a_sampler_that_travels(subject)
    # gloo joins the ranks, which gathers tensors of the CPU alone.
    subject = replace(subject, device="cpu")
    try:
        found = run(_train, subject.ranks, subject, timeout=subject.timeout)
    except (ProcessRaisedException, ProcessExitedException) as error:
        raise AssertionError(f"a rank failed, or left another one waiting: {error}") from None
    wanted = _train_in_one_process(subject)
    sampler = subject.loss().sampler
    for rank, (gradients, state) in enumerate(found):
        for number, (gradient, reference) in enumerate(
            zip(gradients, wanted[rank][0], strict=True)
        ):
            off = float((gradient - reference).norm() / reference.norm().clamp(min=1e-9))
            assert off < _TOLERANCE, (
                f"in step {number} the gradient of rank {rank}, averaged over the ranks, is off "
                f"by {off:.3g}, relative"
            )
        where = difference(shared_state(sampler, state), shared_state(sampler, found[0][1]))
        assert where is None, f"ranks {rank} and 0 hold other states without per_rank: {where}"
        where = difference(tensors(state), tensors(wanted[rank][1]))
        assert where is None, f"rank {rank} ends in another state than one process: {where}"


def insist_on_a_sampler_that_travels(subject: Subject) -> None:
    """Raise if other processes cannot make the sampler."""
    try:
        pickled(subject.sampler)
    except TypeError as error:
        raise TypeError(
            f"sampler={subject} cannot be handed to the processes of several ranks ({error}): "
            f"define it at the top level of a module, with functools.partial in place of a lambda, "
            f"or leave the check on ranks out with ranks=1"
        ) from error


def shared_state(sampler: NegativeSampler, state: dict[str, Any]) -> dict[str, Any]:
    """Return what of ``sampler.state_dict()`` must be the same on all ranks."""
    owners = {
        f"{name}." if name else "": module
        for name, module in sampler.named_modules()
        if isinstance(module, NegativeSampler)
    }
    innermost = {
        key: owners[max((prefix for prefix in owners if key.startswith(prefix)), key=len)]
        for key in state
    }
    return {key: value for key, value in state.items() if not innermost[key].per_rank}


def tensors(state: Any) -> Any:
    """Return the tensors of nested state; settings, such as the number of ranks, are left out."""
    if isinstance(state, dict):
        return {
            name: tensors(value)
            for name, value in state.items()
            if isinstance(value, (dict, list, Tensor))
        }
    return [tensors(value) for value in state] if isinstance(state, list) else state


def _train(rank: int, world: int, subject: Subject) -> tuple[list[Tensor], dict[str, Any]]:
    loss = subject.loss()
    gradients = []
    for number in range(_STEPS):
        size = _size(subject, number, rank)
        step = close(loss, call(subject, loss, number * world + rank, size=size))
        assert step.gradient is not None
        gradients.append(step.gradient / world)
    return gradients, loss.sampler.state_dict()


def _train_in_one_process(subject: Subject) -> list[tuple[list[Tensor], dict[str, Any]]]:
    ranks = range(subject.ranks)
    losses = [subject.loss() for _ in ranks]
    gradients: list[list[Tensor]] = [[] for _ in ranks]
    for number in range(_STEPS):
        numbers = [number * subject.ranks + rank for rank in ranks]
        views = [subject.views(numbers[rank], _size(subject, number, rank)) for rank in ranks]
        leaves = [view.requires_grad_() for pair in views for view in pair]
        batches = [subject.batch(views[rank], numbers[rank]) for rank in ranks]
        found = torch.autograd.grad(
            mean_loss(losses, batches, number), leaves, materialize_grads=True
        )
        for rank in ranks:
            gradients[rank].append(torch.stack(found[2 * rank : 2 * rank + 2]))
            losses[rank].sampler.flush()
    return [(gradients[rank], losses[rank].sampler.state_dict()) for rank in ranks]


def _size(subject: Subject, number: int, rank: int) -> int:
    """Return the batch size: the last batches are ragged, the more so the higher the rank."""
    ragged = number == _STEPS - 1
    return max(1, subject.batch_size - 2 * rank - 1) if ragged else subject.batch_size
