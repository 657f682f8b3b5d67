"""Where a plugin comes from, what is installed, and why a plugin was left out."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


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
    stage: Literal["import", "registration"]
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
