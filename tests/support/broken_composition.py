"""Samplers as a third party might write them, which do not fit together with others."""

from __future__ import annotations

from dataclasses import replace

import torch

from negplug import Negatives, NegativeSampler
from negplug.testing import composition


class Misnamed(NegativeSampler):
    """Passes other rows off as the keys of the batch."""

    def sample(self, batch):
        return Negatives(replace(batch.keys, embeddings=-batch.keys.embeddings))


class ForgetsIndexes(NegativeSampler):
    def sample(self, batch):
        return Negatives(replace(batch.keys, indexes=None, name=""))


class ForgetsLabels(NegativeSampler):
    def sample(self, batch):
        keys = batch.keys
        return Negatives(replace(keys, labels=torch.full_like(keys.ids, -1), name=""))


class NoSource(NegativeSampler):
    """Works as the outermost sampler alone."""

    def sample(self, batch):
        if self.stream:
            raise ValueError("I serve nobody")
        return batch.all_keys()


class InfiniteAsASource(NegativeSampler):
    """Has useless rows for whoever reads it."""

    def sample(self, batch):
        keys = batch.keys
        return Negatives(keys.with_embeddings(keys.embeddings / (self.stream == 0)))


BROKEN_COMPOSITION = [
    (Misnamed, composition.rows_are_what_they_are_called, "called 'keys' but holds other rows"),
    (ForgetsIndexes, composition.rows_keep_what_is_known_of_them, "have lost their indexes"),
    (ForgetsLabels, composition.rows_keep_what_is_known_of_them, "have lost their labels"),
    (NoSource, composition.it_serves_as_a_source, r"^.*\n- .*cannot have .*: I serve nobody"),
    (InfiniteAsASource, composition.it_serves_as_a_source, r"step 0 of .* has loss (nan|inf)"),
]
