"""What is compared: the untouched recipe, samplers and objectives, and the settings of each."""

from __future__ import annotations

from dataclasses import dataclass

TEMPERATURES = (0.03, 0.05, 0.1, 0.2, 0.5)
"""The settings that each choice is tuned over."""

RECIPES = ("simclr", "moco")
"""With the keys that the loss trains, and with those of a momentum encoder, kept in a queue."""

UNTOUCHED = "untouched"
"""The recipe as Lightly has it: its loss, and that loss's own default temperature."""

TUNED = "tuned temperature"
"""The untouched recipe at the best temperature: what every choice is compared with."""


@dataclass(frozen=True)
class Choice:
    """One way to choose negatives.

    Attributes:
        sampler: Expression; None for the untouched recipe.
        objective: Expression; None for the host's own form.
        compose: Expression that says which samples meet in a batch; None for random batches.
        temperatures: The settings to tune over.
        column: The column of the data set that it asks for, which not every data set has.
        recipes: The recipes that it is tried in.
    """

    sampler: str | None
    objective: str | None = None
    compose: str | None = None
    temperatures: tuple[float, ...] = TEMPERATURES
    column: str | None = None
    recipes: tuple[str, ...] = ("simclr",)


CHOICES = {
    UNTOUCHED: Choice(None, temperatures=(0.5,), recipes=RECIPES),
    TUNED: Choice(None, recipes=RECIPES),
    # MoCo's own negatives are the queue's.
    "in_batch": Choice("in_batch()", recipes=("moco",)),
    "uniform": Choice("uniform(num_negatives=16)"),
    "stratified, half": Choice(
        'stratified(num_negatives=8, by="camera", same=0.5)', column="camera"
    ),
    "stratified": Choice('stratified(num_negatives=8, by="camera", same=1.0)', column="camera"),
    "stratified, queue": Choice(
        'stratified(num_negatives=16, by="camera", same=1.0, source=queue(size=1024))',
        column="camera",
        recipes=("moco",),
    ),
    "hard": Choice("hard(num_negatives=16)"),
    "filtered": Choice("filtered(relative_margin=0.05)"),
    # Of supervised recipes: tells how much false negatives cost at most.
    "filtered, true labels": Choice('filtered(by="labels")'),
    "eliminate": Choice('false_negatives(action="eliminate")'),
    "attract": Choice('false_negatives(action="attract")'),
    "synthetic": Choice("hierarchical(in_batch(), synthetic(num_mixed=16, num_hardest=32))"),
    "queue": Choice("hierarchical(in_batch(), queue(size=1024))", recipes=RECIPES),
    "queue, later": Choice(
        "schedule(in_batch(), hierarchical(in_batch(), queue(size=1024)), from_epochs=(0, 3))"
    ),
    "memory_bank": Choice("hierarchical(in_batch(), memory_bank())", recipes=RECIPES),
    "memory_bank, later": Choice(
        "schedule(in_batch(), hierarchical(in_batch(), memory_bank()), from_epochs=(0, 3))"
    ),
    "hierarchical": Choice(
        "hierarchical(uniform(num_negatives=16), hard(num_negatives=16, source=queue(size=1024)))",
        recipes=RECIPES,
    ),
    "gumbel_max": Choice("gumbel_max(num_negatives=16, source=queue(size=1024))", recipes=RECIPES),
    "emc2": Choice("emc2()"),
    "isir": Choice("isir()"),
    "decoupled": Choice("in_batch()", "decoupled()"),
    "debiased": Choice("in_batch()", "debiased(tau_plus=0.1)"),
    "HCL": Choice("in_batch()", "debiased(tau_plus=0.0, beta=1.0)"),
    "relic": Choice("in_batch()", "relic(alpha=1)"),
    "sogclr": Choice("in_batch()", "sogclr(gamma=0.9)"),
    "random_walk": Choice(
        "in_batch()", compose="random_walk(num_neighbors=100, num_candidates=1000)"
    ),
    "clustered": Choice("in_batch()", compose="clustered()"),
}
"""By the name in the tables. Objectives go with all negatives of the batch."""

COLUMNS = {"fashion-mnist": (), "cameras": ("camera",)}
"""The columns that each data set has beside images and labels."""


def choices_for(data: str, recipe: str) -> list[str]:
    """Returns the names of the choices of a recipe that a data set has the columns for."""
    return [
        name
        for name, choice in CHOICES.items()
        if recipe in choice.recipes and (choice.column is None or choice.column in COLUMNS[data])
    ]
