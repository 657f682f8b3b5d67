"""What a recommendation says in the end: a choice, what it gains and what it costs, in a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from negplug.cli.recommend.bench import Bench, BenchError
from negplug.cli.recommend.choice import UNTOUCHED, Choice, pasted_command
from negplug.cli.recommend.gain import Gain, paired_gain


@dataclass(frozen=True)
class Verdict:
    """The best choice beside the untouched recipe.

    Attributes:
        choice: The choice that came first.
        gain: What it gains, on seeds that did not choose it.
        cost: How often the untouched recipe's time it takes.
        cost_of: Of what time that is.
        line: One line for a shell: the command, and the numbers as its comment.
        explanation: How the line came about, in sentences.
    """

    choice: Choice
    gain: Gain
    cost: float
    cost_of: str
    line: str
    explanation: str


def verdict_on(
    bench: Bench, choice: Choice, tried: int, batch_size: int, chosen_by: int, fresh: Sequence[int]
) -> Verdict:
    """Compare the best choice with the untouched recipe.

    Args:
        bench: Has the runs.
        choice: The best choice.
        tried: Of how many.
        batch_size: Samples of a batch.
        chosen_by: How many seeds chose.
        fresh: The seeds that measure.

    Raises:
        BenchError: If too few runs ended well, or all seeds are as one.
    """
    settings = bench.settings
    ours, theirs = bench.values(choice, fresh), bench.values(UNTOUCHED, fresh)
    try:
        gain = paired_gain(ours, theirs, settings.minimize)
    except ValueError as error:
        raise BenchError(f"the gain of {choice} cannot be measured: {error}") from None
    if len(set(ours.values())) == len(set(theirs.values())) == 1 and gain.mean != 0:
        values = f"{next(iter(theirs.values())):g} untouched, {next(iter(ours.values())):g}"
        raise BenchError(
            f"every seed logged the same {settings.metric} ({values} with {choice}), so nothing "
            "says what is noise; hand the seed to the script, as '{seed}' in ARGS"
        )
    cost, cost_of = bench.cost(choice, fresh)
    costs = f"{cost:.2f} times the {cost_of}"
    if gain.is_clear:
        command = pasted_command(choice, bench.script, settings)
        line = f"{command}  # {settings.metric} {gain}; {costs}"
    else:
        command = pasted_command(UNTOUCHED, bench.script, settings)
        line = (
            f"{command}  # keep what you have: the best of {tried}, {choice}, has "
            f"{settings.metric} {gain}; {costs}"
        )
    chosen = "seed 0" if chosen_by == 1 else f"the seeds 0 to {chosen_by - 1}"
    explanation = (
        f"Of {tried} choices for batches of {batch_size}, {choice} came first with {chosen}. "
        f"Its gain is measured with the seeds {fresh[0]} to {fresh[-1]}, which chose nothing, so "
        f"its interval needs no correction for the {tried} that were tried."
    )
    if settings.minimize:
        explanation += f" Less {settings.metric} is better; a gain is what it falls by."
    if len(gain.differences) < len(fresh):
        missing = len(fresh) - len(gain.differences)
        explanation += f" {missing} of these seeds are left out, because a run of theirs failed."
    return Verdict(choice, gain, cost, cost_of, line, explanation)
