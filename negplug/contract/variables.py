"""The variables ``NEGPLUG_*``: flags read in one way, and a word about those that have no effect.

A variable that is empty counts as unset. Free of torch, because every Lightning Trainer asks.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

#: The variables that users set, without their prefix.
NAMES = (
    *(
        "SAMPLER",
        "OBJECTIVE",
        "TEMPERATURE",
        "ACCUMULATE",
        "COMPOSE",
        "TREAT",
        "IGNORE",
        "DIAGNOSTICS",
        "METRICS",
        "BACKEND",
        "RANKS_TIMEOUT",
    ),
    *("DISABLED_PLUGINS", "DISABLE_AUTOLOAD", "STRICT"),
)

TREAT_VARIABLE = "NEGPLUG_TREAT"

FORMS = ("ntxent", "dcl", "infonce", "clip")
"""Forms of loss that a class can be declared to be."""

_PREFIX = "NEGPLUG_"
_YES = ("1", "true", "yes", "on")
_NO = ("", "0", "false", "no", "off")


def flag(name: str, environ: Mapping[str, str]) -> bool:
    """Return whether a variable says yes.

    Args:
        name: Full name of the variable.
        environ: The environment.

    Raises:
        ValueError: If it says neither yes nor no.
    """
    value = environ.get(name, "").strip().lower()
    if value not in (*_YES, *_NO):
        raise ValueError(
            f"{name}={environ[name][:40]!r} is neither yes nor no; write 1 (true, yes, on) or 0 "
            "(false, no, off)"
        )
    return value in _YES


def check_effect(environ: Mapping[str, str]) -> None:
    """Refuse parts of a treatment that has no sampler, and name variables that look misspelt.

    Args:
        environ: The environment.

    Raises:
        ValueError: If there is an objective, a temperature, micro-batches or a composer without a
            sampler.
    """
    given = [name.removeprefix(_PREFIX) for name in environ if name.startswith(_PREFIX)]
    for name in given:
        if name not in NAMES:
            _name_misspelt(name)
    if environ.get("NEGPLUG_SAMPLER"):
        return
    for name in ("OBJECTIVE", "TEMPERATURE", "ACCUMULATE", "COMPOSE"):
        name = f"{_PREFIX}{name}"
        if environ.get(name):
            raise ValueError(
                f"{name}={environ[name][:40]!r} has no effect without NEGPLUG_SAMPLER; set that "
                f"too (in_batch() keeps the host's negatives), or unset {name}"
            )


def declared_classes(name: str, text: str) -> dict[str, str]:
    """Return the declarations ``pkg.module:Class=form``, separated by commas, of a text.

    Args:
        name: What the text is, for the message.
        text: The text.

    Raises:
        ValueError: If one is malformed, or names no form.
    """
    declared = {}
    for part in filter(None, map(str.strip, text.split(","))):
        kind, _, form = map(str.strip, part.partition("="))
        if not (form and all(kind.partition(":"))):
            raise ValueError(f"{name}: {part[:200]!r} must be of the form pkg.module:Class=ntxent")
        if form not in FORMS:
            raise ValueError(
                f"{name}: {part[:200]!r} names no form of a loss; there are {', '.join(FORMS)}"
            )
        declared[kind] = form
    return declared


def _name_misspelt(name: str) -> None:
    import difflib

    close = difflib.get_close_matches(name[:40], NAMES, n=1, cutoff=0.85)
    if close:
        warnings.warn(
            f"{_PREFIX}{name[:40]} is no variable of negplug and has no effect; did you mean "
            f"{_PREFIX}{close[0]}?",
            stacklevel=2,
        )
