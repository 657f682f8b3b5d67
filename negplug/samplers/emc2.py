"""``emc2()``: Metropolis–Hastings draws from the softmax over the whole data set.

Source: Yau et al. 2024, "EMC²: Efficient MCMC negative sampling for contrastive learning with
global convergence" (arXiv:2404.10575, algorithm 1). The gradient of the global loss needs
E_{j ~ p_i} ∇s_ij with p_i the softmax over *all* negatives of anchor i. A chain per anchor draws
from it, whatever the batch size: with Z its state and S the logits, a step proposes the R samples
of the batch one after another, in random order,

    for r = 1 … R:   Z ← c_r   if   S(c_r) − log u_r > S(Z),      u_r uniform in (0, 1],

which accepts with probability min{1, e^{S(c_r) − S(Z)}}. The first P = burn-in states are passed
over, the R − P later ones averaged, repeats included:

    ∇ log Σ_j e^{S_j} ≈ (1/(R − P)) Σ_{r > P} ∇S(Z_r).

The state is kept for the anchor's next visit. What differs from the paper, and why:

- States are samples, not single views: both views of a sample enter a batch together, so over
  single views detailed balance fails and the gradient stays biased (by 16 % at τ = 0.2 where
  ``tests/samplers/chains/test_exactness.py`` measures it); see
  :mod:`negplug.samplers.chains.grouping`.
- Each view of a sample has a chain of its own, since each has a softmax of its own.
- The state's logit is taken with the present anchor wherever the state's embedding is known: in
  the batch, cached, or embedded anew. The paper compares with the one stored at the last visit.
- Views are averaged by their conditional softmax instead of drawn (Rao–Blackwell).
- The order of proposals is drawn anew in each step: a fixed one is far from the softmax.
- A chain starts at its first proposal, which it accepts.

Proposals without replacement are close to independent ones as long as the square of their number
is small against that of the samples; ``isir()`` has no such condition.

States and options are those of :mod:`negplug.samplers.chains.sampler`; how a chain is computed
without a loop over its proposals is told in :mod:`negplug.kernels.chain`.
Estimator: ``"posterior"``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from negplug.contract.hookspecs import SamplerSpec, hookimpl
from negplug.contract.inputs import check_integer
from negplug.contract.sampler import NegativeSampler
from negplug.kernels.chain import Moves, chain_moves
from negplug.kernels.random.numbers import RandomNumbers
from negplug.samplers.chains.sampler import ChainSampler, OutOfBatch


class Emc2(ChainSampler):
    """Draws from the softmax over the data set, by Metropolis–Hastings.

    Args:
        burn_in: How many of a step's first states do not count as draws: a share of its proposals,
            in [0, 1), or a number.
        out_of_batch: What becomes of states outside the batch: ``"recompute"`` embeds anew those
            that survive the burn-in; ``"cached"`` takes their last embeddings; ``"drop"`` leaves
            them out.
        burn_in_stop: The training step from which on there is no burn-in, because old chains need
            none. None keeps the burn-in.
        size: Number of samples, which may be more than the data set says that it has, where each
            pass shows others; None takes the run's, if that is known.
        source: Whose rows are proposed; those of the batch, of all ranks, by default.

    Raises:
        ValueError, TypeError: If an argument cannot be used.
    """

    def __init__(
        self,
        burn_in: float = 0.5,
        out_of_batch: OutOfBatch = "cached",
        burn_in_stop: int | None = None,
        size: int | None = None,
        source: NegativeSampler | None = None,
    ) -> None:
        super().__init__("emc2", out_of_batch, size, source)
        self.burn_in = _check_burn_in(burn_in)
        if burn_in_stop is not None:
            check_integer("emc2", "burn_in_stop", burn_in_stop, 0)
        self.burn_in_stop = burn_in_stop

    def noise(self, scores: Tensor, random: RandomNumbers) -> Tensor:
        """Return standard exponential variables −log u, ``[N, C]``."""
        return random.exponential((scores.shape[1], len(scores)), scores.dtype).T

    def move(
        self, scores: Tensor, initial: Tensor, place: Tensor, noise: Tensor, step: int
    ) -> Moves:
        """Run each chain over the proposals.

        Raises:
            ValueError: If the first batch, taken for a full one, leaves no draw after the burn-in.
        """
        burn_in = self._burn_in_at(step, scores.shape[1])
        return chain_moves(scores, noise, initial, place, burn_in)

    def _burn_in_at(self, step: int, samples: int) -> float:
        """Return the burn-in of a step that proposes so many samples."""
        if self.burn_in_stop is not None and step >= self.burn_in_stop:
            return 0
        # Of all samples of the batch but the anchor's own: the same number on every rank.
        if step == 0 and isinstance(self.burn_in, int) and self.burn_in >= samples - 1 > 0:
            raise ValueError(
                f"emc2: burn_in={self.burn_in} leaves no draw of the {samples - 1} samples that a "
                f"batch proposes; give a smaller number, or a share such as 0.5"
            )
        return self.burn_in

    def settings(self) -> dict[str, Any]:
        """Return what must be the same in a run that resumes."""
        return super().settings() | {"burn_in": self.burn_in, "burn_in_stop": self.burn_in_stop}


def _check_burn_in(burn_in: float) -> float:
    if isinstance(burn_in, bool) or not isinstance(burn_in, (int, float)):
        raise TypeError(f"emc2: burn_in must be a share or a number of proposals, got {burn_in!r}")
    if burn_in < 0 or (isinstance(burn_in, float) and not burn_in < 1):
        raise ValueError(
            f"emc2: burn_in must be a share in [0, 1) or an integer from 0 on, got {burn_in!r}; "
            f"nothing would be left to draw"
        )
    return burn_in


@hookimpl
def negplug_samplers() -> Iterable[SamplerSpec]:
    """Offer ``emc2``."""
    yield SamplerSpec(
        "emc2",
        Emc2,
        "softmax draws over the data set, by Metropolis–Hastings",
        "Yau et al. 2024, arXiv:2404.10575",
    )
