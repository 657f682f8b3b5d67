"""What a plugin offers by its hooks, and whether it can be used."""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Iterable
from itertools import islice
from typing import Any, Literal

import pluggy

from negplug.contract.hookspecs import AdapterSpec, ComposerSpec, ObjectiveSpec, SamplerSpec

Kind = Literal["sampler", "objective", "composer", "adapter"]

HOOKS: dict[str, tuple[Kind, type]] = {
    "negplug_samplers": ("sampler", SamplerSpec),
    "negplug_objectives": ("objective", ObjectiveSpec),
    "negplug_composers": ("composer", ComposerSpec),
    "negplug_adapters": ("adapter", AdapterSpec),
}
"""The kind and the type of the records that each hook gives."""

# More than any plugin provides; a hook that goes on and on would fill the memory.
_MOST_RECORDS = 1_000


def hook_names(manager: pluggy.PluginManager, plugin: object) -> tuple[str, ...]:
    """Return the hooks that a plugin implements.

    Args:
        manager: Knows how hooks are marked.
        plugin: A module, or an object with hooks.

    Raises:
        TypeError: If it implements none, or one that there is not, or cannot be told from others.
    """
    if (plugin == object()) is not False:  # pluggy finds plugins by comparing them
        raise TypeError(f"is a {type(plugin).__name__}, which does not compare as one object does")
    names = [name for name in dir(plugin) if manager.parse_hookimpl_opts(plugin, name) is not None]
    unknown = [name for name in names if name not in HOOKS]
    if unknown:
        raise TypeError(f"implements unknown hook {unknown[0]}; the hooks are {', '.join(HOOKS)}")
    if not names:
        raise TypeError(f"implements no hook; mark one of {', '.join(HOOKS)} with @hookimpl")
    return tuple(names)


def checked(hook: str, result: object) -> list[Any]:
    """Return the records that a hook has given.

    Args:
        hook: Its name.
        result: What it has returned.

    Raises:
        TypeError: If these are no records of its kind, or what they hold is of another type.
        ValueError: If there is no end of them, or a name is none for an expression.
    """
    wanted = HOOKS[hook][1]
    if not isinstance(result, Iterable):
        raise TypeError(f"{hook} must return an iterable of {wanted.__name__}, got {result!r}")
    records = list(islice(result, _MOST_RECORDS + 1))
    if len(records) > _MOST_RECORDS:
        raise ValueError(f"{hook} goes on after {_MOST_RECORDS} records; it must come to an end")
    for record in records:
        if not isinstance(record, wanted):
            raise TypeError(f"{hook} must return {wanted.__name__} records, got {record!r}")
        for name in ("name", "summary", "paper"):  # of which listings consist
            text = getattr(record, name, "")
            if not isinstance(text, str):
                raise TypeError(f"{hook}: {name} must be a string, got {text!r}")
        if isinstance(record, (SamplerSpec, ObjectiveSpec, ComposerSpec)):
            if not record.name.isidentifier() or keyword.iskeyword(record.name):
                raise ValueError(f"{hook}: the name {record.name!r} is no identifier")
            # Expressions are checked against the signature, and listings show it.
            str(inspect.signature(record.factory))
    return records
