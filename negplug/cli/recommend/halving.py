"""Successive halving by Optuna's pruner: who is behind at a third of the training stops there.

After a ninth of the epochs, and after a third, a run goes on if it is among the best third of
those that have come so far (Li et al. 2020, "A system for massively parallel hyperparameter
tuning"). Imported only where runs are tried, because Optuna takes its time to load.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any, cast

from optuna import Study
from optuna.pruners import SuccessiveHalvingPruner
from optuna.trial import FrozenTrial, TrialState

_FACTOR = 3


class Halving(SuccessiveHalvingPruner):
    """The pruner, for runs of so many epochs.

    An attempt that failed, or was killed with its sweep, competes no more: its own repetition
    would have to be better than it.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__(first_rung(epochs), _FACTOR)

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return whether a trial is behind."""
        return super().prune(cast(Study, _WithoutFailed(study)), trial)


def first_rung(epochs: int) -> int:
    """Return after how many epochs runs are compared first: a ninth, rounded up."""
    return -(-epochs // _FACTOR**2)


class _WithoutFailed:
    """A study as the pruner sees it."""

    def __init__(self, study: Study) -> None:
        self._seen = study

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        trials = self._seen.get_trials(deepcopy, states)
        return [trial for trial in trials if trial.state != TrialState.FAIL]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._seen, name)
