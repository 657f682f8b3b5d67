"""Find plugins, keep the faulty ones from hurting, and look names up.

A plugin that fails to import or to register is isolated: one warning names plugin,
distribution and version, the failure is kept, and everything else works. Names are resolved
late: two providers of one name clash only when that name is asked for.

Environment:
    NEGPLUG_DISABLED_PLUGINS: Comma-separated plugin or distribution names, skipped before import.
    NEGPLUG_DISABLE_AUTOLOAD: ``1`` (true, yes, on) loads no third-party plugin at all.
    NEGPLUG_STRICT: ``1`` (true, yes, on) turns the first plugin failure into an error.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import pluggy

from negplug.composers import plugins as builtin_composers
from negplug.contract import hookspecs, variables
from negplug.contract.hookspecs import PROJECT
from negplug.contract.provenance import (
    PluginError,
    PluginFailure,
    PluginInfo,
    described,
    installed_version,
    traced,
)
from negplug.objectives import plugins as builtin_objectives
from negplug.plugins.discovery import entry_points
from negplug.plugins.expression import short
from negplug.plugins.patience import named_if_slow
from negplug.plugins.records import HOOKS, Kind, checked, hook_names
from negplug.plugins.requirement import check_requirement
from negplug.plugins.settings import PluginWarning, put_back
from negplug.samplers import plugins as builtin_samplers


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

    Raises:
        ValueError: If a flag among them says neither yes nor no.
        PluginError: If a plugin fails and ``NEGPLUG_STRICT`` is set.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self.plugins: list[PluginInfo] = []
        self.failures: list[PluginFailure] = []
        self._strict = variables.flag("NEGPLUG_STRICT", environ)
        self._provided: dict[Kind, list[Provided]] = {kind: [] for kind, _ in HOOKS.values()}
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(hookspecs)
        asked = variables.listed(environ.get("NEGPLUG_DISABLED_PLUGINS", ""))
        self._disabled = {_normal(name): name for name in asked}
        for module in (*builtin_samplers, *builtin_objectives, *builtin_composers):
            info = self._own(module.__name__.rpartition(".")[2])
            if not self._is_disabled(info):
                self._register(module, info)
        self._load_entry_points(autoload=not variables.flag("NEGPLUG_DISABLE_AUTOLOAD", environ))
        self._name_unknown()

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
        raise UnknownNameError(f"unknown {kind} {short(name)!r}; {hint}{failed}")

    def clashes(self) -> list[str]:
        """Return why names that more than one plugin provides cannot be looked up."""
        refused = []
        for kind, entries in self._provided.items():
            names = [entry.spec.name for entry in entries] if kind != "adapter" else []
            for name in dict.fromkeys(name for name in names if names.count(name) > 1):
                try:
                    self.lookup(kind, name)
                except UnknownNameError as error:
                    refused.append(str(error))
        return refused

    def _own(self, name: str) -> PluginInfo:
        return PluginInfo(name, PROJECT, installed_version(PROJECT) or "unknown")

    def _is_disabled(self, info: PluginInfo, autoload: bool = True) -> bool:
        """Whether a plugin is to be left alone; it is listed then."""
        names = {_normal(info.name), _normal(info.distribution)}
        if not names & self._disabled.keys() and (autoload or info.distribution == PROJECT):
            return False
        self.plugins.append(PluginInfo(info.name, info.distribution, info.version, "disabled"))
        return True

    def _load_entry_points(self, autoload: bool) -> None:
        found, damaged = entry_points()
        for failure in damaged:
            self._keep(failure, None)
        for entry, distribution, version in found:
            info = PluginInfo(entry.name, distribution, version)
            if self._is_disabled(info, autoload):
                continue
            try:
                with named_if_slow(info, "import"), put_back(info, "import"):
                    plugin = entry.load()
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                self._fail(info, "import", error)
                continue
            self._register(plugin, info)

    def _name_unknown(self) -> None:
        there = {_normal(name) for info in self.plugins for name in (info.name, info.distribution)}
        for name in self._disabled.keys() - there:
            warnings.warn(
                f"NEGPLUG_DISABLED_PLUGINS names {self._disabled[name]!r}, which is no plugin and "
                "no distribution with plugins; 'negplug plugins' lists them",
                PluginWarning,
                stacklevel=2,
            )

    def _register(self, plugin: ModuleType | object, info: PluginInfo) -> None:
        try:
            with named_if_slow(info, "registration"), put_back(info, "registration"):
                hooks, records = self._records(plugin, info)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if any(each is plugin for each in self._manager.get_plugins()):
                self._manager.unregister(plugin)
            self._fail(info, "registration", error)
            return
        info = PluginInfo(info.name, info.distribution, info.version, "active", hooks)
        self.plugins.append(info)
        for kind, record in records:
            self._provided[kind].append(Provided(record, info))

    def _records(
        self, plugin: ModuleType | object, info: PluginInfo
    ) -> tuple[tuple[str, ...], list[tuple[Kind, Any]]]:
        """Register a plugin; returns its hooks, and what they provide."""
        check_requirement(plugin)
        hooks = hook_names(self._manager, plugin)
        self._manager.register(plugin, name=f"{info.distribution}:{info.name}")
        others = [other for other in self._manager.get_plugins() if other is not plugin]
        records: list[tuple[Kind, Any]] = []
        for hook in hooks:
            # One plugin at a time: a raising hook would take all others' records with it.
            caller = self._manager.subset_hook_caller(hook, others)
            for result in caller() or [None]:
                records += [(HOOKS[hook][0], record) for record in checked(hook, result)]
        return hooks, records

    def _fail(
        self, info: PluginInfo, stage: Literal["import", "registration"], error: BaseException
    ) -> None:
        failed = PluginInfo(info.name, info.distribution, info.version, "failed")
        self._keep(PluginFailure(failed, stage, described(error), traced(error)), error)

    def _keep(self, failure: PluginFailure, error: BaseException | None) -> None:
        self.plugins.append(failure.plugin)
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


def _normal(name: str) -> str:
    """One spelling per name, as package installers have it: ``My_Plugin`` is ``my-plugin``."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
