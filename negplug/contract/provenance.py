"""Where a plugin comes from, what is installed, and who is at fault.

A plugin that cannot be loaded is left out and kept as a :class:`PluginFailure`. An error inside a
training step names the plugin that raised it; it is never swallowed.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from negplug.kernels.errors import RanksError

# Of an error's message, and of its traceback, in characters.
_LONGEST_MESSAGE = 2_000
_LONGEST_TRACEBACK = 20_000


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def described(error: BaseException) -> str:
    """Return type and message of an error of foreign code, whose message may be huge or fail."""
    name = type(error).__name__
    try:
        message = str(error)
    except BaseException as second:
        return f"{name}, whose message cannot be made ({type(second).__name__})"
    if len(message) > _LONGEST_MESSAGE:
        message = f"{message[:_LONGEST_MESSAGE]} …"
    return f"{name}: {_visible(message)}"


def traced(error: BaseException) -> str:
    """Return the traceback of an error of foreign code, the end of a long one."""
    try:
        text = "".join(traceback.format_exception(error))
    except BaseException as second:
        return f"{type(error).__name__}, whose traceback cannot be made ({type(second).__name__})"
    return text if len(text) <= _LONGEST_TRACEBACK else f"… {text[-_LONGEST_TRACEBACK:]}"


def _visible(text: str) -> str:
    """Return a text with its control characters written out: they may move a cursor."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text
    )


def changed(distribution: str, what: str, reader: str) -> RuntimeError:
    """Return the error that says what of an installed host is not as expected.

    Args:
        distribution: Of the host.
        what: What changed, as a clause.
        reader: The full name of our function that relies on it.
    """
    found = installed_version(distribution) or "(from source)"
    return RuntimeError(
        f"{distribution} {found}: {what}; {reader} relies on it, so use another version of "
        f"{distribution} or of negplug"
    )


@dataclass(frozen=True)
class PluginInfo:
    """A plugin and where it comes from."""

    name: str
    distribution: str
    version: str
    status: Literal["active", "disabled", "failed"] = "active"
    hooks: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} (distribution {self.distribution} {self.version})"


@dataclass(frozen=True)
class PluginFailure:
    """Why a plugin was left out."""

    plugin: PluginInfo
    stage: Literal["discovery", "import", "registration"]
    error: str
    traceback: str

    def __str__(self) -> str:
        return f"plugin {self.plugin} failed at {self.stage}: {self.error}"

    def as_dict(self) -> dict[str, str]:
        """Return plain strings, for ``--json``."""
        return {
            "plugin": self.plugin.name,
            "distribution": self.plugin.distribution,
            "version": self.plugin.version,
            "stage": self.stage,
            "error": self.error,
            "traceback": self.traceback,
        }


class PluginError(RuntimeError):
    """A plugin is at fault; the message names it and its distribution."""


_NOBODY = contextlib.nullcontext()


def blaming(plugin: PluginInfo | None, where: str) -> contextlib.AbstractContextManager[None]:
    """Re-raise what a third-party plugin raises as a ``PluginError`` that names it.

    What is no ``Exception`` stays what it is and gets a note, as far as Python has them (3.11).
    negplug's own errors (``plugin`` is None or of this distribution) pass as they are, and so does
    what every rank raises, and what a sampler or an objective of negplug refuses that the plugin
    has asked.
    """
    if plugin is None or plugin.distribution == "negplug":
        return _NOBODY
    return _blaming(plugin, where)


@contextlib.contextmanager
def _blaming(plugin: PluginInfo, where: str) -> Iterator[None]:
    try:
        yield
    except (PluginError, RanksError):
        raise
    except BaseException as error:
        if isinstance(error, Exception) and not _is_of_a_part_of_ours(error):
            raise PluginError(f"plugin {plugin} failed in {where}: {described(error)}") from error
        if hasattr(error, "add_note"):
            error.add_note(f"raised by plugin {plugin} in {where}")
        raise


def _is_of_a_part_of_ours(error: Exception) -> bool:
    """Return whether a sampler or an objective of negplug at work has raised an error.

    What its constructor refuses is the fault of who gave it that.
    """
    raiser = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        part = frame.f_locals.get("self")
        if hasattr(type(part), "provider"):
            raiser = None if frame.f_code.co_name == "__init__" else type(part).__module__
    return raiser is not None and raiser.partition(".")[0] == "negplug"
