"""``ContrastiveLoss``: a sampler and an objective at work, and the state they need.

One call samples negatives, computes the loss of every anchor and returns the mean over the
anchors that have a positive. Which step it belongs to, and what is remembered when that is over,
is :mod:`negplug.loss.stepped`'s; what is saved :mod:`negplug.loss.saved`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from negplug.contract.adapter import LossSite
from negplug.contract.attraction import attracting, check_handed_on, check_pulls
from negplug.contract.batch import ContrastiveBatch
from negplug.contract.dataset import DatasetAccess, Encoder
from negplug.contract.draws import Draws
from negplug.contract.negatives import Negatives
from negplug.contract.objective import Objective
from negplug.contract.provenance import blaming
from negplug.contract.sampler import NegativeSampler
from negplug.contract.streaming import check_streams, of_this_rank
from negplug.diagnostics.observation import observe
from negplug.kernels import late
from negplug.kernels.distributed import rank
from negplug.kernels.precision import as_under_present_autocast, without_autocast
from negplug.kernels.torch_private import outside_graphs, outside_selection
from negplug.loss import graphs, made_anew
from negplug.loss.agreement import Agreement, fails_together, seed_of_run
from negplug.loss.calls import CallState
from negplug.loss.graph_steps import GraphSteps
from negplug.loss.mean import mean_over_anchors
from negplug.loss.rehearsal import rehearse
from negplug.loss.steps import Steps
from negplug.loss.temperature import (
    LateNumber,
    LearnedTemperature,
    checked,
    resolved,
    sharpened,
)
from negplug.loss.towers import TwoTowerLoss
from negplug.plugins.build import as_objective, as_sampler

Witness = Callable[[ContrastiveBatch, tuple[Negatives, ...]], None]


class ContrastiveLoss(TwoTowerLoss):
    """A contrastive loss whose negatives are a choice.

    One loss object serves one pair of heads: a sampler that remembers embeddings remembers those
    of every call.

    Args:
        sampler: A sampler or an expression.
        objective: An objective or an expression.
        temperature: τ > 0, the scale of the logits; or a ``LearnedTemperature``.
        seed: Seed of the random draws; by default torch's initial seed, so that
            ``seed_everything`` governs them. Reading it leaves the generator untouched.
        site: The host's loss that this one replaces, if any: samplers take from it what was not
            given.

    Attributes:
        observe: Whether calls measure what they sample, for logging.
        call: Number of the latest call in its step.
        observed: What the last observed call measured, see :mod:`negplug.diagnostics.observation`.
        witness: Told of each call's batch and of the negatives that it was computed from.

    Raises:
        ValueError, TypeError: If an expression or the temperature cannot be used.

    Example:
        >>> loss_fn = ContrastiveLoss("uniform(num_negatives=10)", temperature=0.2)
        >>> z0, z1 = torch.randn(64, 128), torch.randn(64, 128)
        >>> loss = loss_fn(z0, z1)
    """

    def __init__(
        self,
        sampler: NegativeSampler | str = "in_batch()",
        objective: Objective | str = "infonce()",
        temperature: float | LearnedTemperature = 0.1,
        seed: int | None = None,
        site: LossSite | None = None,
    ) -> None:
        super().__init__()
        self.sampler = as_sampler(sampler)
        self.objective = as_objective(objective)
        self.temperature = checked(temperature)
        parts = list(self.sampler.all_samplers())
        for number, part in enumerate(parts):
            part.stream = number
        for part in reversed(parts):
            part.fit_host(site)  # sources first: who reads one may look at what it took
        self._alone = site is None  # a host's loss may be treated again
        self._turns = max(part.turns for part in parts)
        self._by_epoch = any(part.wants_epoch for part in parts)
        self._attracts = any(part.attracts for part in parts)
        if self._attracts:
            check_pulls(self.objective, self.sampler)
        check_streams(self.objective, self.sampler)
        self._streams = self.sampler.streams
        # The second and further calls of a step remember for themselves.
        self.further = nn.ModuleList()
        self._own = [CallState(self.sampler, self.objective)]  # in a list it has no keys
        self._fresh = [self._own[0].copy()] if self._own[0].updating else []
        self._seed = seed_of_run(seed)
        learns = isinstance(self.temperature, LearnedTemperature)
        self.graphs = GraphSteps(self.sampler, self.objective, learns=learns)
        self._tau = LateNumber()
        self.ranks = Agreement()
        self._steps = Steps()
        self.call = 0
        self.observe = False
        self.observed: dict[str, float] = {}
        self.witness: Witness | None = None
        self.check_before_loading()

    def __new__(cls, *_: Any, **__: Any) -> ContrastiveLoss:
        """Make a loss, a copy too, that graphs find."""
        loss_fn = super().__new__(cls)
        graphs.register(loss_fn)
        return loss_fn

    def forward(
        self,
        z0: Tensor,
        z1: Tensor,
        *more_views: Tensor,
        indexes: Tensor | None = None,
        labels: Tensor | None = None,
        encode: Encoder | None = None,
    ) -> Tensor:
        """Return the mean loss over all V·B anchors, each view against every other.

        Args:
            z0: ``[B, d]`` embeddings of the first view, of any length and floating type.
            z1: ``[B, d]`` embeddings of the second view.
            *more_views: Further views ``[B, d]``.
            indexes: ``[B]`` data set indexes, for samplers with per-sample state.
            labels: ``[B]`` integer metadata, for samplers that stratify.
            encode: Maps data set indexes ``[n]``, n ≥ 1, to V views ``[n, d]`` of those samples,
                embedded with the current parameters, for samplers that need samples outside the
                batch. Have BatchNorm in eval mode in it, and call the module itself, not DDP's
                wrapper: one rank may need it while another does not.

        Returns:
            A scalar in float32 or better, also under autocast.
        """
        views = (z0, z1, *more_views)
        if torch.compiler.is_compiling() and graphs.compiles(self, encode):
            return graphs.compiled(self, views, indexes, labels)
        return self._of_views(indexes, labels, encode, *views)

    @outside_graphs  # a compiled model breaks its graph here; imports nothing until then
    @fails_together
    def _of_views(
        self, indexes: Tensor | None, labels: Tensor | None, encode: Encoder | None, *views: Tensor
    ) -> Tensor:
        batch = ContrastiveBatch.from_views(views, indexes, labels)
        dataset = None if encode is None else DatasetAccess(encode=encode)
        return self._contrast(batch, dataset=dataset, shared=True)

    @outside_graphs
    @fails_together
    def contrast(
        self,
        batch: ContrastiveBatch,
        objective: Objective | None = None,
        temperature: float | Tensor | None = None,
        dataset: DatasetAccess | None = None,
    ) -> Tensor:
        """Return the mean loss of a batch that an adapter has built.

        Args:
            batch: Anchors, keys and ids.
            objective: Instead of the loss's own.
            temperature: Instead of the loss's own; a tensor that requires a gradient gets it.
            dataset: What the run can say of the data set that the batch's indexes count.
        """
        return self._contrast(batch, objective, temperature, dataset)

    @outside_selection()
    def _contrast(
        self,
        batch: ContrastiveBatch,
        objective: Objective | None = None,
        temperature: float | Tensor | None = None,
        dataset: DatasetAccess | None = None,
        shared: bool = False,
        done: Tensor | None = None,
        place: int = 0,
    ) -> Tensor:
        """As :meth:`contrast`; ``shared`` lets all calls of a step have the first one's state.

        In a compiled graph ``done`` is how many steps graphs have made. ``place`` is the number of
        the call in a step whose state serves an evaluation.
        """
        given = self.temperature if temperature is None else temperature
        tau, learned = resolved(given, self._tau)
        device = batch.anchors.embeddings.device
        captured = late.capturing(device)
        counts = captured and done is None  # a compiled graph, captured or not, counts itself
        if counts:
            done = self.graphs.captured()
        call = self._call_of(batch, shared) if done is None else None
        dataset = batch.context.dataset if dataset is None else dataset
        if dataset.encode is not None:
            # Samplers ask where autocast is off.
            encode = as_under_present_autocast(dataset.encode, device)
            dataset = replace(dataset, encode=encode)
        number = place if call is None else call.number
        step: int | Tensor = self._steps.number if call is None else call.step
        if done is not None:
            self._end_reached()
            step = self.graphs.number(done, self._steps, device)
        self.call = number
        if call is not None:
            terms = call.step, self.sampler, objective or self.objective, batch.anchors
            given = given if learned is None else learned
            epoch = self.epoch if self._by_epoch else None
            self._seed = self.ranks.settle(self._seed, given, *terms, self.named_parameters, epoch)
        draws = Draws(self._seed, step, place if call is None else call.drawn, rank())
        if done is not None:
            draws = self.graphs.draws(draws)
        training = batch.training if done is not None else call is not None
        if counts and training:
            self.graphs.advance()
        batch = batch.within(draws, tau, dataset, training, self.epoch)
        self.ranks.watch(batch)
        state = self._state(0 if shared else number)
        sampler = state.sampler
        if objective is None:
            objective = state.objective or self.objective
        try:
            # Similarities in half precision carry three digits; the rows are float32 already.
            with without_autocast(device):
                if self._turns > 1 and batch.first_step:
                    rehearse(state, objective, batch, self._turns)
                    self.ranks.disregard()
                negatives = sampler(batch)
                pulled = attracting(batch, negatives)
                if pulled is not batch:
                    check_pulls(objective, sampler)
                elif self._attracts:
                    check_handed_on(sampler, batch)
                if self._streams:
                    check_streams(objective, sampler)
                weighed = pulled, negatives
                if learned is not None:
                    weighed = sharpened(pulled, negatives, tau, learned)
                with blaming(objective.provider, "the objective"):
                    losses: Tensor = objective(*weighed, tau)
            # Where every anchor has a positive of its own, none is counted.
            loss = mean_over_anchors(pulled if batch.padded else batch, losses, self.ranks)
        except BaseException:
            call = None  # the traceback, which may be kept, would keep it
            raise
        finally:
            # Checkpointing stops what it computes again as soon as it has what it wants.
            held = state.release()
        if not captured and (call is None or call.times == 1):
            if self.observe:
                self.observed = observe(batch, sampler, negatives)
            if self.witness is not None:
                self.witness(batch, of_this_rank(negatives))
        if call is not None and loss.requires_grad:
            call.computed(loss, held)
            if not call.step and not call.number and self._alone and self._own[0].updating:
                text = f"{self.sampler}, {self.objective}"
                made_anew.warn_of_one_step(self, text, self._steps.passes)
        return loss

    def extra_repr(self) -> str:
        """Show the expressions."""
        return f"{self.sampler}, {self.objective}, temperature={self.temperature}"
