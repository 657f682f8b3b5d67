"""Stopped and resumed training equals uninterrupted training to the last bit."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from collections import OrderedDict

import pytest
import resumable
import torch
from device import DEVICE
from resumable import same_state
from systems import IS_LINUX
from torch import nn

from negplug import ContrastiveBatch, ContrastiveLoss

pytestmark = pytest.mark.filterwarnings("ignore")

HALF = 2
KILLED = ["uniform(num_negatives=4)", *resumable.MEMORIES]
"""Draws alone, a ring, and state per index."""


@pytest.fixture(autouse=True)
def one_thread():
    """The order of sums depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@functools.cache
def uninterrupted(expression):
    """Weights and the callback's state after all epochs."""
    weights, control, _ = resumable.fit(expression, 2 * HALF)
    return weights, control.state_dict()


@pytest.fixture(scope="module")
def stop(tmp_path_factory):
    """Give weights, state and the checkpoint of a run that was stopped halfway."""

    @functools.cache
    def run(expression):
        weights, control, trainer = resumable.fit(expression, HALF)
        path = tmp_path_factory.mktemp("half") / "half.ckpt"
        trainer.save_checkpoint(path)
        return weights, control.state_dict(), path

    return run


@pytest.mark.parametrize("expression", resumable.SAMPLERS)
def test_resumed_equals_uninterrupted(stop, expression):
    weights, state = uninterrupted(expression)
    halfway, _, path = stop(expression)
    # Another seed: the resumed run must draw with the seed in the checkpoint.
    resumed, control, _ = resumable.fit(expression, 2 * HALF, seed=123, resume=path)
    assert not torch.equal(halfway, weights)
    assert torch.equal(resumed, weights)
    assert same_state(control.state_dict(), state)


@pytest.mark.parametrize("expression", KILLED)
def test_without_the_samplers_state_a_resumed_run_goes_elsewhere(tmp_path, stop, expression):
    checkpoint = torch.load(stop(expression)[2], weights_only=False)
    del checkpoint["callbacks"]["negplug"]
    path = tmp_path / "stripped.ckpt"
    torch.save(checkpoint, path)
    resumed, _, _ = resumable.fit(expression, 2 * HALF, seed=123, resume=path)
    assert not torch.equal(resumed, uninterrupted(expression)[0])


def of_two_ranks(checkpoint, path):
    """Write a checkpoint as two ranks would have written it."""
    checkpoint = torch.load(checkpoint, weights_only=False)
    state = checkpoint["callbacks"]["negplug"]
    for losses in state.get("ranks", [state["losses"]]):
        for loss in losses.values():
            loss["sampler._extra_state"]["settings"]["world_size"] = 2
    if "ranks" in state:
        state["ranks"] *= 2
    torch.save(checkpoint, path)
    return path


def test_each_ranks_own_memory_needs_as_many_ranks(tmp_path, stop):
    expression = "queue(size=40, gather=False)"
    path = of_two_ranks(stop(expression)[2], tmp_path / "edited.ckpt")
    with pytest.raises(ValueError, match="the sampler state of 2 ranks, this run has 1"):
        resumable.fit(expression, 2 * HALF, resume=path)


@pytest.mark.parametrize("expression", ["queue(size=40)", "memory_bank()"])
def test_a_memory_that_all_ranks_share_goes_on_with_fewer(tmp_path, stop, expression):
    path = of_two_ranks(stop(expression)[2], tmp_path / "edited.ckpt")
    with pytest.warns(UserWarning, match="was saved with 2 ranks, this run has 1; what it"):
        resumed, *_ = resumable.fit(expression, 2 * HALF, seed=123, resume=path)
    # The steps of the edited checkpoint were one rank's.
    assert torch.equal(resumed, uninterrupted(expression)[0])


@pytest.fixture(scope="module")
def survivors(tmp_path_factory):
    """Folder of runs that were killed in their third epoch and then resumed, numbered."""
    if not IS_LINUX:
        pytest.skip("the runs are forked from one that has imported torch, which Linux allows")
    folder = tmp_path_factory.mktemp("runs")
    with started(folder, "--stall", str(HALF)) as launcher:
        for number in range(len(KILLED)):
            os.kill(int(contents(folder / str(number) / "stalled", launcher)), signal.SIGKILL)
        launcher.wait(timeout=240)
    assert "exit codes -9 -9 -9\n" in (folder / "output").read_text()
    for number in range(len(KILLED)):
        saved = {path.name for path in (folder / str(number)).glob("*.ckpt")}
        assert saved == {f"epoch={epoch}.ckpt" for epoch in range(HALF)}
    with started(folder, "--resume", f"epoch={HALF - 1}.ckpt", "--seed", "123") as launcher:
        launcher.wait(timeout=240)
    output = (folder / "output").read_text()
    assert "exit codes 0 0 0\n" in output, output
    return folder


@contextlib.contextmanager
def started(folder, *options):
    """The training processes of all of ``KILLED``; none is left behind."""
    command = [sys.executable, resumable.__file__, str(folder), str(2 * HALF), *KILLED, *options]
    with (folder / "output").open("w") as output:
        launcher = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield launcher
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()


def contents(path, process, seconds=240):
    """The text of a file as soon as it is there."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, (path.parents[1] / "output").read_text()
        assert time.monotonic() < deadline, f"no {path} after {seconds} s"
        time.sleep(0.05)
    return path.read_text()


@pytest.mark.parametrize("number", range(len(KILLED)), ids=KILLED)
def test_a_killed_process_resumes_as_if_nothing_had_happened(survivors, number):
    weights, state = uninterrupted(KILLED[number])
    final = torch.load(survivors / str(number) / "final.pt", weights_only=True)
    assert torch.equal(final["weights"], weights)
    assert same_state(final["state"], state)


@pytest.mark.parametrize("expression", resumable.SAMPLERS)
def test_the_checkpoint_holds_tensors_and_built_in_types(tmp_path, stop, expression):
    _, at_stop, path = stop(expression)
    state = torch.load(path, weights_only=False)["callbacks"]["negplug"]
    assert types_of(state) <= {dict, OrderedDict, list, tuple, str, int, float, bool, type(None)}
    # The rest of the checkpoint is the host's, which may put in what it likes.
    torch.save(state, tmp_path / "state.pt")
    assert same_state(torch.load(tmp_path / "state.pt", weights_only=True), at_stop)


def types_of(state):
    """The types in a state, tensors aside."""
    if isinstance(state, torch.Tensor):
        assert type(state) is torch.Tensor
        assert not state.requires_grad
        assert state.untyped_storage().nbytes() == state.nbytes  # no more than what was written
        return set()
    inner = state.values() if isinstance(state, dict) else state
    inner = inner if isinstance(state, (dict, list, tuple)) else ()
    return {type(state)}.union(*map(types_of, inner))


class Loop:
    """A plain PyTorch loop around ``ContrastiveLoss``."""

    def __init__(self, expression, calls=1):
        self.model = nn.Linear(12, 16).to(DEVICE)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.loss_fn = ContrastiveLoss(expression, temperature=0.2)
        self.calls = calls

    def train(self, first, last):
        for epoch in range(first, last):
            generator = torch.Generator().manual_seed(epoch)
            order = torch.randperm(resumable.SIZE, generator=generator)
            inputs = torch.randn(2 * self.calls, resumable.SIZE, 12, generator=generator)
            for indexes in order.split(resumable.BATCH):
                views = [self.model(view[indexes].to(DEVICE)) for view in inputs]
                self.optimizer.zero_grad()
                self._loss(views, indexes, indexes % 4).backward()
                self.optimizer.step()
        return self

    def _loss(self, views, indexes, labels):
        if self.calls == 1:
            return self.loss_fn(*views, indexes=indexes, labels=labels)
        self.loss_fn.end_step()
        pairs = [tuple(views[2 * call : 2 * call + 2]) for call in range(self.calls)]
        batches = [ContrastiveBatch.from_views(pair, indexes, labels) for pair in pairs]
        return sum(self.loss_fn.contrast(batch) for batch in batches)

    def parts(self):
        return {"model": self.model, "optimizer": self.optimizer, "loss": self.loss_fn}

    def state(self):
        return {name: part.state_dict() for name, part in self.parts().items()}


@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("expression", resumable.SAMPLERS)
def test_a_plain_loop_resumes_from_its_state_dicts(tmp_path, expression, calls):
    torch.manual_seed(0)
    straight = Loop(expression, calls).train(0, 2 * HALF)
    torch.manual_seed(0)
    torch.save(Loop(expression, calls).train(0, HALF).state(), tmp_path / "half.pt")
    torch.manual_seed(123)  # a new process would not have the old seed
    resumed = Loop(expression, calls)
    saved = torch.load(tmp_path / "half.pt", weights_only=True)
    for name, part in resumed.parts().items():
        part.load_state_dict(saved[name])
    resumed.train(HALF, 2 * HALF)
    assert same_state(resumed.state(), straight.state())
    assert not same_state(saved["model"], straight.state()["model"])
