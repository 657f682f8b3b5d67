"""Which errors of the system end a command in one sentence: those of its paths and of the machine.

Any other may be a fault of negplug's own, whose traceback says where it is.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

_OF_THE_MACHINE = {
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EROFS"),  # disks, and what output goes to
        *("EMFILE", "ENFILE", "ENOMEM", "EAGAIN"),
    )
    if hasattr(errno, name)  # not all systems have all
}


def needs_no_traceback(error: OSError, given: Iterable[str | Path]) -> bool:
    """Return whether an error is of a path that a command was given, or of the machine.

    Args:
        error: What ended the command.
        given: The command's arguments; what lies in a folder, or on the way to it, is of it too.
    """
    if error.errno in _OF_THE_MACHINE:
        return True
    # A file that is known by its number alone has no name.
    names = [name for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))]
    # An argument is a path, or gives one behind a sign of equality; a path may hold such a sign.
    texts = [text for each in given for text in (str(each), str(each).partition("=")[2]) if text]
    try:
        named = [Path(os.path.abspath(os.fsdecode(name))) for name in names]
        paths = [Path(os.path.abspath(text)) for text in texts]
    except OSError:  # the working directory is gone
        return False
    return any(
        name.is_relative_to(path) or path.is_relative_to(name) for name in named for path in paths
    )
