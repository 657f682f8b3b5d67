"""Samplers that attract rows, and break what the kit says of these."""

from __future__ import annotations

from dataclasses import replace

import torch

from negplug import NegativeSampler
from negplug.testing import values


class Attracting(NegativeSampler):
    """Attracts a key of each anchor's next sample, which is no negative then."""

    attracts = True

    def columns(self, batch):
        keys = len(batch.keys)
        another = batch.anchors.ids[:, None] != batch.keys.ids
        return (torch.arange(keys) * another).argmax(1, keepdim=True)

    def sample(self, batch):
        columns = self.columns(batch)
        kept = torch.ones(len(columns), len(batch.keys), dtype=torch.bool)
        kept.scatter_(1, columns.clamp(max=len(batch.keys) - 1), False)
        return replace(batch.all_keys().masked(kept), attracted=columns)


class PushesToo(Attracting):
    def sample(self, batch):
        return replace(batch.all_keys(), attracted=self.columns(batch))


class AttractsTwice(Attracting):
    def columns(self, batch):
        return super().columns(batch).expand(-1, 2)


class AttractsItsOwn(Attracting):
    def columns(self, batch):
        return batch.positives


class AttractsBeyond(Attracting):
    def columns(self, batch):
        return torch.full_like(batch.positives, len(batch.keys))


BROKEN_ATTRACTION = [
    (PushesToo, values.what_is_attracted_is_no_negative, "as a negative and attracts it"),
    (AttractsTwice, values.what_is_attracted_is_no_negative, "attracts a row twice"),
    (AttractsItsOwn, values.what_is_attracted_is_no_negative, "attracts its own sample"),
    (AttractsBeyond, values.columns_lie_in_the_pool, "attracted holds 32, but the pool has 32"),
]
