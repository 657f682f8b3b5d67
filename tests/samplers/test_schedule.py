"""``schedule``: each sampler in its turn, with memories that were there from the start."""

from __future__ import annotations

import copy
import re

import naive
import pytest
import torch
from resumable import same_state
from tiers import LABELS, SIZE, TEMPERATURE

from negplug import ContrastiveLoss, make_sampler
from negplug.samplers.hard import Hard
from negplug.samplers.in_batch import InBatch
from negplug.samplers.schedule import Schedule


def loss_of(text, **arguments):
    return ContrastiveLoss(text, temperature=TEMPERATURE, seed=5, **arguments)


def step(loss_fn, number):
    """Train a step; return its loss and gradient, in float64."""
    z = naive.embeddings(2, SIZE, seed=number)
    indexes = (7 * number + torch.arange(SIZE)) % 50
    loss = loss_fn(*z, indexes=indexes, labels=LABELS)
    loss.backward()
    return torch.cat([loss.detach()[None], *(view.grad.flatten() for view in z)])


@pytest.mark.parametrize(
    "later",
    [
        "queue(size=60)",
        "memory_bank(momentum=0.5)",
        "hard(num_negatives=4, source=queue(size=60, gather=False))",
        "filtered(similarity=0.5, source=hierarchical(in_batch(), memory_bank()))",
    ],
)
@pytest.mark.parametrize("between", ["hard(num_negatives=3)", "filtered(by='labels')"])
def test_each_turn_equals_the_sampler_alone_with_the_memory_of_all_steps(later, between):
    starts = (0, 2, 5)
    each = ["in_batch()", between, later]
    scheduled = loss_of(f"schedule({', '.join(each)}, from_steps={starts})")
    alone = [loss_of(text) for text in each]
    for number in range(8):
        found = step(scheduled, number)
        turn = max(k for k, start in enumerate(starts) if start <= number)
        expected = [step(loss_fn, number) for loss_fn in alone]
        assert torch.equal(found, expected[turn])
        assert not torch.equal(found, expected[turn - 1])


def test_chains_and_their_embeddings_are_warm():
    # Draws are keyed by the place in the expression, so what is drawn differs, not what is seen.
    scheduled = loss_of("schedule(in_batch(), emc2(), from_steps=(0, 5))")
    alone = loss_of("emc2()")
    for number in range(5):
        step(scheduled, number)
        step(alone, number)
    chains, own = scheduled.sampler.samplers[1], alone.sampler
    assert scheduled.state_dict()
    assert alone.state_dict()
    assert same_state(chains.cache.get_extra_state(), own.cache.get_extra_state())
    assert chains.samples == own.samples
    visited = [part.chains.get_extra_state()["values"]["state"] >= 0 for part in (chains, own)]
    assert visited[0].sum() == visited[1].sum() > 0


def test_equal_memories_are_one_and_saved_once():
    text = (
        "schedule(queue(size=60), hard(num_negatives=2, source=queue(size=60)), from_steps=(0, 2))"
    )
    loss_fn = loss_of(text)
    first, second = loss_fn.sampler.samplers
    assert second.source is first
    for number in range(4):
        step(loss_fn, number)
    assert loss_fn.state_dict() is not None
    assert first.count == 60
    newest = naive.embeddings(2, SIZE, seed=3)[1]
    assert torch.allclose(first.rows[(4 * 24 - 1) % 60], newest[-1] / newest[-1].norm())


def test_what_no_turn_to_come_reads_takes_in_nothing_more():
    loss_fn = loss_of("schedule(queue(size=60), in_batch(), from_steps=(0, 2))")
    for number in range(4):
        step(loss_fn, number)
    assert loss_fn.state_dict() is not None
    assert loss_fn.sampler.samplers[0].count == 2 * 24


@pytest.mark.parametrize("stop", [2, 3, 4])
@pytest.mark.parametrize("later", ["queue(size=60, num_negatives=4)", "emc2()", "memory_bank()"])
def test_resumes_to_the_last_bit_across_the_switch(stop, later):
    text = f"schedule(uniform(num_negatives=3), {later}, from_epochs=(0, 3))"

    def run(loss_fn, numbers):
        found = []
        for number in numbers:
            if number % 2 == 0:  # so that epochs begin between checkpoints too
                loss_fn.set_epoch(number)
            found.append(step(loss_fn, number))
        return torch.stack(found)

    straight = run(loss_of(text), range(6))
    before, after = loss_of(text), loss_of(text)
    first = run(before, range(stop))
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    assert torch.equal(torch.cat([first, run(after, range(stop, 6))]), straight)


def test_an_evaluation_asks_whose_turn_it_is_and_changes_nothing():
    loss_fn = loss_of("schedule(in_batch(), hard(num_negatives=2), from_epochs=(0, 1))")
    z = naive.embeddings(2, SIZE)
    of_each = [loss_of(text)(*z) for text in ("in_batch()", "hard(num_negatives=2)")]
    with torch.no_grad():
        assert torch.equal(loss_fn(*z), of_each[0])  # before any epoch
        for epoch in (1, 0):
            loss_fn.set_epoch(epoch)
            before = loss_fn.state_dict()
            assert torch.equal(loss_fn(*z), of_each[epoch])
            assert same_state(loss_fn.state_dict(), before)


def test_a_plain_loop_has_to_say_the_epoch():
    loss_fn = loss_of("schedule(in_batch(), hard(num_negatives=2), from_epochs=(0, 1))")
    with pytest.raises(ValueError, match=r"from_epochs needs .* call set_epoch\(epoch\)"):
        step(loss_fn, 0)
    for wrong in (-1, 1.0, True, None):
        with pytest.raises((TypeError, ValueError), match="set_epoch: epoch must be"):
            loss_fn.set_epoch(wrong)


def test_an_epoch_that_goes_back_to_a_memory_that_missed_steps():
    text = "schedule(queue(size=60), memory_bank(), in_batch(), from_epochs=(0, 1, 2))"
    loss_fn = loss_of(text)
    for epoch in range(3):
        loss_fn.set_epoch(epoch)
        step(loss_fn, epoch)
    loss_fn.set_epoch(0)
    with pytest.raises(ValueError, match=r"went back, from sampler 3 to 1 .* but queue\(size=60"):
        step(loss_fn, 3)
    # A memory that is still to come, or none at all, may be gone back to.
    for text in ("schedule(in_batch(), queue(size=60)", "schedule(hard(2), in_batch()"):
        loss_fn = loss_of(f"{text}, from_epochs=(0, 1))")
        for number, epoch in enumerate((0, 1, 0, 1)):
            loss_fn.set_epoch(epoch)
            assert step(loss_fn, number).isfinite().all()


@pytest.mark.parametrize(
    ("last", "objective", "message"),
    [
        ("hard(num_negatives=23)", "infonce()", "hard: num_negatives=23 is more"),
        ("uniform(num_negatives=30)", "infonce()", "uniform: num_negatives=30 is more"),
        ("gumbel_max()", "debiased(tau_plus=0.1)", "estimate the denominator"),
        ("stratified(4, by='labels')", "infonce()", "needs the label of every sample"),
        ("memory_bank()", "infonce()", "needs the data set index of every sample"),
    ],
)
def test_what_cannot_serve_fails_in_the_first_step(last, objective, message):
    text = f"schedule(in_batch(), hard(num_negatives=2), {last}, from_steps=(0, 50, 100))"
    loss_fn = loss_of(text, objective=objective)
    with pytest.raises(ValueError, match=message):
        loss_fn(*naive.embeddings(2, SIZE)).backward()


def test_a_rehearsal_leaves_nothing_behind():
    rehearsed = loss_of("schedule(uniform(num_negatives=3), queue(size=60), from_steps=(0, 9))")
    alone = loss_of("queue(size=60)")
    for number in range(2):
        step(rehearsed, number)
        step(alone, number)
    states = [rehearsed.state_dict(), alone.state_dict()]
    assert same_state(
        states[0]["sampler.samplers.1._extra_state"]["values"],
        states[1]["sampler._extra_state"]["values"],
    )


def test_it_serves_as_a_source_and_inside_of_itself():
    text = "uniform(num_negatives=3, source=schedule(in_batch(), hard(6), from_steps=(0, 1)))"
    inner = "schedule(in_batch(), queue(size=60), from_steps=(0, 3))"
    nested = loss_of(f"schedule({inner}, hard(2, source=queue(size=60)), from_steps=(0, 4))")
    source = loss_of(text)
    alone = [loss_of("in_batch()"), loss_of("queue(size=60)")]
    alone.append(loss_of("hard(2, source=queue(size=60))"))
    for number in range(6):
        assert step(source, number).isfinite().all()
        expected = [step(loss_fn, number) for loss_fn in alone]
        turn = (number >= 3) + (number >= 4)
        assert torch.equal(step(nested, number), expected[turn])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schedule(in_batch(), from_steps=(0,))", "two samplers or more, got 1"),
        ("schedule(in_batch(), gather())", "give from_steps=.* or from_epochs=.* not neither"),
        ("schedule(in_batch(), gather(), from_steps=(0, 1), from_epochs=(0, 1))", "not both"),
        ("schedule(in_batch(), gather(), from_steps=5)", r"must be integers such as \(0, 10\)"),
        ("schedule(in_batch(), gather(), from_steps=(0, 1.5))", "must be an integer, got 1.5"),
        ("schedule(in_batch(), gather(), from_epochs=(0, -1))", "at least 0, got -1"),
        ("schedule(in_batch(), gather(), from_epochs=(0, 1, 2))", "3 starts for 2 samplers"),
        ("schedule(in_batch(), gather(), from_steps=(1, 2))", "begin with 0 and ascend"),
        ("schedule(in_batch(), gather(), from_steps=(0, 0))", "begin with 0 and ascend"),
        ("schedule(in_batch(), 3, from_steps=(0, 1))", "sampler 2 must be a sampler, got 3"),
    ],
)
def test_bad_arguments(text, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make_sampler(text)


def test_what_it_is_called_and_offers():
    made = Schedule(InBatch(), Hard(4), from_steps=[0, 7])
    assert re.fullmatch(r"schedule\(in_batch\(\), Hard\(.*\), from_steps=\(0, 7\)\)", str(made))
    assert made.most is None
    assert make_sampler("schedule(queue(size=9), queue(size=30), from_steps=(0, 1))").most == 30


def test_a_turn_that_is_none_and_other_starts_are_refused():
    text = "schedule(in_batch(), gather(), from_steps=(0, {}))"
    loss_fn = loss_of(text.format(4))
    state = loss_fn.state_dict()
    with pytest.raises(ValueError, match="saved with from_steps="):
        loss_of(text.format(5)).load_state_dict(state)
    state["sampler._extra_state"]["values"]["turn"] = 2
    with pytest.raises(ValueError, match="the saved turn is 2 of 2 samplers"):
        loss_fn.load_state_dict(state)
    state["sampler._extra_state"]["values"]["turn"] = 0
    state["_extra_state"]["epoch"] = -3
    with pytest.raises(ValueError, match="saved epoch is -3"):
        loss_fn.load_state_dict(state)
