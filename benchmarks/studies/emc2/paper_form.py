"""EMC² as published, with single views as states: for comparison only.

Source: Yau et al. 2024, arXiv:2404.10575, algorithm 1. The target of anchor a is the softmax over
all views of all other images, p(b | a) ∝ exp(s(a, b)/τ). A Metropolis–Hastings chain holds one
view and its score; each of the R = 2(B−1) in-batch negatives is proposed once, in random order,
and replaces the state with probability

    min{1, exp(s_new/τ − stored score)};

the first half is burn-in, and the states after each later step, repeats included, are averaged:

    gradient = (1/τ) · [ −∇s(a, a⁺) + mean_r ∇s(a, Z_r) ],  through both arguments of s.

Written from the algorithm, not from its authors' code: states outside of the batch count, with
both views encoded anew, and nothing overflows. negplug's ``emc2`` differs in three ways, each of
which removes a bias of the form above:

- its state is an image, with weight Σ_views exp(s/τ). The views of an image always enter a batch
  together, so a chain over single views that is inside the batch sees its sibling proposed far
  more often than one outside does: detailed balance fails (``independent=True`` shows the cure
  that no mini-batch can afford, proposals drawn from the whole data set);
- the state's score is computed anew at each visit. A stored one is of older parameters;
- each view of an image has a chain of its own. With ``shared=True`` one chain serves both, as in
  the authors' code: the second view goes on from the state and the score that the first one left,
  although its softmax is another.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Encode = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Data set indexes ``[n]`` → embeddings of their two views, ``[n, d]`` each, with gradient."""

_NO_STATE = -1


class PaperForm(nn.Module):
    """The published estimator, called like ``negplug.ContrastiveLoss``.

    Args:
        size: n, number of images of the data set, with two views each.
        temperature: τ.
        burn_in: Share of the R steps whose states are not averaged.
        shared: Whether one chain serves both views of an anchor's image.
        independent: Whether R proposals are drawn from all negatives of the data set, instead of
            the batch's own.
        seed: Of proposals and acceptances.
    """

    states: Tensor
    scores: Tensor

    def __init__(
        self,
        size: int,
        temperature: float,
        burn_in: float = 0.5,
        shared: bool = False,
        independent: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.size = size
        self.temperature = temperature
        self.burn_in = burn_in
        self.shared = shared
        self.independent = independent
        self.generator = torch.Generator().manual_seed(seed)
        # A state is the number of a view: view v of image i is v·n + i.
        chains = size if shared else 2 * size
        self.register_buffer("states", torch.full((chains,), _NO_STATE))
        self.register_buffer("scores", torch.full((chains,), -math.inf))

    def forward(self, z0: Tensor, z1: Tensor, *, indexes: Tensor, encode: Encode) -> Tensor:
        """Return a loss whose gradient is the estimate; run every chain of the batch.

        Args:
            z0: ``[B, d]`` embeddings of the first view, of any length.
            z1: ``[B, d]`` embeddings of the second view.
            indexes: ``[B]`` data set indexes.
            encode: Embeds images outside of the batch.
        """
        anchors = nn.functional.normalize(torch.cat([z0, z1]), dim=1)
        own = torch.cat([indexes, indexes + self.size])  # [2B] numbers of the anchors' views
        proposals = self._proposals(own)  # [2B, R]
        chains, rounds = own, [slice(None)]
        if self.shared:
            chains, rounds = own % self.size, [slice(len(indexes)), slice(len(indexes), None)]

        # What a chain may visit: the batch, the chains' present states, and independent proposals.
        held = self.states[chains]
        outside = torch.cat([held[held != _NO_STATE], proposals.flatten()]) % self.size
        outside = torch.unique(outside)
        outside = outside[~torch.isin(outside, indexes)]
        pool, names = anchors, own
        if len(outside):
            rows = nn.functional.normalize(torch.cat(encode(outside)), dim=1)
            pool = torch.cat([anchors, rows])
            names = torch.cat([own, outside, outside + self.size])
        similarities = anchors @ pool.T / self.temperature  # [2B, K]
        column = own.new_full((2 * self.size,), _NO_STATE)
        column[names] = torch.arange(len(names), device=own.device)

        weights = torch.zeros_like(similarities)
        logits = similarities.detach()
        for part in rounds:
            visited = self._run(chains[part], proposals[part], logits[part], column)
            share = weights.new_full(visited.shape, 1 / visited.shape[1])
            weights[part].scatter_add_(1, column[visited], share)
        other_view = column[(own + self.size) % (2 * self.size)]
        positive = similarities.gather(1, other_view[:, None])[:, 0]
        return ((weights * similarities).sum(1) - positive).mean()

    def _proposals(self, own: Tensor) -> Tensor:
        """Return the views proposed to each anchor, ``[2B, 2(B−1)]``."""
        count = len(own) - 2
        if self.independent:
            # Numbers of the other images' views: skip over the own image in each half.
            drawn = torch.randint(2 * (self.size - 1), (len(own), count), generator=self.generator)
            drawn = drawn.to(own)
            view, image = drawn // (self.size - 1), drawn % (self.size - 1)
            return view * self.size + image + (image >= own[:, None] % self.size)
        keys = torch.rand(len(own), len(own), generator=self.generator).to(own.device)
        keys[own[:, None] % self.size == own % self.size] = 2.0
        return own[keys.argsort(dim=1)[:, :count]]

    def _run(self, chains: Tensor, proposals: Tensor, logits: Tensor, column: Tensor) -> Tensor:
        """Run some chains through their proposals; return the states after burn-in.

        Args:
            chains: ``[N]`` distinct chains.
            proposals: ``[N, R]`` views.
            logits: ``[N, K]`` s/τ of the anchors with all views that matter.
            column: View → column of ``logits``.

        Returns:
            ``[N, R − P]`` views.
        """
        count = proposals.shape[1]
        scores = logits.gather(1, column[proposals])
        noise = torch.rand(scores.shape, generator=self.generator).to(scores).log()
        # A first visit accepts its first proposal: the score of no state is −inf.
        state, score = self.states[chains], self.scores[chains]
        history = []
        for r in range(count):
            accept = noise[:, r] < scores[:, r] - score
            state = torch.where(accept, proposals[:, r], state)
            score = torch.where(accept, scores[:, r], score)
            history.append(state)
        self.states[chains], self.scores[chains] = state, score.to(self.scores)
        return torch.stack(history[int(self.burn_in * count) :], dim=1)
