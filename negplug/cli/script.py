"""Run a script inside this process, so that the script cannot tell it from ``python SCRIPT``."""

from __future__ import annotations

import builtins
import importlib.util
import io
import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from pkgutil import get_importer
from types import CodeType, ModuleType, TracebackType
from typing import Any

_IMPORTING = ("importlib._bootstrap", "importlib._bootstrap_external", "zipimport")


def script_exists(name: str, module: bool) -> bool:
    """Whether there is such a file, a folder that runs as one, or such a module."""
    if not module:
        return Path(name).is_file() or (Path(name) / "__main__.py").is_file()
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def look_first_in(folder: str, always: bool = False) -> None:
    """Have imports look first where they do under Python.

    Args:
        folder: The one of a script, or the one that a module is run in.
        always: Whether they look there under ``python -P`` too, which leaves out such a folder.
    """
    if not getattr(sys.flags, "safe_path", False):  # python 3.11 and later
        sys.path[0] = folder
    elif always:
        sys.path.insert(0, folder)


def execute(script: str, args: list[str], module: bool) -> None:
    """Run the script as ``__main__``; returns if it ended well.

    It stays ``__main__`` until this process ends: what is pickled in a thread or by a function of
    ``atexit`` is looked for there.

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
        code, main = _module_of(script) if module else _file_of(os.path.abspath(script))
        if module:
            sys.argv[0] = main.__file__ or script
        # The second is the name that spawned children know it by, in what they hand back.
        sys.modules["__main__"] = sys.modules["__mp_main__"] = main
        exec(code, main.__dict__)
    except SystemExit as leaving:
        # `sys.exit()` and `sys.exit(0)` are a normal end, which is checked like any other. Of a
        # number a parent sees the last byte; what is none is printed, and is an error.
        status = 0 if leaving.code is None else leaving.code
        if not isinstance(status, int) or status % 256:
            raise
    except BaseException as error:
        sys.last_value = error  # as python has it then
        sys.excepthook(type(error), error, _skip_own_frames(error))
        raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 1) from None


def _module_of(name: str) -> tuple[CodeType, ModuleType]:
    """Return the code that ``python -m`` runs, and the module to run it in."""
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.submodule_search_locations is not None:
        name = f"{name}.__main__"
        spec = importlib.util.find_spec(name)
    if spec is None:
        raise ImportError(f"there is no module {name} to run")
    return _code_of(spec, name)


def _file_of(path: str) -> tuple[CodeType, ModuleType]:
    """Return the code of a file, or of what a folder or an archive runs as."""
    importer: Any = get_importer(path)
    if importer is None:
        look_first_in(os.path.dirname(os.path.realpath(path)))
        with io.open_code(path) as file:
            code = compile(file.read(), path, "exec", dont_inherit=True)
        main = ModuleType("__main__")
        main.__dict__.update(__file__=path, __cached__=None, __builtins__=builtins)
        return code, main
    look_first_in(path, always=True)
    spec = importer.find_spec("__main__")
    if spec is None:
        raise ImportError(f"there is no __main__.py in {path} to run")
    return _code_of(spec, "__main__")


def _code_of(spec: ModuleSpec, name: str) -> tuple[CodeType, ModuleType]:
    loader: Any = spec.loader
    code = loader.get_code(name)
    if code is None:
        raise ImportError(f"{name} has no code of Python's to run")
    main = importlib.util.module_from_spec(spec)
    main.__dict__.update(__name__="__main__", __builtins__=builtins)
    return code, main


def _skip_own_frames(error: BaseException) -> TracebackType | None:
    """Cut the frames between this command and the script's first line from the traceback."""
    traceback = error.__traceback__
    while traceback and traceback.tb_frame.f_globals.get("__name__") in (__name__, *_IMPORTING):
        traceback = traceback.tb_next
    error.__traceback__ = traceback
    return traceback
