"""A saved state that was tampered with, field by field: refused whole, or trained on with."""

from __future__ import annotations

import copy

import pytest
import torch
from resumable import same_state

from negplug import ContrastiveBatch, ContrastiveLoss

SAMPLES, SIZE, WIDTH = 24, 4, 6


def views_of(indexes):
    """Two views of samples, which any step can make again."""
    generator = torch.Generator().manual_seed(5)
    table = torch.randn(2, SAMPLES, WIDTH, generator=generator)
    return tuple(view[indexes].clone().requires_grad_() for view in table)


def train(loss_fn, steps, first=0):
    """Plain steps, the indexes of a sample now and then twice; the losses."""
    found = []
    for step in range(first, first + steps):
        indexes = (torch.arange(SIZE) * 5 + 3 * step) % SAMPLES
        batch = ContrastiveBatch.from_views(views_of(indexes), indexes, indexes % 3)
        encode = batch.context.dataset.__class__(encode=views_of)
        calls = 2 if step % 2 else 1  # the second call of a step has state of its own
        loss = sum(loss_fn.contrast(batch, dataset=encode) for _ in range(calls))
        loss.backward()
        loss_fn.end_step()
        found.append(loss.detach())
    return torch.stack(found)


def train_on(loss_fn):
    losses = train(loss_fn, 3, first=4)
    assert losses.isfinite().all(), losses
    loss_fn.load_state_dict(loss_fn.state_dict())


COMBINATIONS = [
    ("queue(size=12)", "debiased()"),
    ("queue(size=100, gather=False)", "sogclr()"),
    ("memory_bank(size=24)", "relic()"),
    ("memory_bank(momentum=0.9)", "decoupled()"),
    ("hierarchical(queue(size=12), uniform(num_negatives=2, source=queue(size=12)))", "sogclr()"),
    ("gumbel_max(num_negatives=2, source=memory_bank())", "infonce()"),
    ("emc2()", "infonce()"),
    ('emc2(out_of_batch="recompute", size=24)', "decoupled()"),
    ("isir(source=queue(size=12))", "infonce()"),
    ('isir(out_of_batch="drop")', "decoupled()"),
    ("in_batch()", "sogclr()"),
    ("in_batch()", "infonce()"),
]

REFUSED_IN_A_STEP = (
    "the width cannot change during training",  # of the embeddings, which a new loss cannot know
    "encode knows no sample",  # nor how many samples there are
)

GONE, MORE = object(), object()


def tampered(path, value):
    """Yield what may stand in the place of a saved value."""
    yield from (GONE, MORE, None, "text", [value], {}, 1.5, True, torch.tensor(3))
    if path[0].startswith("further."):
        return  # the same parts once more
    if isinstance(value, int):
        yield from (-1, 1 - 10**30, 7, 1 << 40, 10**15, (1 << 63) - 1, 10**30)
    elif isinstance(value, str):
        yield value + "x" * 10**6
    elif isinstance(value, torch.Tensor):
        yield from tampered_tensors(value)


def tampered_tensors(value):
    yield from (value[:0], value[:-1], value[None], torch.cat([value, value]))
    if value.ndim > 1:
        yield from (value[:, :0], value[:, 1:], value[..., :-1], value.transpose(0, 1))
    if value.numel():
        yield value[:1].expand(10**9, *value.shape[1:])
    yield from (value.int(), value.bool(), value.double(), value.half(), value.cfloat())
    yield from (value.to_sparse(), value.to("meta"))
    if value.dtype == torch.bool:
        yield ~value
    else:
        yield from (-value - 7, value + 1, torch.zeros_like(value))
    if value.dtype == torch.int64:
        yield from (value + 10**15, value * 0 + (1 << 62), value.flip(0))
    if value.is_floating_point():
        numbers = (torch.nan, torch.inf, -torch.inf, 3e38, -3e38, 1e20)
        yield from (value.clone().fill_(number) for number in numbers)
        yield value.double() + 1e300
        part = value.clone()
        part.view(-1)[-1:] = torch.nan
        yield part


def places(state, path=()):
    """Yield the path of each entry of nested dicts."""
    for key, value in state.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from places(value, (*path, key))


def at(state, path):
    for key in path:
        state = state[key]
    return state


def refusal(function, *args):
    """Return the message of a ValueError, "" if there is none; other errors are not expected."""
    try:
        function(*args)
    except ValueError as error:
        return str(error)
    return ""


def with_other(state, path, value):
    """Return the state with something else in one place."""
    state = copy.deepcopy(dict(state))
    *above, last = path
    inside = state
    for key in above:
        inside = inside[key]
    if value is GONE:
        del inside[last]
    elif value is MORE:
        inside[f"{last}s"] = inside[last]
    else:
        inside[last] = value
    return state


@pytest.mark.filterwarnings("ignore:.*all of them are used")
@pytest.mark.filterwarnings("ignore:.*was saved (with|by rank)")
@pytest.mark.parametrize(("sampler", "objective"), COMBINATIONS)
def test_each_field_tampered_with_is_refused_whole_or_trains(sampler, objective):
    def fresh():
        return ContrastiveLoss(sampler, objective, temperature=0.3, seed=4)

    trained = fresh()
    train(trained, 4)
    state = trained.state_dict()
    used = fresh()
    train(used, 1)
    before = used.state_dict()
    refused = accepted = 0
    for path in places(state):
        for other in tampered(path, at(state, path)):
            where = f"{path}: {str(other)[:100]}"
            if message := refusal(used.load_state_dict, with_other(state, path, other)):
                refused += 1
                assert len(message) < 700, where
                assert same_state(used.state_dict(), before), where
                continue
            accepted += 1
            message = refusal(train_on, used)
            assert not message or any(r in message for r in REFUSED_IN_A_STEP), (where, message)
            used = fresh()
            used.load_state_dict(before)
    assert refused > accepted
    used.load_state_dict(state)  # what was not tampered with
    assert torch.equal(train(used, 3, first=4), train(trained, 3, first=4))
