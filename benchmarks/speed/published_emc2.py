"""A sampling step of EMC² as its authors run it: the baseline of ``emc2_step.py``.

Source: Yau et al. 2024, arXiv:2404.10575, algorithm 1, and the authors' implementation
(https://github.com/amazon-science/contrastive_emc2, ``sampler.py`` and ``main_mcmc.py``, the path
for fresh augmentations), written anew in its form, on one process:

- scores are exponentials of similarities, own views have score 0;
- the loop takes one of the 2B columns at a time: uniform draws, ratio of the scores, masked writes
  of states and scores, and after the burn-in a list of (anchor, column) pairs;
- one chain serves both views, one after the other: 2 walks of B chains through 2B columns;
- the gradient flows through the similarities that the pairs pick out of the matrix;
- states outside the batch are asked for anchor by anchor, in Python.

Left out: collectives of a single process, anomaly detection, and the encoder: images outside the
batch are looked up in a table, and their rows still take gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_NONE = -1


class PublishedEmc2:
    """Chains over the views of a batch, one chain for each sample of the data set.

    Args:
        size: n, number of samples in the data set.
        inverse_temperature: β = 1/τ.
        burn_in: Share of the 2(B − 1) proposals.
        device: Where the chains are.
    """

    def __init__(
        self,
        size: int,
        inverse_temperature: float,
        burn_in: float = 0.5,
        device: torch.device | None = None,
    ) -> None:
        self.beta = inverse_temperature
        self.burn_in = burn_in
        self.states = torch.full((size,), _NONE, device=device)
        smallest = torch.finfo(torch.float32).smallest_normal
        self.scores = torch.full((size,), smallest, device=device)

    def loss(self, rows: Tensor, indexes: Tensor, embed: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what the negatives add to the loss, a scalar, and move the chains on.

        Args:
            rows: ``[2B, d]`` unit rows, one view after the other.
            indexes: ``[B]`` int64, data set indexes.
            embed: Data set indexes ``[m]`` → rows ``[m, d]``, for samples outside the batch.
        """
        number, batch = len(rows), len(indexes)
        passed = int(self.burn_in * (number - 2))
        similarities = rows @ rows.T
        own = torch.eye(batch, dtype=torch.bool, device=rows.device)
        _zero_blocks(similarities, own)
        with torch.no_grad():
            scores = torch.exp(self.beta * similarities)
            _zero_blocks(scores, own)
            pairs, chain, stays = self._walks(scores, indexes, passed)
            first = self.states[indexes].repeat(2)
            moved = chain != _NONE
            self.states[indexes[moved]] = indexes.repeat(2)[chain[moved]]
        scale = self.beta / number
        inside = similarities[pairs[:, 0], pairs[:, 1]].sum() * scale / (number - 2 - passed)
        asked, samples, times = [], [], []
        for anchor, (_, sample, often) in enumerate(zip(rows, first, stays, strict=True)):
            # The burn-in a second time: what is counted comes after it already. So it is there.
            if often > passed:
                asked.append(anchor)
                samples.append(int(sample))
                times.append(often - passed)
        if not asked:
            return inside
        distinct = sorted(set(samples))
        place = {sample: number for number, sample in enumerate(distinct)}
        outside = embed(torch.tensor(distinct, device=rows.device))[
            [place[sample] for sample in samples]
        ]
        outside = outside * torch.stack(times)[:, None]
        return inside + (rows[asked] * outside).sum() * scale / (number - 2)

    def _walks(self, scores: Tensor, indexes: Tensor, passed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Walk both views' chains; return pairs ``[P, 2]``, final columns and stays ``[2B]``."""
        batch = len(indexes)
        chain = torch.full_like(indexes, _NONE)
        everyones, stays = [], []
        for view in range(2):
            anchors = torch.arange(view * batch, (view + 1) * batch, device=scores.device)
            score = self.scores[indexes]
            pairs = torch.cat(masked_walk(scores[anchors], score, chain, anchors, passed), dim=1).T
            self.scores[indexes] = score
            stays.append(pairs[pairs[:, 1] == _NONE][:, 0])
            everyones.append(pairs)
        pairs = torch.cat(everyones)
        stay = torch.bincount(torch.cat(stays), minlength=2 * batch)
        return pairs[pairs[:, 1] != _NONE], chain, stay


def masked_walk(
    scores: Tensor, score: Tensor, chain: Tensor, anchors: Tensor, passed: int
) -> list[Tensor]:
    """Walk N chains through R columns, one column at a time; the form as published.

    Args:
        scores: ``[N, R]``, e^{s/τ}, 0 for what is no proposal.
        score: ``[N]``, those of the states; changed in place.
        chain: ``[N]`` int64, columns of the states, -1 = the one that the chain came with; changed
            in place.
        anchors: ``[N]`` int64, their names.
        passed: Burn-in, in columns.

    Returns:
        Names and states ``[2, …]`` after each counted column.
    """
    uniform = torch.empty(len(scores), device=scores.device)
    counted, accepts = [], []
    for column in range(scores.shape[1]):
        proposed = scores[:, column]
        ratio = proposed / score
        accept = uniform.uniform_() < ratio
        score[accept] = proposed[accept]
        chain[accept] = column
        own = proposed == 0
        if column > passed:
            counted.append(torch.stack((anchors, chain))[:, ~own])
            accepts.append(accept)
    torch.cat(accepts).float().mean()  # the acceptance rate, which is logged
    return counted


def _zero_blocks(square: Tensor, own: Tensor) -> None:
    """Write 0 for each view of an anchor's own sample, block by block."""
    half = len(own)
    for rows in (slice(half), slice(half, None)):
        for columns in (slice(half), slice(half, None)):
            square[rows, columns][own] = 0
