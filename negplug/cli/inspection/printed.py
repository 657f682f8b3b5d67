"""What a checkpoint says of its negatives, in lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from negplug.cli.terminal import plain, shortened
from negplug.diagnostics.saved.states import SavedLoss, SavedPart, SavedTreatment

_NOT_RECORDED = "not recorded"
_OF_THE_HOST = "the host's own"


def progress_of(content: Any) -> dict[str, int]:
    """Return the epoch and the step that a Trainer wrote a checkpoint at; empty of other files."""
    names = {"epoch": "epoch", "global_step": "step"}
    given = {name: content.get(key) for key, name in names.items()}
    return {name: value for name, value in given.items() if isinstance(value, int)}


def lines(
    checkpoint: str, progress: Mapping[str, int], treatments: list[SavedTreatment]
) -> Iterator[str]:
    """Yield the lines that say it all, fit for a terminal."""
    where = "".join(f", {name} {number}" for name, number in progress.items())
    yield plain(f"{checkpoint}{where}")
    for treatment in treatments:
        yield from (shortened(plain(line)) for line in _of_treatment(treatment))


def _of_treatment(treatment: SavedTreatment) -> Iterator[str]:
    yield ""
    yield treatment.key or "losses in the file"
    if treatment.key:
        yield from (f"  {name:<13}{value}" for name, value in _choice(treatment))
    for loss in treatment.losses:
        yield from (f"  {line}" for line in _of_loss(loss))


def _choice(treatment: SavedTreatment) -> Iterator[tuple[str, object]]:
    temperature: object = treatment.temperature
    if temperature is None:
        temperature = _OF_THE_HOST if treatment.records_temperature else _NOT_RECORDED
    yield "sampler", treatment.sampler or _NOT_RECORDED
    yield "objective", treatment.objective or _OF_THE_HOST
    yield "temperature", temperature
    yield "batches", f"composed by {treatment.compose}" if treatment.compose else _OF_THE_HOST
    datasets = treatment.dataset if isinstance(treatment.dataset, list) else [treatment.dataset]
    for dataset in dict.fromkeys(map(str, filter(None, datasets))) or [_NOT_RECORDED]:
        yield "data set", dataset
    if treatment.world_size > 1:
        yield "ranks", treatment.world_size


def _of_loss(loss: SavedLoss) -> Iterator[str]:
    facts = [f"step {loss.step}", f"seed {loss.seed}"]
    facts += [] if loss.epoch is None else [f"epoch {loss.epoch}"]
    if loss.learned_temperature is not None:
        facts.append(f"temperature {loss.learned_temperature:.4g}, learned")
    whose = "" if loss.rank is None else f" of rank {loss.rank}"
    yield f"{loss.name}{whose}: {', '.join(facts)}"
    if not loss.parts:
        yield "  nothing is remembered from step to step"
    for part in loss.parts:
        yield from (f"  {line}" for line in _of_part(part))


def _of_part(part: SavedPart) -> Iterator[str]:
    settings = {name: value for name, value in part.settings.items() if name != "world_size"}
    given = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    yield f"{part.name}{f': {given}' if given else ''}"
    for name, value in part.values.items():
        yield f"  {name}: {_in_words(value)}"


def _in_words(value: Any) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    words = []
    if "written" in value:
        written, room = value["written"], value["room"]
        words.append(f"{written} of {room} written ({written / max(room, 1):.0%})")
        words.append(f"width {value['shape'][-1]}")
    elif "shape" in value:
        words.append(" × ".join(map(str, value["shape"])) or "one number")
    if "dtype" in value:
        words.append(value["dtype"])
    if "true" in value:
        words.append(f"{value['true']} true")
    if "known" in value:
        words.append(f"{value['known']} of {value['entries']} known, {value['distinct']} distinct")
    if value.get("most_repeated"):
        each = (f"{entry} ×{times}" for entry, times in value["most_repeated"])
        words.append(f"most often {', '.join(each)}")
    if "finite" in value:
        words.append(f"{value['finite']} of {value['entries']} finite")
    if "mean" in value:
        words.append(f"from {value['least']:.4g} to {value['greatest']:.4g}")
        words.append(f"mean {value['mean']:.4g}")
    return ", ".join(words)
