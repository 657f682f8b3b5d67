"""The grid of a sweep: ``--grid lr=0.1,0.3``, the ``{lr}`` it fills in, and the runs it makes.

A run is what reaches its process. A name in ``--sampler`` or ``--compose`` makes samplers and
composers of their own, which are compared. A name elsewhere makes settings, among which each
one's best is chosen; one that stands only in ``--objective`` or ``--temperature`` does not multiply
the baseline, which gets neither, and no composer.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from negplug.cli.sweep.trials import Point, Run, Settings
from negplug.cli.treatment import BASELINE

# `${name}` is the interpolation of hydra and of shells, and none of ours.
_PLACEHOLDER = re.compile(r"(?<!\$)\{([^\W\d]\w*)\}")

# Columns that results.csv has besides those of the grid.
_RESERVED = ("sampler", "compose", "seed", "chosen", "seconds")

# A run takes a minute at least, and so many take two months.
_MOST_RUNS = 100_000

OWN_BATCHES = "none"
"""The "composer" that leaves the script its own batches."""


@dataclass(frozen=True)
class Inputs:
    """What one run gets of the settings of its study; the baseline only the arguments."""

    args: tuple[str, ...]
    objective: str | None = None
    temperature: float | None = None


def parse_grid(options: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Read ``NAME=V1,V2,…``, once per name.

    Args:
        options: What ``--grid`` was given, such as ``"lr=0.1,0.3"``.

    Raises:
        ValueError: If a name is unusable or given twice, or a value is empty or given twice.
    """
    grid: dict[str, tuple[str, ...]] = {}
    for option in options:
        name, equals, listed = option.partition("=")
        name, values = name.strip(), tuple(value.strip() for value in listed.split(","))
        if not equals or not _PLACEHOLDER.fullmatch(f"{{{name}}}"):
            raise ValueError(f"--grid {option!r} is not of the form NAME=V1,V2, such as lr=0.1,0.3")
        if name in _RESERVED:
            hint = "--seeds K says how many" if name == "seed" else "choose another name"
            raise ValueError(f"--grid {option!r}: {name!r} is taken; {hint}")
        if name in grid:
            raise ValueError(f"--grid gives {name!r} twice; list all its values in one")
        if not all(values):
            raise ValueError(f"--grid {option!r} has an empty value; list values between commas")
        if len(set(values)) < len(values):
            raise ValueError(f"--grid {option!r} lists a value twice; list each once")
        grid[name] = values
    return grid


def check_names(
    samplers: Iterable[str],
    settings: Settings,
    grid: Mapping[str, Sequence[str]],
    composers: Iterable[str],
) -> list[str]:
    """Check that the grid and the placeholders belong together.

    Args:
        samplers: Sampler expressions with placeholders.
        settings: What all runs share, with placeholders.
        grid: Values by name.
        composers: Composer expressions with placeholders.

    Returns:
        Names in braces in ARGS that have no grid: they are the script's own.

    Raises:
        ValueError: If a name of the grid appears nowhere, or an expression has a placeholder
            without a grid.
    """
    expressions = [("--sampler", text) for text in samplers]
    expressions += [("--compose", text) for text in composers]
    expressions += [("--objective", settings.objective or "")]
    expressions += [("--temperature", str(settings.temperature or ""))]
    known = set()
    for option, text in expressions:
        for name in _names(text):
            if name not in grid:
                fix = "it is for ARGS" if name == "seed" else f"add --grid {name}=V1,V2"
                raise ValueError(f"{option} {text!r}: {{{name}}} has no values; {fix}")
            known.add(name)
    in_args = _names(*settings.args)
    for name in grid:
        if name not in known and name not in in_args:
            raise ValueError(
                f"--grid {name}: there is no {{{name}}} in --sampler, --compose, --objective, "
                "--temperature or ARGS; write it where the value belongs"
            )
    return [name for name in in_args if name not in grid and name != "seed"]


def expand(
    samplers: Iterable[str],
    settings: Settings,
    grid: Mapping[str, Sequence[str]],
    seeds: int,
    composers: Sequence[str] = (),
) -> list[Run]:
    """Return all runs, each once, seed by seed: a sweep that still runs compares all samplers.

    Args:
        samplers: Sampler expressions with placeholders.
        settings: What all runs share, with placeholders.
        grid: Values by name.
        seeds: Number of seeds.
        composers: Composer expressions with placeholders; each goes with every sampler.

    Raises:
        ValueError: If there are more than anybody runs, which would fill the memory.
    """
    cells: list[tuple[str, str, Point]] = []
    treatment = _names(settings.objective or "", str(settings.temperature or ""))
    for template, compose in product(samplers, composers or (OWN_BATCHES,)):
        for named in _assignments(_names(template, compose), grid):
            sampler, composer = (one_spelling(_fill(text, named)) for text in (template, compose))
            if sampler == BASELINE or composer == OWN_BATCHES:
                composer = ""
            reaching = _names(*settings.args) + (treatment if sampler != BASELINE else [])
            names = sorted({name for name in reaching if name in grid})
            free = [name for name in names if name not in named]
            for rest in _assignments(free, grid):
                values = {**named, **rest}
                cells.append((sampler, composer, tuple((name, values[name]) for name in names)))
                if len(cells) * seeds > _MOST_RUNS:
                    raise ValueError(
                        f"--grid, --sampler and --seeds {seeds} make more than {_MOST_RUNS} runs; "
                        "give fewer values or seeds"
                    )
    unique = dict.fromkeys(cells)
    return [
        Run(sampler, seed, point, compose)
        for seed in range(seeds)
        for sampler, compose, point in unique
    ]


def filled(settings: Settings, run: Run) -> Inputs:
    """Return what one run gets, its values in place of the placeholders.

    Args:
        settings: What all runs share, with placeholders.
        run: The run.

    Raises:
        ValueError: If the temperature is no number.
    """
    values = dict(run.point)
    args = tuple(_fill(arg, {**values, "seed": str(run.seed)}) for arg in settings.args)
    if run.sampler == BASELINE:
        return Inputs(args)
    objective, temperature = settings.objective, settings.temperature
    return Inputs(
        args,
        None if objective is None else one_spelling(_fill(objective, values)),
        None if temperature is None else _number(_fill(str(temperature), values)),
    )


def as_temperature(text: str) -> float | str:
    """Return the number that is written there, or the text if it has a placeholder.

    Raises:
        ValueError: If it is neither.
    """
    return text if _names(text) else _number(text)


def one_spelling(expression: str) -> str:
    """One spelling per expression, so that blanks and quotes do not make another sampler."""
    try:
        return ast.unparse(ast.parse(expression.strip(), mode="eval"))
    except (SyntaxError, ValueError):
        return expression  # refused, with a reason, where it is built


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--temperature {text!r} is not a number; give one, such as 0.1") from None


def _names(*texts: str) -> list[str]:
    """Return the names in braces, each once."""
    return list(dict.fromkeys(name for text in texts for name in _PLACEHOLDER.findall(text)))


def _fill(text: str, values: Mapping[str, str]) -> str:
    """Replace the placeholders that have a value; other braces stay as they are."""
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), text)


def _assignments(
    names: Sequence[str], grid: Mapping[str, Sequence[str]]
) -> Iterator[dict[str, str]]:
    for values in product(*(grid[name] for name in names)):
        yield dict(zip(names, values, strict=True))
