"""Run a script inside this process, so that the script cannot tell it from ``python SCRIPT``."""

from __future__ import annotations

import os
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType


def script_exists(name: str, module: bool) -> bool:
    """Whether there is such a file, a folder that runs as one, or such a module."""
    if not module:
        return Path(name).is_file() or (Path(name) / "__main__.py").is_file()
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def execute(script: str, args: list[str], module: bool) -> None:
    """Run the script as ``__main__``; returns if it ended well.

    Args:
        script: Path of a file or of a folder with a ``__main__.py``, or name of a module.
        args: What the script finds in ``sys.argv`` behind its name.
        module: Whether ``script`` is a module.

    Raises:
        SystemExit: If the script failed, with the exit code that python would end with; its
            traceback has been shown then.
    """
    # Ranks beyond the first are started by Lightning as `python sys.argv[0] …`, without negplug:
    # they find the treatment in the environment.
    sys.argv = [script, *args]
    # typer installs a hook of its own, which is not how python shows a traceback.
    sys.excepthook = sys.__excepthook__
    try:
        if module:
            runpy.run_module(script, run_name="__main__", alter_sys=True)
        else:
            if not getattr(sys.flags, "safe_path", False):  # python 3.11 and later
                found = Path(script).resolve()
                sys.path[0] = str(found if found.is_dir() else found.parent)
            runpy.run_path(os.path.abspath(script), run_name="__main__")
    except SystemExit as leaving:
        # `sys.exit()` and `sys.exit(0)` are a normal end, which is checked like any other. Of a
        # number a parent sees the last byte; what is none is printed, and is an error.
        code = 0 if leaving.code is None else leaving.code
        if not isinstance(code, int) or code % 256:
            raise
    except BaseException as error:
        sys.last_value = error  # as python has it then
        sys.excepthook(type(error), error, _skip_own_frames(error))
        raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 1) from None


def _skip_own_frames(error: BaseException) -> TracebackType | None:
    """Cut the frames between this command and the script's first line from the traceback."""
    traceback = error.__traceback__
    while traceback and traceback.tb_frame.f_globals.get("__name__") in (__name__, "runpy"):
        traceback = traceback.tb_next
    error.__traceback__ = traceback
    return traceback
