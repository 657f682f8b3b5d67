"""Checks of composition: a sampler serves as the source of others, and its rows are what they say.

A sampler whose draws come from the softmax, whose negatives are mixtures, or whose keys go around a
ring is the outermost one: the samplers that choose are refused with a sentence, which counts as
composing. So does the refusal
of ``hierarchical`` where tiers overlap and one weighs its rows, a weight that is not defined, or
attracts some.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from negplug.contract.negatives import Mixtures
from negplug.contract.sampler import NegativeSampler
from negplug.loss.contrastive import ContrastiveLoss
from negplug.samplers.filtered import Filtered
from negplug.samplers.gather import Gather
from negplug.samplers.hierarchical import Hierarchical
from negplug.samplers.uniform import Uniform
from negplug.testing.subject import TEMPERATURE, Subject, call, close, train

_COMPOSED: dict[str, Callable[[NegativeSampler], NegativeSampler]] = {
    'filtered(by="labels")': lambda source: Filtered(source, by="labels"),
    "uniform(num_negatives=1)": lambda source: Uniform(1, source=source),
    "hierarchical(gather(), …)": lambda source: Hierarchical(Gather(), source),
}


def it_serves_as_a_source(subject: Subject) -> None:
    """``filtered``, ``uniform`` and ``hierarchical`` accept it as their source and train."""
    sampler = subject.loss().sampler
    # A memory starts empty, and there is nothing to mix then.
    alone = [part for step in train(subject, subject.loss(), range(4)) for part in step.negatives]
    outermost = sampler.streams or any(
        part.estimator == "posterior" or isinstance(part.choice, Mixtures) for part in alone
    )
    excludes = any(part.log_weight is not None or part.attracted is not None for part in alone)
    for name, compose in _COMPOSED.items():
        composed = compose(subject.new())
        try:
            loss = ContrastiveLoss(composed, temperature=TEMPERATURE, seed=0)
            steps = train(subject, loss.to(subject.device), range(4))
        except ValueError as error:
            if outermost or (excludes and name.startswith("hierarchical")):
                continue
            raise AssertionError(f"{name} cannot have {sampler} as its source: {error}") from error
        for number, step in enumerate(steps):
            assert step.loss.isfinite(), f"step {number} of {name} has loss {step.loss.item()}"


def rows_are_what_they_are_called(subject: Subject) -> None:
    """Rows that carry the name of the batch's keys or anchors are these, in value and ids."""
    loss = subject.loss()
    for number in range(3):
        (step,) = train(subject, loss, [number])
        for part in step.negatives:
            for whose in (step.batch.keys, step.batch.anchors):
                if not part.rows.same_as(whose):
                    continue
                own = torch.equal(part.rows.embeddings, whose.embeddings)
                own &= torch.equal(part.rows.ids, whose.ids)
                assert own, (
                    f"the pool is called {part.rows.name!r} but holds other rows; make changed "
                    f"rows with Rows.with_embeddings(…) or Rows.select(…)"
                )


def rows_keep_what_is_known_of_them(subject: Subject) -> None:
    """Rows taken from the batch's keys keep their indexes and labels."""
    loss = subject.loss()
    for number in range(3):
        # Before the step ends: a memory then holds the very keys, and may serve all of its rows.
        step = call(subject, loss, number)
        keys = step.batch.keys
        for part in step.negatives:
            equal = (part.rows.embeddings[:, None] == keys.embeddings).all(2)
            row, key = equal.nonzero().unbind(1)
            if isinstance(part.choice, Mixtures) or not len(row):
                continue
            for what in ("indexes", "labels"):
                known, said = getattr(keys, what), getattr(part.rows, what)
                assert known is not None
                kept = said is not None and torch.equal(said[row], known[key])
                assert kept, (
                    f"rows of the batch have lost their {what}, which filtered() and stratified() "
                    f"look at; take rows with Rows.select(…)"
                )
        close(loss, step)
