"""Find plugins, keep the faulty ones from hurting, and look names up.

A plugin that fails to import or to register is isolated: one warning names plugin,
distribution and version, the failure is kept, and everything else works. Names are resolved
late: two providers of one name clash only when that name is asked for.

Environment:
    NEGPLUG_DISABLED_PLUGINS: Comma-separated plugin or distribution names, skipped before import.
    NEGPLUG_DISABLE_AUTOLOAD: ``1`` loads no third-party plugin at all.
    NEGPLUG_STRICT: ``1`` turns the first plugin failure into an error.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import os
import traceback
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, distributions
from types import ModuleType
from typing import Any, Literal

import pluggy

from negplug.contract import hookspecs
from negplug.contract.hookspecs import PROJECT, AdapterSpec, ObjectiveSpec, SamplerSpec
from negplug.contract.provenance import PluginError, PluginFailure, PluginInfo, installed_version
from negplug.objectives import plugins as builtin_objectives
from negplug.samplers import plugins as builtin_samplers

Kind = Literal["sampler", "objective", "adapter"]

_HOOKS: dict[str, tuple[Kind, type]] = {
    "negplug_samplers": ("sampler", SamplerSpec),
    "negplug_objectives": ("objective", ObjectiveSpec),
    "negplug_adapters": ("adapter", AdapterSpec),
}


class PluginWarning(UserWarning):
    """A plugin was left out because it failed to load."""


class UnknownNameError(ValueError):
    """No plugin, or more than one, provides a name."""


@dataclass(frozen=True)
class Provided:
    """A record and the plugin that provides it."""

    spec: Any
    plugin: PluginInfo


class Plugins:
    """The plugins of one process.

    Args:
        environ: Where the three variables are read; the process environment by default.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self.plugins: list[PluginInfo] = []
        self.failures: list[PluginFailure] = []
        self._strict = environ.get("NEGPLUG_STRICT") == "1"
        self._provided: dict[Kind, list[Provided]] = {"sampler": [], "objective": [], "adapter": []}
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(hookspecs)
        for module in (*builtin_samplers, *builtin_objectives):
            self._register(module, self._own(module.__name__.rpartition(".")[2]))
        self._load_entry_points(environ)

    def provided(self, kind: Kind) -> list[Provided]:
        """Return every record of ``kind`` with its provider, in order of registration."""
        return list(self._provided[kind])

    def lookup(self, kind: Kind, name: str) -> Provided:
        """Return the one provider of ``name``.

        Raises:
            UnknownNameError: If there is none (with close names and every recorded failure) or
                more than one (naming them).
        """
        found = [entry for entry in self._provided[kind] if entry.spec.name == name]
        if len(found) == 1:
            return found[0]
        if found:
            owners = " and ".join(str(entry.plugin) for entry in found)
            raise UnknownNameError(
                f"{kind} {name!r} is provided by {owners}; disable one with "
                f"NEGPLUG_DISABLED_PLUGINS"
            )
        known = sorted({entry.spec.name for entry in self._provided[kind]})
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"
        failed = "".join(f"; {failure}" for failure in self.failures)
        raise UnknownNameError(f"unknown {kind} {name!r}; {hint}{failed}")

    def _own(self, name: str) -> PluginInfo:
        return PluginInfo(name, PROJECT, installed_version(PROJECT) or "unknown")

    def _load_entry_points(self, environ: Mapping[str, str]) -> None:
        disabled = {name.strip() for name in environ.get("NEGPLUG_DISABLED_PLUGINS", "").split(",")}
        autoload = environ.get("NEGPLUG_DISABLE_AUTOLOAD") != "1"
        for entry, distribution, version in _entry_points():
            own = distribution == PROJECT
            blocked = entry.name in disabled or distribution in disabled or not (autoload or own)
            info = PluginInfo(
                entry.name, distribution, version, "disabled" if blocked else "active"
            )
            if blocked:
                self.plugins.append(info)
                continue
            try:
                plugin = entry.load()
            except (Exception, SystemExit) as error:
                self._fail(info, "import", error)
                continue
            self._register(plugin, info)

    def _register(self, plugin: ModuleType | object, info: PluginInfo) -> None:
        try:
            hooks = _hook_names(self._manager, plugin)
            self._manager.register(plugin, name=f"{info.distribution}:{info.name}")
            others = [other for other in self._manager.get_plugins() if other is not plugin]
            records: list[tuple[Kind, Any]] = []
            for hook in hooks:
                # One plugin at a time: a raising hook would take all others' records with it.
                caller = self._manager.subset_hook_caller(hook, others)
                for result in caller() or [None]:
                    records += [(_HOOKS[hook][0], record) for record in _checked(hook, result)]
        except (Exception, SystemExit) as error:
            if self._manager.is_registered(plugin):
                self._manager.unregister(plugin)
            self._fail(info, "registration", error)
            return
        info = PluginInfo(info.name, info.distribution, info.version, "active", hooks)
        self.plugins.append(info)
        for kind, record in records:
            self._provided[kind].append(Provided(record, info))

    def _fail(
        self, info: PluginInfo, stage: Literal["import", "registration"], error: BaseException
    ) -> None:
        failed = PluginInfo(info.name, info.distribution, info.version, "failed")
        failure = PluginFailure(
            failed,
            stage,
            f"{type(error).__name__}: {error}",
            "".join(traceback.format_exception(error)),
        )
        self.plugins.append(failed)
        self.failures.append(failure)
        if self._strict:
            raise PluginError(str(failure)) from error
        warnings.warn(
            f"negplug goes on without a faulty plugin: {failure}", PluginWarning, stacklevel=2
        )


@functools.cache
def plugins() -> Plugins:
    """Return this process's plugins, loaded on the first call."""
    return Plugins()


def _entry_points() -> list[tuple[EntryPoint, str, str]]:
    found: dict[str, list[tuple[EntryPoint, str, str]]] = {}
    for distribution in distributions():
        entries = [entry for entry in distribution.entry_points if entry.group == PROJECT]
        if entries:
            # A damaged installation may lack its metadata.
            name = distribution.metadata["Name"] or "unknown"
            version = distribution.version or "unknown"
            # The first distribution on the path shadows a later one of the same name.
            found.setdefault(name, [(entry, name, version) for entry in entries])
    listed = [item for items in found.values() for item in items]
    return sorted(listed, key=lambda item: (item[1] != PROJECT, item[1], item[0].name))


def _hook_names(manager: pluggy.PluginManager, plugin: object) -> tuple[str, ...]:
    names = [name for name in dir(plugin) if manager.parse_hookimpl_opts(plugin, name) is not None]
    unknown = [name for name in names if name not in _HOOKS]
    if unknown:
        raise TypeError(f"implements unknown hook {unknown[0]}; the hooks are {', '.join(_HOOKS)}")
    if not names:
        raise TypeError(f"implements no hook; mark one of {', '.join(_HOOKS)} with @hookimpl")
    return tuple(names)


def _checked(hook: str, result: object) -> list[Any]:
    wanted = _HOOKS[hook][1]
    if not isinstance(result, Iterable):
        raise TypeError(f"{hook} must return an iterable of {wanted.__name__}, got {result!r}")
    records = list(result)
    for record in records:
        if not isinstance(record, wanted):
            raise TypeError(f"{hook} must return {wanted.__name__} records, got {record!r}")
        if isinstance(record, (SamplerSpec, ObjectiveSpec)):
            if not record.name.isidentifier():
                raise ValueError(f"{hook}: the name {record.name!r} is no identifier")
            # Expressions are checked against the signature, and listings show it.
            inspect.signature(record.factory)
    return records
