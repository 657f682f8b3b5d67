"""``emc2()`` and ``isir()`` in loops, one anchor and one proposal at a time, state in dicts.

Random numbers are functions of step, sample, view and image alone (:func:`held`), so that the
loops, the samplers and samplers on several ranks meet the same ones.
"""

from __future__ import annotations

import math

import torch

SAMPLES = 64
"""Random numbers are there for as many samples, and for two rows of one sample in three views."""

STATE = SAMPLES
"""In place of an image: the state that a chain comes with."""


def uniforms(step):
    """u in (0, 1) of each sample, view and image, ``[n, V, n + 1]``; and each image's place."""
    generator = torch.Generator().manual_seed(100 + step)
    table = torch.rand(SAMPLES, 6, SAMPLES + 1, dtype=torch.float64, generator=generator)
    return table.clamp(1e-12, 1 - 1e-12), torch.rand(SAMPLES, generator=generator)


def held(sampler):
    """Hold the order of proposals and the noise of a sampler fixed."""

    class Held(type(sampler)):
        def sample(self, batch):
            self.batch = batch
            return super().sample(batch)

        def order(self, samples, random):
            places = uniforms(self.batch.context.draws.step)[1][samples.indexes % SAMPLES]
            order = places.masked_fill(samples.missing, 2.0).argsort()
            ordered = {"indexes": samples.indexes[order], "rows": samples.rows[:, order]}
            self.pooled = samples._replace(**ordered)
            return self.pooled

        def noise(self, scores, random):
            table, _ = uniforms(self.batch.context.draws.step)
            images = self.pooled.indexes.clamp(max=SAMPLES - 1)
            resamples = super().noise(scores, random).shape[1] > len(images)
            if resamples:
                images = torch.cat([torch.tensor([STATE]), images])
            exponential = -table[self.batch.anchors.indexes, anchor_views(self.batch)][
                :, images
            ].log()
            return -exponential.log() if resamples else exponential

    sampler.__class__ = Held
    return sampler


def anchor_views(batch):
    views = batch.anchors.views
    return numbered(batch.anchors.indexes) if views is None else views


def numbered(indexes):
    seen, views = {}, []
    for index in indexes.tolist():
        views.append(seen.get(index, 0))
        seen[index] = views[-1] + 1
    return torch.tensor(views)


class Chains:
    """The reference. ``kind`` is ``"emc2"`` or ``"isir"``."""

    def __init__(self, kind, out_of_batch, burn_in=0.5, burn_in_stop=None):
        self.kind, self.out_of_batch = kind, out_of_batch
        self.burn_in, self.burn_in_stop = burn_in, burn_in_stop
        self.states, self.scores, self.cache = {}, {}, {}

    def step(self, batch, number, temperature, encode):
        """Return for each anchor {key: weight} and {image: [(row, weight), …]}; move on.

        ``measured`` then holds what is worth logging, anchor by anchor, and ``known`` the chains
        that had a state before.
        """
        self.batch, self.number, self.tau, self.encode = batch, number, temperature, encode
        self.table, places = uniforms(number)
        self.known = set(self.states)
        self.measured = {"acceptance": [], "outside": [], "staleness": [], "effective_draws": []}
        keys = batch.keys.indexes.tolist()
        key_views = numbered(batch.keys.indexes) if batch.keys.views is None else batch.keys.views
        self.images = {}
        for key, (image, view) in enumerate(zip(keys, key_views.tolist(), strict=True)):
            self.images.setdefault(image, {}).setdefault(view, key)
        self.order = sorted(self.images, key=lambda image: float(places[image]))
        found, ends = [], {}
        views = anchor_views(batch).tolist()
        for anchor, (index, view) in enumerate(
            zip(batch.anchors.indexes.tolist(), views, strict=True)
        ):
            draws, end = self.anchor(anchor, index, view)
            found.append(draws)
            ends[index, view] = end
        for who, (state, score) in ends.items():
            if state is not None:
                self.states[who], self.scores[who] = state, score
        if self.out_of_batch == "cached":
            for image in keys:
                self.cache[image] = {}
            for key, (image, view) in enumerate(zip(keys, key_views.tolist(), strict=True)):
                self.cache[image][view] = batch.keys.embeddings[key].detach()
        return found

    def logit(self, anchor, row):
        return float(self.batch.anchors.embeddings[anchor].detach() @ row.detach()) / self.tau

    def score(self, anchor, rows):
        """The logit of an image: log mean_u e^{s_u}."""
        return math.log(sum(math.exp(self.logit(anchor, row)) for row in rows) / len(rows))

    def anchor(self, anchor, index, view):
        ids, key_ids = self.batch.anchors.ids.tolist(), self.batch.keys.ids.tolist()
        proposals = {}
        for image in self.order:
            rows = self.images[image]
            if image != index and key_ids[next(iter(rows.values()))] != ids[anchor]:
                proposals[image] = self.score(
                    anchor, [self.batch.keys.embeddings[k] for k in rows.values()]
                )
        state = self.states.get((index, view))
        initial, rows = None, None
        if state in proposals:
            initial = proposals[state]
        elif state is not None:
            initial = self.scores[index, view]
            if self.out_of_batch == "cached":
                rows = list(self.cache[state].values())
                initial = self.score(anchor, rows)
        walk = self.emc2 if self.kind == "emc2" else self.isir
        u = self.table[index, view].tolist()
        shares, end = walk(proposals, state, initial, u)
        outside = state is not None and state not in proposals
        if self.out_of_batch == "recompute" and outside and shares.get(state, 0) > 0:
            rows = [row[0] for row in self.encode(torch.tensor([state]))]
            rows = [row / row.norm() for row in rows]
            initial = self.score(anchor, rows)
            shares, end = walk(proposals, state, initial, u)
        if proposals:
            self.measured["acceptance"].append(self.accepted)
        if shares:
            self.measured["outside"].append(shares.get(state, 0) if outside else 0)
        if state in proposals:
            self.measured["staleness"].append(abs(initial - self.scores[index, view]))
        if self.out_of_batch == "drop" and outside:
            shares.pop(state, None)
            shares = {image: share / sum(shares.values()) for image, share in shares.items()}
        inside, elsewhere = {}, {}
        for image, share in shares.items():
            if image in proposals:
                of_views = {
                    key: self.batch.keys.embeddings[key] for key in self.images[image].values()
                }
                for key, weight in self.spread(anchor, share, of_views).items():
                    inside[key] = weight
            else:
                each = self.spread(anchor, share, dict(enumerate(rows)))
                elsewhere[image] = [(rows[n], weight) for n, weight in each.items()]
        weights = [*inside.values(), *(w for rows in elsewhere.values() for _, w in rows)]
        if weights:
            self.measured["effective_draws"].append(1 / sum(w * w for w in weights))
        return (inside, elsewhere), end

    def spread(self, anchor, share, rows):
        """A share of draws of an image, over its views by their own softmax."""
        exps = {name: math.exp(self.logit(anchor, row)) for name, row in rows.items()}
        return {name: share * e / sum(exps.values()) for name, e in exps.items()}

    def emc2(self, proposals, state, initial, u):
        passed = self.burn_in
        if self.burn_in_stop is not None and self.number >= self.burn_in_stop:
            passed = 0
        elif isinstance(passed, float):
            passed = math.floor(passed * len(proposals))
        passed = min(passed, max(len(proposals) - 1, 0))
        now, score, draws, accepted = state, initial, [], 0
        for number, (image, proposed) in enumerate(proposals.items()):
            if now is None or math.log(u[image]) < proposed - score:
                now, score = image, proposed
                accepted += 1
            if number >= passed:
                draws.append(now)
        self.accepted = accepted / max(len(proposals), 1)
        if not draws and state is not None:
            draws = [state]
        return {image: draws.count(image) / len(draws) for image in draws}, (now, score)

    def isir(self, proposals, state, initial, u):
        candidates = dict(proposals)
        if state is not None:
            candidates.setdefault(state, initial)
        if not candidates:
            return {}, (None, None)
        total = sum(math.exp(score) for score in candidates.values())
        gumbel = {image: -math.log(-math.log(u[image])) for image in proposals}
        if state is not None and state not in proposals:
            gumbel[state] = -math.log(-math.log(u[STATE]))
        end = max(candidates, key=lambda image: candidates[image] + gumbel[image])
        self.accepted = float(end != state)
        weights = {image: math.exp(score) / total for image, score in candidates.items()}
        return weights, (end, candidates[end])
