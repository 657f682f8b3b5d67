"""``check_sampler``: the conformance kit. What every sampler must keep to, third parties' too.

In a plugin's own tests one line is enough, and the kit needs no pytest::

    from negplug.testing import check_sampler

    def test_nearest():
        check_sampler("nearest(num_negatives=3)")

or a test for each property, with the property in its name::

    from negplug.testing import CHECKS, Subject

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_nearest(check):
        check(Subject("nearest(num_negatives=3)"))

The list of checks is the documentation: each is one function, named for the property.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from negplug.contract.sampler import NegativeSampler
from negplug.testing.composers import check_composer
from negplug.testing.composition import (
    it_serves_as_a_source,
    rows_are_what_they_are_called,
    rows_keep_what_is_known_of_them,
)
from negplug.testing.draws import (
    draws_change_with_seed_step_and_call,
    the_global_generators_are_left_alone,
    the_same_seed_gives_the_same_run,
)
from negplug.testing.gradients import (
    embeddings_may_have_any_floating_type,
    gradients_are_finite_at_any_temperature,
    keys_of_the_batch_carry_their_gradient,
    the_loss_is_that_of_the_negatives,
)
from negplug.testing.ranks import insist_on_a_sampler_that_travels, ranks_equal_one_process
from negplug.testing.state import (
    a_resumed_run_equals_an_uninterrupted_one,
    a_saved_state_restores_the_next_negatives,
    casting_the_module_keeps_its_memory,
    memory_moves_between_devices,
    only_a_finished_step_changes_state,
)
from negplug.testing.subject import Subject
from negplug.testing.values import (
    a_ragged_batch_is_served,
    columns_lie_in_the_pool,
    fewer_than_asked_for_are_told_of,
    no_anchor_meets_its_own_sample,
    no_column_is_repeated,
    pool_rows_have_unit_length,
    shapes_and_types_fit,
    weights_are_finite,
    what_is_attracted_is_no_negative,
)

__all__ = ["CHECKS", "Subject", "check_composer", "check_sampler"]

CHECKS: tuple[Callable[[Subject], None], ...] = (
    shapes_and_types_fit,
    columns_lie_in_the_pool,
    no_column_is_repeated,
    weights_are_finite,
    pool_rows_have_unit_length,
    no_anchor_meets_its_own_sample,
    what_is_attracted_is_no_negative,
    a_ragged_batch_is_served,
    fewer_than_asked_for_are_told_of,
    rows_are_what_they_are_called,
    rows_keep_what_is_known_of_them,
    it_serves_as_a_source,
    the_loss_is_that_of_the_negatives,
    keys_of_the_batch_carry_their_gradient,
    gradients_are_finite_at_any_temperature,
    embeddings_may_have_any_floating_type,
    the_same_seed_gives_the_same_run,
    draws_change_with_seed_step_and_call,
    the_global_generators_are_left_alone,
    only_a_finished_step_changes_state,
    a_saved_state_restores_the_next_negatives,
    a_resumed_run_equals_an_uninterrupted_one,
    casting_the_module_keeps_its_memory,
    memory_moves_between_devices,
    ranks_equal_one_process,
)
"""Every property; each check takes a :class:`Subject` and raises if it is violated."""


def check_sampler(
    sampler: str | Callable[[], NegativeSampler],
    *,
    objective: str = "infonce()",
    batch_size: int = 16,
    samples: int = 48,
    ranks: int = 2,
    timeout: float = 30.0,
    device: str | torch.device = "cpu",
    checks: Sequence[Callable[[Subject], None]] = CHECKS,
) -> None:
    """Check a sampler; it gets the data set index and a label (0 to 3) of every sample.

    Args:
        sampler: An expression that is complete without a host, or a function without arguments
            that returns a new sampler at each call. Ranks are processes of their own, which import
            the function: with ``ranks`` above 1 it stands at the top level of a module.
            ``functools.partial(Sampler, 3)`` serves where a lambda does not.
        objective: One that serves the estimator of the sampler's negatives.
        batch_size: B; an anchor has 2(B − 1) negatives in its batch.
        samples: Size of the data set; at least ``batch_size``.
        ranks: Processes of the check on several ranks; 1 leaves it out.
        timeout: Seconds after which a rank that waits for another one counts as hanging.
        device: Where the kit makes its batches and moves its losses. Ranks compute on the CPU.
        checks: The properties to check.

    Raises:
        AssertionError: If a property is violated; the message says all that are, and how.
        ValueError, TypeError: If the sampler cannot be built, or not in other processes; if torch
            has no such device here.

    Example:
        >>> check_sampler("uniform(num_negatives=3)", ranks=1)
    """
    subject = Subject(sampler, objective, batch_size, samples, ranks, timeout, device)
    subject.loss()  # what a sampler refuses at construction is no violation, and is raised as it is
    if ranks > 1 and ranks_equal_one_process in checks:
        insist_on_a_sampler_that_travels(subject)
    violated: dict[str, list[str]] = {}
    first = None
    for check in checks:
        try:
            check(subject)
        except Exception as error:
            first = first or error
            reason = str(error) if isinstance(error, AssertionError) else f"raised {error!r}"
            violated.setdefault(reason, []).append(check.__name__)
    if first is not None:
        lines = "\n".join(f"- {', '.join(names)}: {why}" for why, names in violated.items())
        raise AssertionError(
            f"{subject} violates what every sampler must keep to:\n{lines}"
        ) from first
