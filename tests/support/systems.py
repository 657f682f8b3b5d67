"""What not every system has, as reasons to skip."""

from __future__ import annotations

import os
import sys

import pytest

IS_LINUX = sys.platform == "linux"

forks = pytest.mark.skipif(not IS_LINUX, reason="only on Linux does torch compute in a fork")

kills = pytest.mark.skipif(
    not hasattr(os, "memfd_create"), reason="elsewhere a process that is killed leaves its record"
)


def skip_without_process_groups() -> None:
    """Skip the test where `negplug sweep` refuses to start."""
    if not hasattr(os, "killpg"):
        pytest.skip("this system has no process groups, and so no sweep")


def has_ended(process: int) -> bool:
    """Whether a process has ended, though nobody may have asked for its exit code."""
    try:
        os.kill(process, 0)
        if not IS_LINUX:
            return False
        with open(f"/proc/{process}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
