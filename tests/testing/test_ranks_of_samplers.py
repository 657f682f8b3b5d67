"""What a sampler must be to run on ranks: processes that import it, forked from a server."""

from __future__ import annotations

import functools
import importlib
import os
import sys
import types

import pytest
import ranks

from negplug.samplers.in_batch import InBatch
from negplug.samplers.uniform import Uniform
from negplug.testing import check_sampler, processes
from negplug.testing.ranks import ranks_equal_one_process


def parent(rank, world):
    return os.getppid()


def test_ranks_are_forked_from_one_server_and_not_from_here():
    servers = {*ranks.run(parent, 2), *ranks.run(parent, 3)}
    assert len(servers) == 1
    assert os.getpid() not in servers


def test_a_sampler_that_cannot_travel_is_refused_at_once():
    message = (
        r"sampler=<lambda> cannot be handed to the processes of several ranks \(.*\): define it at "
        r"the top level of a module, with functools.partial in place of a lambda, or leave the "
        r"check on ranks out with ranks=1$"
    )
    with pytest.raises(TypeError, match=message):
        check_sampler(lambda: Uniform(3))
    with pytest.raises(TypeError, match=message):
        check_sampler(lambda: Uniform(3), checks=[ranks_equal_one_process])


def test_without_ranks_a_local_sampler_is_checked():
    class Local(InBatch):
        """Cannot be imported."""

    check_sampler(Local, ranks=1)
    check_sampler(functools.partial(Uniform, 3), checks=[ranks_equal_one_process])


def test_a_sampler_of_a_module_that_ranks_cannot_import(monkeypatch):
    class Typed(InBatch):
        """As of a notebook."""

    Typed.__module__, Typed.__qualname__ = "typed_in", "Typed"
    module = types.ModuleType("typed_in")
    module.Typed = Typed
    monkeypatch.setitem(sys.modules, "typed_in", module)
    with pytest.raises(AssertionError, match=r"typed_in.*; a rank imports what it runs, so define"):
        check_sampler(Typed, checks=[ranks_equal_one_process])


CHECKED_AT_IMPORT = """
from negplug.samplers.in_batch import InBatch
from negplug.testing import check_sampler, ranks_equal_one_process

class Own(InBatch):
    pass

check_sampler(Own, checks=[ranks_equal_one_process])
"""


def test_a_module_that_starts_ranks_when_it_is_imported(tmp_path, monkeypatch):
    (tmp_path / "checked_at_import.py").write_text(CHECKED_AT_IMPORT)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AssertionError, match="ranks import this module, and importing it starts"):
        importlib.import_module("checked_at_import")


def test_what_ranks_find_imported_can_be_added_to():
    assert "negplug.testing.preloaded" in processes.PRELOADED
    found = ranks.run(modules, 1)[0]
    assert "negplug.testing" in found
    assert "torch._dynamo" in found


def modules(rank, world):
    return list(sys.modules)
