"""``ContrastiveLoss``: a sampler and an objective at work, and the state they need.

One call samples negatives, computes the loss of every anchor and returns the mean over the
anchors that have a positive. What the sampler wants to remember is held back until the next
call after a backward pass, ``end_step()`` or ``state_dict()``, so that nothing is written between
forward and backward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from negplug.contract.adapter import LossSite
from negplug.contract.batch import ContrastiveBatch
from negplug.contract.dataset import DatasetAccess, Encoder
from negplug.contract.draws import Draws
from negplug.contract.inputs import check_temperature
from negplug.contract.objective import Objective
from negplug.contract.provenance import blaming
from negplug.contract.sampler import NegativeSampler
from negplug.contract.state import FORMAT
from negplug.diagnostics.observation import observe
from negplug.kernels import late
from negplug.kernels.distributed import rank
from negplug.kernels.precision import as_under_present_autocast, not_inference
from negplug.kernels.torch_private import outside_graphs
from negplug.loss.agreement import Agreement, fails_together
from negplug.loss.calls import CallState, check_saved
from negplug.plugins.build import as_objective, as_sampler


class ContrastiveLoss(nn.Module):
    """A contrastive loss whose negatives are a choice.

    One loss object serves one pair of heads: a sampler that remembers embeddings remembers those
    of every call.

    Args:
        sampler: A sampler or an expression.
        objective: An objective or an expression.
        temperature: τ > 0, the scale of the logits.
        seed: Seed of the random draws; by default torch's initial seed, so that
            ``seed_everything`` governs them. Reading it leaves the generator untouched.
        site: The host's loss that this one replaces, if any: samplers take from it what was not
            given.

    Attributes:
        observe: Whether calls measure what they sample, for logging.
        observed: What the last observed call measured, see :mod:`negplug.diagnostics.observation`.
        steps_by_backward: Whether the first call after a backward pass begins a new step, as in a
            plain loop; a loop that closes steps with :meth:`end_step` sets it to False.

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
        temperature: float = 0.1,
        seed: int | None = None,
        site: LossSite | None = None,
    ) -> None:
        super().__init__()
        self.sampler = as_sampler(sampler)
        self.objective = as_objective(objective)
        self.temperature = check_temperature(temperature)
        parts = list(self.sampler.all_samplers())
        for number, part in enumerate(parts):
            part.stream = number
        for part in reversed(parts):
            part.fit_host(site)  # sources first: who reads one may look at what it took
        # The second and further calls of a step remember for themselves.
        self.further = nn.ModuleList()
        remembers = self.objective.updates or any(part.updates for part in parts)
        self._fresh = [CallState(self.sampler, self.objective).copy()] if remembers else []
        if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
            raise TypeError(f"seed must be an integer, got {seed!r}")
        self._seed = (torch.initial_seed() if seed is None else seed) % (1 << 63)
        self.ranks = Agreement()
        self._backward_seen = False
        self._step = 0
        self._call = 0
        self.observe = False
        self.steps_by_backward = True
        self.observed: dict[str, float] = {}
        self.register_load_state_dict_pre_hook(_prepare_to_load)  # type: ignore[no-untyped-call]

    @fails_together
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
        batch = ContrastiveBatch.from_views((z0, z1, *more_views), indexes, labels)
        dataset = None if encode is None else DatasetAccess(encode=encode)
        loss = self.contrast(batch, dataset=dataset)
        if loss.requires_grad:
            self._advance()
        return loss

    @outside_graphs  # a compiled model breaks its graph here; imports nothing until then
    @fails_together
    def contrast(
        self,
        batch: ContrastiveBatch,
        objective: Objective | None = None,
        temperature: float | None = None,
        dataset: DatasetAccess | None = None,
    ) -> Tensor:
        """Return the mean loss of a batch that an adapter has built.

        Args:
            batch: Anchors, keys and ids.
            objective: Instead of the loss's own.
            temperature: Instead of the loss's own.
            dataset: What the run can say of the data set that the batch's indexes count.
        """
        tau = self.temperature if temperature is None else check_temperature(temperature)
        if batch.training:
            self._after_backward()
        device = batch.anchors.embeddings.device
        dataset = batch.context.dataset if dataset is None else dataset
        if dataset.encode is not None:
            # Samplers ask where autocast is off.
            encode = as_under_present_autocast(dataset.encode, device)
            dataset = replace(dataset, encode=encode)
        parts = {"sampler": self.sampler, "objective": objective or self.objective}
        given = self.temperature if temperature is None else temperature
        self._seed = self.ranks.settle(self._seed, self._step, batch, parts, given)
        draws = Draws(self._seed, self._step, self._call, rank())
        batch = batch.within(draws, tau, dataset)
        self.ranks.watch(batch)
        sampler, own = self._of_call(batch.training)
        objective = own if objective is None else objective
        try:
            # Similarities in half precision carry three digits; the rows are float32 already.
            with torch.autocast(device.type, enabled=False):
                negatives = sampler(batch)
                with blaming(objective.provider, "the objective"):
                    losses: Tensor = objective(batch, negatives, tau)
            number = self.ranks.anchors_with_positive(batch)
        except Exception:
            sampler.forget(batch)
            raise
        if batch.training:
            self._call += 1
        if self.observe:
            self.observed = observe(batch, sampler, negatives)
        loss = losses.sum() / number
        if batch.tie is not None:
            # Every rank takes part in the backward pass of the gathering, whatever it used.
            loss = loss + batch.tie
        if batch.training:
            loss.register_hook(self._see_backward)  # type: ignore[no-untyped-call]
        return loss

    def end_step(self) -> None:
        """Close the training step, if one is open, and apply what samplers held back."""
        if self._call:
            self._advance()
        self._flush()

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return all sampler state, what samplers held back included.

        Raises:
            ValueError: If a batch before could not be used, and a GPU has only said so now.
        """
        late.settle()
        self._after_backward()
        self._flush()
        return super().state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Restore what :meth:`state_dict` returned; everything or, if that fails, nothing.

        Raises:
            ValueError: If the state is damaged, or was saved with other settings.
        """
        before = self.state_dict()
        try:
            return super().load_state_dict(*args, **kwargs)
        except Exception as error:
            super().load_state_dict(before)
            if isinstance(error, RuntimeError):  # of torch, about missing and unexpected keys
                raise ValueError(f"{error}; the file is damaged, or another sampler's") from error
            raise

    def get_extra_state(self) -> dict[str, int]:
        """Return the counters that key the random draws, and the calls with state of their own."""
        counters = {"seed": self._seed, "step": self._step, "call": self._call}
        return {"format": FORMAT, **counters, "further": len(self.further)}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Restore the counters, and make room for the state of further calls."""
        self._seed, self._step, self._call = state["seed"], state["step"], state["call"]
        del self.further[state["further"] :]
        while len(self.further) < state["further"]:
            self._add_call()

    def extra_repr(self) -> str:
        """Show the expressions."""
        return f"{self.sampler}, {self.objective}, temperature={self.temperature}"

    def _of_call(self, training: bool) -> tuple[NegativeSampler, Objective]:
        """Return the sampler and the objective with the state of this call of the step.

        An evaluation, which is no step, reads the first call's.
        """
        if not (training and self._fresh and self._call):
            return self.sampler, self.objective
        while len(self.further) < self._call:
            self._add_call()
        call = cast(CallState, self.further[self._call - 1])
        return call.sampler, call.objective or self.objective

    def _add_call(self) -> None:
        self.further.append(self._fresh[0].copy())

    def _remembering(self) -> Iterator[NegativeSampler | Objective]:
        """Yield the samplers and objectives of all calls."""
        yield self.sampler
        yield self.objective
        for call in self.further:
            yield from cast("Iterator[NegativeSampler | Objective]", call.children())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ContrastiveLoss:
        with not_inference():
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
            for call in self._fresh:
                call._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _flush(self) -> None:
        for part in self._remembering():
            part.flush()

    def _see_backward(self, _: Tensor) -> None:
        self._backward_seen = True

    def _after_backward(self) -> None:
        """Apply what was held back, and close the step, once its backward pass is over."""
        if self._backward_seen:
            # Not before: an earlier call of the step may still need what autograd saved.
            self._backward_seen = False
            self._flush()
            if self.steps_by_backward and self._call:
                self._advance()

    def _advance(self) -> None:
        self._step += 1
        self._call = 0


def _prepare_to_load(
    loss: nn.Module, state: dict[str, Any], prefix: str, _: Any, strict: bool, *__: Any
) -> None:
    """Check the saved state of samplers and objectives before anything is loaded.

    A hook, so that it also runs where the loss is part of a model whose state is loaded. What is
    held back belongs to the state that is replaced, and is dropped.
    """
    assert isinstance(loss, ContrastiveLoss)
    check_saved(CallState(loss.sampler, loss.objective), state, prefix, strict)
    loss._backward_seen = False
    loss.ranks.forget()
    for part in loss._remembering():
        part.drop()
