"""Faults around a sweep, in one sentence each: a full disk, no folder, a lost server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from negplug.cli.os_errors import needs_no_traceback
from negplug.cli.sweep.storage import StorageError
from negplug.cli.treatment import fail

_GOES_ON = "once that is mended, the same command goes on from here."


@contextmanager
def one_sentence(out: Path, where: str) -> Iterator[None]:
    """End the command with one sentence where a file or the storage fails.

    Args:
        out: Folder of the sweep.
        where: The storage, as it was given.
    """
    try:
        yield
    except StorageError as error:
        fail(f"{where}: the study cannot be read or written ({error}); {_GOES_ON}", code=1)
    except BrokenPipeError:  # of who reads what the sweep prints, which typer knows how to end
        raise
    except OSError as error:
        if not needs_no_traceback(error, [out, *sys.argv[1:]]):
            raise
        what = error.strerror or str(error)
        fail(f"--out {out}: {error.filename or out}: {what}; {_GOES_ON}", code=1)
