"""What is said where the installed torch lacks something private that we rely on."""

from __future__ import annotations

import re

import pytest
import torch
from canaries import require

from negplug.kernels import torch_private

VERSION = re.escape(torch.__version__)


@pytest.mark.parametrize(
    ("owner", "name", "use", "what"),
    [
        (
            torch._compile,
            "_disable_dynamo",
            lambda: torch_private.outside_graphs(print),
            "torch._compile has no _disable_dynamo any more",
        ),
        (
            torch._C,
            "_ForceDispatchKeyGuard",
            lambda: torch_private.recording().__enter__(),
            "torch._C has no _ForceDispatchKeyGuard any more",
        ),
        (
            torch,
            "_foreach_sub",
            lambda: torch_private.foreach("sub"),
            "there is no torch._foreach_sub any more",
        ),
        (
            torch._C,
            "_current_graph_task_id",
            torch_private.backward_runs,
            "torch._C has no _current_graph_task_id any more",
        ),
        (
            torch._C._autograd,
            "_get_current_graph_task_keep_graph",
            torch_private.graph_is_kept,
            "torch._C._autograd has no _get_current_graph_task_keep_graph any more",
        ),
    ],
)
def test_what_is_gone_is_named(owner, name, use, what, monkeypatch):
    monkeypatch.delattr(owner, name)
    with pytest.raises(
        RuntimeError, match=rf"^torch {VERSION}: {what}; negplug\.kernels\."
    ) as said:
        use()
    assert str(said.value).endswith("so use another version of torch or of negplug")


def test_an_operator_that_is_gone_is_named(monkeypatch):
    monkeypatch.setattr(torch.ops, "aten", object())
    what = "torch.ops.aten has no _embedding_bag_per_sample_weights_backward any more"
    with pytest.raises(RuntimeError, match=rf"^torch {VERSION}: {what}; .*\.pair_products relies"):
        torch_private.pair_products(*[torch.ones(1, 1)] * 2, *[torch.zeros(1, dtype=int)] * 2)


def test_objects_without_their_private_side_are_named():
    for use, what in (
        (lambda: torch_private.sequence_number(object()), "object has no _get_sequence_number"),
        (lambda: torch_private.write_count(object()), "a tensor has no _version"),
        (lambda: torch_private.set_batch_sampler(object(), []), "a DataLoader has no _iterator"),
    ):
        with pytest.raises(RuntimeError, match=rf"^torch {VERSION}: {what}"):
            use()


def test_a_canary_fails_with_the_sentence():
    with pytest.raises(pytest.fail.Exception, match=rf"^torch {VERSION}: it is blue; .*\.seen rel"):
        require(False, "it is blue", "seen")
