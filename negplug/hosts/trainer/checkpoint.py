"""What the callback saves in the Trainer's checkpoints, and finds again in them."""

from __future__ import annotations

from typing import Any

from negplug.hosts.composing.epochs import check_same
from negplug.hosts.injection import Injection
from negplug.hosts.trainer import several
from negplug.hosts.trainer.composition import Composition
from negplug.hosts.trainer.ownership import KeptState
from negplug.hosts.treatment import Treatment
from negplug.kernels.distributed import everyones, rank, world_size
from negplug.kernels.meeting import SAVED

_OF_THE_HOST = "of the host"
_LONGEST = 1000  # characters of an expression in a message


class CheckpointMixin:
    """The side of ``NegativeControl`` that saves and restores.

    Attributes:
        treatment: What the losses get.
        target: Name of the one loss to treat, if there is one.
        injection: The treated losses, while they are treated.
        composition: Composes the batches, if they are composed.
    """

    treatment: Treatment
    target: str | None
    injection: Injection | None
    composition: Composition | None
    _kept: KeptState
    _stage: str | None
    _untreated_before: bool  # whether the run goes on with one that was not treated

    @property
    def state_key(self) -> str:
        """The key of this callback's state in checkpoints: ``negplug``, or ``negplug/TARGET``."""
        return several.state_key(self.target, begun=self._stage is not None)

    def state_dict(self) -> dict[str, Any]:
        """Return the expressions and all state: tensors and built-in types only.

        Raises:
            RanksError: If this rank saves alone, and each rank has a state of its own.
        """
        losses, dataset = self._kept.saved, self._kept.owner.dataset
        # A run that resumes may change it; a reader of the file has to know it.
        known: dict[str, Any] = self._choice() | {"temperature": self.treatment.temperature}
        if self.composition is not None:
            known["composed"] = self.composition.state_dict()
        if self.injection is not None:
            # Another callback may save at the end of a batch before this one has closed it.
            self.injection.end_step()
            losses = self.injection.state_dict()
            if any(part.per_rank for part in self.injection.samplers()):
                # Lightning asks the ranks that save and writes what rank 0 answers.
                datasets, each = zip(*everyones((dataset, losses), SAVED), strict=True)
                return known | {"dataset": list(datasets), "losses": {}, "ranks": list(each)}
        return known | {"dataset": dataset, "losses": losses or {}}

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Find the state where a callback with another target has saved it; note if there is none.

        Raises:
            ValueError: If the checkpoint holds the state of other losses alone.
        """
        states = checkpoint.get("callbacks", {})
        if self._stage in (None, "fit") and self.state_key not in states:
            state = several.saved_elsewhere(states, self.target)
            if state is not None:
                self.load_state_dict(state)
            elif self._stage == "fit":
                self._untreated_before = True

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep the state until the model is treated; a stage outside ``fit`` has no use for it.

        Raises:
            ValueError: If the checkpoint is damaged, was written with another sampler or objective
                or, where ranks have state of their own, by another number of ranks; or if its
                batches were composed in another way.
        """
        if self._stage in (None, "fit") and (saved := _saved_losses(state, self._choice())):
            composed = state.get("composed")
            check_same(composed, None if self.composition is None else self.composition.composer)
            if self.composition is not None:
                self.composition.load_state_dict(composed)
            self._kept.resume(saved, state.get("dataset"))

    def _choice(self) -> dict[str, str | None]:
        """Return what a run that resumes must have chosen too."""
        objective = self.treatment.objective
        return {
            "sampler": self.treatment.describe(),
            "objective": None if objective is None else str(objective),
        }


def _saved_losses(state: Any, choice: dict[str, str | None]) -> dict[str, Any]:
    """Return the saved state of this rank's losses, empty if none was saved.

    Args:
        state: What :meth:`CheckpointMixin.state_dict` returned once, or a damaged file holds.
        choice: The expressions of this run.

    Raises:
        ValueError: If the checkpoint is damaged, was written with another sampler or objective or,
            where ranks have state of their own, by another number of ranks.
    """
    if not isinstance(state, dict) or not {"losses", *choice} <= state.keys():
        found = list(state) if isinstance(state, dict) else type(state).__name__
        raise ValueError(
            f"the checkpoint's state of negplug holds {found}, not {['losses', *choice]}; the file "
            f"is damaged"
        )
    losses, ranks = state["losses"], state.get("ranks")
    each = [losses] if ranks is None else ranks
    if not (isinstance(each, list) and all(isinstance(one, dict) for one in [losses, *each])):
        raise ValueError(
            "the checkpoint's state of negplug does not hold the losses by name; the file is "
            "damaged"
        )
    if not any(each):
        return {}
    for kind, own in choice.items():
        saved = state[kind]
        if type(saved) is not type(own) or saved != own:
            named = _OF_THE_HOST if saved is None else str(saved)[:_LONGEST]
            raise ValueError(
                f"the checkpoint was written with the {kind} {named}, this run has "
                f"{own or _OF_THE_HOST}; resume with the same expression"
            )
    if ranks is not None and len(ranks) != world_size():
        raise ValueError(
            f"the checkpoint holds the sampler state of {len(ranks)} ranks, this run has "
            f"{world_size()}; resume with as many"
        )
    return losses if ranks is None else dict(ranks[rank()])
