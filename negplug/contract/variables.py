"""The variables ``NEGPLUG_*``: flags read in one way, and a word about those that have no effect.

A variable that is empty counts as unset. Free of torch, because every Lightning Trainer asks.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

logger = logging.getLogger("negplug")

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

#: Those that processes of negplug hand to each other.
_HANDED = ("CALL_RECORD", "LIFELINE", "PROGRESS")

#: Those of its tests.
_OF_TESTS = (
    *("COVERAGE", "LIGHTLY_SOURCE", "SOLO_SOURCE", "SUITE_REPORT", "TEST_DEVICE", "WRITE_METHODS"),
)

TREAT_VARIABLE = "NEGPLUG_TREAT"

FORMS = ("ntxent", "dcl", "infonce", "clip")
"""Forms of loss that a class can be declared to be."""

OF_A_TREATMENT = ("OBJECTIVE", "TEMPERATURE", "ACCUMULATE", "COMPOSE")
"""Variables, without their prefix, that are parts of a treatment beside its sampler."""

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


def listed(text: str) -> list[str]:
    """Return the names in a text, which commas separate."""
    return [*filter(None, map(str.strip, text.split(",")))]


def treats(environ: Mapping[str, str]) -> bool:
    """Return whether there is a treatment, or a part of one, which is an error by itself."""
    return any(environ.get(f"{_PREFIX}{name}") for name in ("SAMPLER", *OF_A_TREATMENT))


def check_effect(environ: Mapping[str, str]) -> None:
    """Refuse parts of a treatment that has no sampler, and name variables that there are not.

    Args:
        environ: The environment.

    Raises:
        ValueError: If there is an objective, a temperature, micro-batches or a composer without a
            sampler.
    """
    name_unknown(environ)
    if environ.get("NEGPLUG_SAMPLER"):
        return
    for name in OF_A_TREATMENT:
        name = f"{_PREFIX}{name}"
        if environ.get(name):
            raise ValueError(
                f"{name}={environ[name][:40]!r} has no effect without NEGPLUG_SAMPLER; set that "
                f"too (in_batch() keeps the host's negatives), or unset {name}"
            )


def unknown(environ: Mapping[str, str]) -> list[str]:
    """Return a sentence on each variable that looks like one of negplug and is none."""
    known = (*NAMES, *_HANDED, *_OF_TESTS)
    return [
        _on_unknown(name)
        for name in environ
        if name[: len(_PREFIX)].upper() == _PREFIX and name not in {_PREFIX + n for n in known}
    ]


def name_unknown(environ: Mapping[str, str]) -> None:
    """Warn of what :func:`unknown` finds, once in a process."""
    for sentence in unknown(environ):
        if sentence not in _said:
            _said.add(sentence)
            logger.warning("negplug: %s", sentence)


_said: set[str] = set()


def declared_classes(name: str, text: str) -> dict[str, str]:
    """Return the declarations ``pkg.module:Class=form``, separated by commas, of a text.

    Args:
        name: What the text is, for the message.
        text: The text.

    Raises:
        ValueError: If one is malformed, or names no form.
    """
    declared = {}
    for part in listed(text):
        kind, _, form = map(str.strip, part.partition("="))
        if not (form and all(kind.partition(":"))):
            raise ValueError(f"{name}: {part[:200]!r} must be of the form pkg.module:Class=ntxent")
        if form not in FORMS:
            raise ValueError(
                f"{name}: {part[:200]!r} names no form of a loss; there are {', '.join(FORMS)}"
            )
        declared[kind] = form
    return declared


def _on_unknown(name: str) -> str:
    import difflib

    given = name[:40].encode("unicode_escape").decode()  # it may hold codes for a terminal
    own = given[len(_PREFIX) :].upper()
    close = [known for known in NAMES if own and known.startswith(own)]
    close = close or difflib.get_close_matches(own, NAMES, n=1, cutoff=0.6)
    known = f"behind {_PREFIX} there may be {', '.join(NAMES)}"
    hint = f"did you mean {_PREFIX}{close[0]}?" if close else known
    return f"{given} is no variable of negplug and has no effect; {hint}"
