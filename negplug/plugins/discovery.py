"""Plugins' entry points among all that is installed; a damaged distribution hurts no other."""

from __future__ import annotations

from importlib.metadata import Distribution, EntryPoint, distributions
from pathlib import Path

from negplug.contract.hookspecs import PROJECT
from negplug.contract.provenance import PluginFailure, PluginInfo, described, traced

#: An entry point, and name and version of its distribution.
Found = tuple[EntryPoint, str, str]


def entry_points() -> tuple[list[Found], list[PluginFailure]]:
    """Return negplug's entry points, its own first, and the distributions that hide theirs."""
    found: dict[str, list[Found]] = {}
    failures = []
    for distribution in distributions():
        try:
            entries = [entry for entry in distribution.entry_points if entry.group == PROJECT]
        except Exception as error:
            if _mentions_us(distribution):
                failures.append(_damaged(distribution, error))
            continue
        if entries:
            name, version = _identity(distribution)
            # The first distribution on the path shadows a later one of the same name.
            found.setdefault(name, [(entry, name, version) for entry in entries])
    listed = [item for items in found.values() for item in items]
    return sorted(listed, key=lambda item: (item[1] != PROJECT, item[1], item[0].name)), failures


def _identity(distribution: Distribution) -> tuple[str, str]:
    """Return name and version, from the folder's name where the metadata are torn."""
    name, _, version = _folder(distribution).stem.partition("-")
    try:
        metadata = distribution.metadata
        name, version = str(metadata["Name"] or name), str(metadata["Version"] or version)
    except Exception:  # missing, or not even text
        pass
    return name or "unknown", version or "unknown"


def _folder(distribution: Distribution) -> Path:
    # Where a distribution lies is nowhere public.
    return Path(str(getattr(distribution, "_path", "")))


def _mentions_us(distribution: Distribution) -> bool:
    """Whether an unreadable list of entry points is about negplug."""
    try:
        return PROJECT.encode() in (_folder(distribution) / "entry_points.txt").read_bytes()
    except OSError:
        return False


def _damaged(distribution: Distribution, error: Exception) -> PluginFailure:
    info = PluginInfo("entry_points.txt", *_identity(distribution), "failed")
    return PluginFailure(info, "discovery", described(error), traced(error))
