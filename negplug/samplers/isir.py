"""``isir()``: draws from the softmax over the data set by iterated importance resampling.

Source: Tjelmeland 2004, "Using all Metropolis–Hastings proposals to estimate mean values"; Andrieu,
Lee & Vihola 2018, "Uniform ergodicity of the iterated conditional SMC and geometric ergodicity of
particle Gibbs samplers" (arXiv:1312.6432, section 3, i-SIR), aimed at the target of EMC² (Yau et
al. 2024, arXiv:2404.10575). For the chain of an anchor with state Z and the samples c of the batch,

    candidates  {c in the batch} ∪ {Z},
    w_c         softmax over the candidates of their logits S_c,
    gradient    Σ_c w_c ∇S_c                         (Rao–Blackwell: the weights themselves),
    new state   one draw from w.

A batch drawn uniformly without replacement keeps the chain reversible with respect to the softmax
over all samples at every batch size, the state inside the batch included, which is then one
candidate and not two. It costs the softmax of the batch and one more column; nothing is
sequential, and there is no burn-in.

States, views and options are those of :mod:`negplug.samplers.chains.sampler`. With
``out_of_batch="drop"`` the weights that are left are the softmax over the batch, so that nothing
of the data set remains in the gradient. Estimator: ``"posterior"``.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from negplug.contract.hookspecs import SamplerSpec, hookimpl
from negplug.contract.sampler import NegativeSampler
from negplug.kernels.chain import Moves, resample, softmax_of_some
from negplug.kernels.random.numbers import RandomNumbers
from negplug.samplers.chains.sampler import ChainSampler, OutOfBatch


class Isir(ChainSampler):
    """Weighted draws from the softmax over the data set, by iterated resampling.

    Args:
        out_of_batch: What becomes of states outside the batch: ``"recompute"`` embeds them anew,
            one sample per anchor and step; ``"cached"`` takes their last embeddings; ``"drop"``
            leaves them out.
        size: Number of samples, which may be more than the data set says that it has, where each
            pass shows others; None takes the run's, if that is known.
        source: Whose rows are candidates; those of the batch, of all ranks, by default.

    Raises:
        ValueError, TypeError: If an argument cannot be used.
    """

    def __init__(
        self,
        out_of_batch: OutOfBatch = "cached",
        size: int | None = None,
        source: NegativeSampler | None = None,
    ) -> None:
        super().__init__("isir", out_of_batch, size, source)

    def noise(self, scores: Tensor, random: RandomNumbers) -> Tensor:
        """Return standard Gumbel variables, ``[N, 1 + C]``; the first is the state's."""
        return random.exponential((1 + scores.shape[1], len(scores)), scores.dtype).log_().neg_().T

    def move(
        self, scores: Tensor, initial: Tensor, place: Tensor, noise: Tensor, step: int
    ) -> Moves:
        """Draw each chain's next state from the weights of its candidates."""
        return resample(scores, noise, initial, place)

    def left(self, scores: Tensor, weights: Tensor) -> Tensor:
        """Return the softmax over the batch, whose shares of all draws may have underflowed."""
        return softmax_of_some(scores)


@hookimpl
def negplug_samplers() -> Iterable[SamplerSpec]:
    """Offer ``isir``."""
    yield SamplerSpec(
        "isir",
        Isir,
        "softmax draws over the data set, by iterated resampling",
        "Andrieu et al. 2018, arXiv:1312.6432; Yau et al. 2024, arXiv:2404.10575",
    )
