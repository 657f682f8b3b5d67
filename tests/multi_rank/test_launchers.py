"""Ranks that torchrun or a Lightning starts: they agree, and so do their checkpoints."""

from __future__ import annotations

import subprocess
import sys

import hosts
import pytest
import ranks
import torch
import torch.distributed as dist
import unequal_ranks
from torch import nn

from negplug import ContrastiveLoss
from negplug.kernels import meeting
from negplug.testing.subject import difference

pytestmark = pytest.mark.filterwarnings("ignore:.*all of them are used")
SCRIPT = """
import gc
import os
import sys
import torch
import torch.distributed as dist
import torch.distributed.nn
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from negplug import ContrastiveLoss

def train(sampler, rank):
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(10, 8).double())
    loss_fn = ContrastiveLoss(sampler)
    for step in range(3):
        views = torch.randn(2, 12, 10, dtype=torch.float64).unflatten(1, (2, 6))[:, rank]
        model.zero_grad()
        loss_fn(*model(views)).backward()
    return model.module.weight.grad, loss_fn.state_dict()

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.save({sampler: train(sampler, rank) for sampler in sys.argv[2:]}, f"{sys.argv[1]}/{rank}")
# Whatever holds the group keeps its threads alive; they run into the interpreter's end, and the
# process aborts now and then. A model holds it, and so do the default arguments of
# torch.distributed.nn, unless that is imported before there is a group.
gc.collect()
dist.destroy_process_group()
tasks = "/proc/self/task"  # of Linux
tasks = [f"{tasks}/{task}" for task in (os.listdir(tasks) if os.path.exists(tasks) else ())]
threads = [open(f"{task}/comm").read() for task in tasks]
assert not [name for name in threads if "gloo" in name], threads
"""


def test_torchrun(tmp_path):
    """Local batches under torchrun against the concatenated one here."""
    samplers = ["gather()", "queue(size=48)"]
    (tmp_path / "train.py").write_text(SCRIPT)
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", str(tmp_path / "train.py"), str(tmp_path), *samplers),
        ],
        check=True,
        timeout=120,
    )
    found = [torch.load(tmp_path / str(rank), weights_only=True) for rank in range(2)]
    assert difference(found[0], found[1]) is None
    for sampler in samplers:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Linear(10, 8).double()
            loss_fn = ContrastiveLoss(sampler)
            for _ in range(3):
                model.zero_grad()
                loss_fn(*model(torch.randn(2, 12, 10, dtype=torch.float64))).backward()
        gradient, state = found[0][sampler]
        torch.testing.assert_close(gradient, model.weight.grad, rtol=1e-6, atol=1e-12)
        assert sampler == "gather()" or state["sampler._extra_state"]["values"]["count"] == 48


KEPT = ("queue(size=24)", "queue(size=24, gather=False)")
"""Samplers whose state all ranks share, and whose state is each rank's own."""


def fit(sampler, folder, epochs=1, checkpoint=None):
    """Fit the host's recipe under DDP; write every rank's state at the start and at the end."""
    ranks.apart(lambda: fit_in_this_process(sampler, folder, epochs, checkpoint))


def fit_in_this_process(sampler, folder, epochs, checkpoint):
    control = hosts.negative_control()(sampler)

    class Record(hosts.lightning().Callback):
        def on_train_start(self, trainer, module):
            self.write(trainer, "start")

        def on_train_end(self, trainer, module):
            self.write(trainer, "end")
            trainer.save_checkpoint(folder / "checkpoint")
            if trainer.is_global_zero and "gather=False" in sampler:
                meeting._patience[dist.group.WORLD] = 0.4
                said = unequal_ranks.said(trainer.save_checkpoint, folder / "alone")
                (folder / "said").write_text(str(said))

        def write(self, trainer, when):
            folder.mkdir(exist_ok=True)
            torch.save(control.injection.state_dict(), folder / f"{when}{trainer.global_rank}")

    torch.manual_seed(0)
    settings = {"max_epochs": epochs, "strategy": "ddp_fork", "devices": 2}
    trainer = hosts.trainer(callbacks=[control, Record()], **settings)
    trainer.fit(hosts.recipe(), hosts.loader(32, 4), ckpt_path=checkpoint)


def states(folder, when):
    return [torch.load(folder / f"{when}{rank}", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module", params=KEPT)
def half(request, tmp_path_factory):
    """A sampler, and the folder of a run of one epoch with it."""
    folder = tmp_path_factory.mktemp("half")
    fit(request.param, folder)
    return request.param, folder


def test_lightnings_ranks_agree_and_their_checkpoint_loads(half):
    sampler, folder = half
    first, second = states(folder, "end")
    saved = torch.load(folder / "checkpoint", weights_only=False)["callbacks"]["negplug"]
    torch.save(saved, folder / "ours")
    assert difference(torch.load(folder / "ours", weights_only=True), saved) is None
    memories = [
        state[hosts.site_name()]["sampler._extra_state"]["values"] for state in (first, second)
    ]
    assert memories[0]["count"] == memories[1]["count"] == 24
    rows = [memory["rows"] for memory in memories]
    if "gather=False" in sampler:
        # Though solo-learn main gathers by itself, so that its batches hold everyone's keys.
        assert not torch.equal(*rows)
        assert difference(saved["ranks"], [first, second]) is None
        # What saves on rank 0 alone, as solo-learn's own Checkpointer does, is refused in time.
        assert "RanksError', 'rank 1 has saved no checkpoint" in (folder / "said").read_text()
        assert not (folder / "alone").exists()
    else:
        assert difference(first, second) is None
        assert difference(saved["losses"], first) is None


def test_each_rank_gets_its_own_state_back(half, tmp_path):
    sampler, folder = half
    fit(sampler, tmp_path, epochs=2, checkpoint=folder / "checkpoint")
    assert difference(states(tmp_path, "start"), states(folder, "end")) is None
    assert difference(states(tmp_path, "end"), states(folder, "end")) is not None


def test_another_number_of_ranks_goes_on_if_they_share_their_state(half):
    sampler, folder = half
    control = hosts.negative_control()(sampler)
    trainer = hosts.trainer(callbacks=[control], max_epochs=2)
    resumed = (hosts.recipe(), hosts.loader(32, 4)), {"ckpt_path": folder / "checkpoint"}
    if "gather=False" in sampler:
        with pytest.raises(ValueError, match="state of 2 ranks, this run has 1"):
            trainer.fit(*resumed[0], **resumed[1])
    else:
        with pytest.warns(UserWarning, match="was saved with 2 ranks, this run has 1; what it"):
            trainer.fit(*resumed[0], **resumed[1])
    state = control.injection.state_dict()[hosts.site_name()]
    before = states(folder, "end")[0][hosts.site_name()]["_extra_state"]["step"]
    went_on = state["_extra_state"]["step"] > before
    assert went_on == ("gather=False" not in sampler)
    assert state["sampler._extra_state"]["values"]["count"] == (24 if went_on else 0)
