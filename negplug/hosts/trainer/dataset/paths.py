"""Paths among what tells a data set apart: its folder may be moved, and lie on another system."""

from __future__ import annotations

from collections.abc import Iterator
from os import path
from typing import Any


def is_path(value: Any) -> bool:
    """Whether a value looks like a path, absolute or not."""
    return isinstance(value, str) and any(sep in value for sep in (path.sep, path.altsep) if sep)


def without_folder(entries: list[Any]) -> list[Any]:
    """Return entries with their absolute paths relative to the folder that all of them share.

    Args:
        entries: Plain values, and lists of such.
    """
    folders = [path.dirname(found) for entry in entries for found in _paths(entry)]
    try:
        shared = path.commonpath(folders) if folders else ""
    except ValueError:  # on several drives of Windows
        shared = ""
    return [_without(entry, shared) for entry in entries]


def _paths(entry: Any) -> Iterator[str]:
    if isinstance(entry, str) and path.isabs(entry):
        yield entry
    elif isinstance(entry, list):
        for inner in entry:
            yield from _paths(inner)


def _without(entry: Any, folder: str) -> Any:
    if isinstance(entry, list):
        return [_without(inner, folder) for inner in entry]
    if not (isinstance(entry, str) and path.isabs(entry)):
        return entry
    relative = path.relpath(entry, folder) if folder else entry
    return relative.replace(path.sep, "/")
