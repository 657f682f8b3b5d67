"""Samplers as a third party might write them, each of which breaks one property."""

from __future__ import annotations

import itertools
import random

import numpy as np
import torch
import torch.distributed as dist
from broken_attraction import BROKEN_ATTRACTION
from broken_composition import BROKEN_COMPOSITION

from negplug import Columns, Draws, Negatives, NegativeSampler, Rows, Sampled, Whole
from negplug.samplers.in_batch import InBatch
from negplug.samplers.queue import Queue
from negplug.testing import draws, gradients, ranks, state, values


class WrongMask(NegativeSampler):
    def sample(self, batch):
        columns = torch.zeros(len(batch.anchors), 1, dtype=torch.int64)
        return Negatives(batch.keys, Columns(columns, mask=torch.ones(3, 1) > 0))


class IntegerMask(NegativeSampler):
    def sample(self, batch):
        mask = batch.anchors.ids[:, None] != batch.keys.ids
        return Negatives(batch.keys, Whole(mask.long()))


class BeyondThePool(NegativeSampler):
    """Pads with a column that does not exist."""

    def sample(self, batch):
        beyond = torch.full((len(batch.anchors), 1), len(batch.keys))
        mask = torch.zeros_like(beyond, dtype=torch.bool)
        return Negatives(batch.keys, Columns(beyond, mask))


class Repeats(NegativeSampler):
    def sample(self, batch):
        own = batch.anchors.ids[:, None] == batch.keys.ids
        first = own.long().argmin(1, keepdim=True)
        return Negatives(batch.keys, Columns(first.expand(-1, 2)))


class NaNWeight(InBatch):
    def sample(self, batch):
        weight = torch.zeros(1, len(batch.keys), dtype=batch.keys.embeddings.dtype)
        weight[0, 2] = torch.nan
        return Negatives(batch.keys, log_weight=weight)


class Long(NegativeSampler):
    def sample(self, batch):
        return Negatives(batch.keys.with_embeddings(2 * batch.keys.embeddings))


class ForgetsWhoIsWho(NegativeSampler):
    """Takes the anchor and its positives for negatives."""

    def sample(self, batch):
        return Negatives(Rows.unknown(batch.keys.embeddings))


class NamelessQueue(Queue):
    """Takes earlier keys of the anchor's sample for negatives."""

    def __init__(self):
        super().__init__(70)

    def _arriving(self, batch):
        arriving = super()._arriving(batch)
        return arriving._replace(names=torch.full_like(arriving.names, -1))


class SilentlyFewer(NegativeSampler):
    """Gives what there is where there are fewer than M."""

    def __init__(self):
        super().__init__()
        self.num_negatives = 3

    def sample(self, batch):
        ids = batch.anchors.ids[:, None] != batch.keys.ids
        count = min(self.num_negatives, batch.keys.embeddings.shape[0])
        slots = torch.argsort(~ids, dim=1, stable=True)[:, :count]
        return Negatives(batch.keys, Columns(slots, ids.gather(1, slots)))


class NeedsSix(NegativeSampler):
    """Has no answer to a small batch."""

    def sample(self, batch):
        similarity = (batch.anchors.embeddings @ batch.keys.embeddings.T).detach()
        own = batch.anchors.ids[:, None] == batch.keys.ids
        found = similarity.masked_fill(own, -torch.inf).topk(6)
        return Negatives(batch.keys, Columns(found.indices, found.values.isfinite()))


class WritesWhileSampling(NegativeSampler):
    """Writes into its pool behind autograd's back, before the backward pass."""

    def __init__(self):
        super().__init__()
        self.register_buffer("rows", torch.eye(8, dtype=torch.float64)[:6])

    def sample(self, batch):
        self.rows.data.copy_(batch.keys.embeddings.detach()[:1].expand(6, -1))
        columns = torch.arange(6).expand(len(batch.anchors), -1)
        return Negatives(Rows.unknown(self.rows), Columns(columns))


class Detached(NegativeSampler):
    def sample(self, batch):
        return Negatives(batch.keys.detach())


class NaNGradient(NegativeSampler):
    """0 · ∞ in the backward pass."""

    def sample(self, batch):
        keys = batch.keys.embeddings
        return Negatives(batch.keys.with_embeddings(keys + (keys - keys).sqrt()))


class SinglePrecision(NegativeSampler):
    def sample(self, batch):
        return Negatives(batch.keys.with_embeddings(batch.keys.embeddings.float()))


class Drawing(NegativeSampler):
    """One key for all anchors; subclasses say how it is drawn."""

    def sample(self, batch):
        row = self.draw(batch, len(batch.keys))
        return Negatives(batch.keys.select(torch.tensor([row])))


class Unseeded(Drawing):
    count = itertools.count()

    def draw(self, batch, bound):
        return next(self.count) % bound


class KeyedBySeedAlone(Drawing):
    def draw(self, batch, bound):
        seed, device = batch.context.draws.seed, batch.anchors.embeddings.device
        return int(Draws(seed).random(self.stream, device).integers(bound, 1))


class AdvancesTorch(Drawing):
    def draw(self, batch, bound):
        return int(torch.randint(bound, ()))


class AdvancesRandom(Drawing):
    def draw(self, batch, bound):
        return random.randrange(bound)


class AdvancesNumPy(Drawing):
    def draw(self, batch, bound):
        return int(np.random.randint(bound))


class ListensToTorch(Drawing):
    """Leaves the global generator as it is, but depends on it."""

    def draw(self, batch, bound):
        generator = torch.Generator().manual_seed(torch.initial_seed() + batch.context.draws.step)
        return int(torch.randint(bound, (), generator=generator))


class CountsItsCalls(NegativeSampler):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def sample(self, batch):
        self.calls += 1
        return Negatives(batch.keys.select(torch.arange(self.calls % 5, len(batch.keys))))


class ForgetfulQueue(Queue):
    """Saves nothing."""

    def __init__(self):
        super().__init__(70)

    def get_extra_state(self):
        return {}

    def check_state(self, state):
        pass

    def set_extra_state(self, state):
        pass


class PickledQueue(Queue):
    """Saves an object of its own, which needs pickle."""

    def __init__(self):
        super().__init__(70)

    def get_extra_state(self):
        return {**super().get_extra_state(), "more": Draws()}


class ForgetsItsPlace(Queue):
    """Restores the rows, and with them the next negatives, but not where it writes."""

    def __init__(self):
        super().__init__(70)

    def set_extra_state(self, state):
        super().set_extra_state({**state, "values": {**state["values"], "next": 0}})


class QueueInABuffer(NegativeSampler):
    """Its memory is a buffer, so that a cast of the model rounds it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("rows", torch.eye(8, dtype=torch.float64))

    def sample(self, batch):
        negatives = Negatives(Rows.unknown(self.rows.to(batch.anchors.embeddings)))
        return Sampled(negatives, batch.keys.embeddings[:8].detach())

    def update(self, seen):
        self.rows.copy_(seen)


class SecretlyLocalQueue(Queue):
    """Differs between ranks, of which only one is saved."""

    def __init__(self):
        super().__init__(70, gather=False)
        self.per_rank = False


class GathersNow(NegativeSampler):
    """An exchange that one rank leaves out."""

    def sample(self, batch):
        if batch.context.draws.rank == 1:
            batch = batch.gathered()
        return batch.all_keys()


class GathersWithoutGradient(NegativeSampler):
    def sample(self, batch):
        if not dist.is_initialized():
            return batch.all_keys()
        parts = [None] * dist.get_world_size()
        dist.all_gather_object(parts, batch.keys.detach())
        return Negatives(Rows.joined(parts))


BROKEN = [
    (WrongMask, values.shapes_and_types_fit, r"mask must be bool \[32, 1\], got .* \(3, 1\)"),
    (IntegerMask, values.shapes_and_types_fit, r"mask must be bool \[32, 32\], got torch.int64"),
    (BeyondThePool, values.columns_lie_in_the_pool, "columns holds 32, but the pool has 32 rows"),
    (Repeats, values.no_column_is_repeated, r"anchor 0 has \[1, 1\]"),
    (NaNWeight, values.weights_are_finite, "log_weight holds NaN"),
    (Long, values.pool_rows_have_unit_length, "row 0 has length 2"),
    (ForgetsWhoIsWho, values.no_anchor_meets_its_own_sample, r"step 0 \(views\): anchor 0, of sa"),
    (NamelessQueue, values.no_anchor_meets_its_own_sample, r"training step [1-5] \(views\)"),
    (SilentlyFewer, values.fewer_than_asked_for_are_told_of, "but 2 are given where an anchor h"),
    (NeedsSix, values.a_ragged_batch_is_served, "out of range"),
    *BROKEN_COMPOSITION,
    *BROKEN_ATTRACTION,
    (WritesWhileSampling, gradients.the_loss_is_that_of_the_negatives, "gradient by the views"),
    (Detached, gradients.keys_of_the_batch_carry_their_gradient, "but detached from them"),
    (NaNGradient, gradients.gradients_are_finite_at_any_temperature, "gradient is not finite"),
    (SinglePrecision, gradients.embeddings_may_have_any_floating_type, "float32, the anchors of"),
    (Unseeded, draws.the_same_seed_gives_the_same_run, r"step\[0\].negatives\[0\].rows.embed"),
    (KeyedBySeedAlone, draws.draws_change_with_seed_step_and_call, "not with the step and call"),
    (AdvancesTorch, draws.the_global_generators_are_left_alone, "of torch was advanced"),
    (AdvancesRandom, draws.the_global_generators_are_left_alone, "of random was advanced"),
    (AdvancesNumPy, draws.the_global_generators_are_left_alone, "of numpy was advanced"),
    (ListensToTorch, draws.the_global_generators_are_left_alone, "depends on the seed of a glob"),
    (CountsItsCalls, state.only_a_finished_step_changes_state, "step 0 is another one after an"),
    (WritesWhileSampling, state.only_a_finished_step_changes_state, "an evaluation changed the sa"),
    (ForgetfulQueue, state.a_saved_state_restores_the_next_negatives, "the first evaluation aft"),
    (PickledQueue, state.a_saved_state_restores_the_next_negatives, "Weights only load failed"),
    (ForgetsItsPlace, state.a_resumed_run_equals_an_uninterrupted_one, r"differs: step\[[5-9]\]"),
    (QueueInABuffer, state.casting_the_module_keeps_its_memory, "after a cast, step 1 differs"),
    (SecretlyLocalQueue, ranks.ranks_equal_one_process, "ranks 1 and 0 hold other states without"),
    (GathersNow, ranks.ranks_equal_one_process, "a rank failed, or left another one waiting"),
    (GathersWithoutGradient, ranks.ranks_equal_one_process, "the gradient of rank 0, averaged"),
]
