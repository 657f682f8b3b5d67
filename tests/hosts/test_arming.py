"""`NEGPLUG_SAMPLER` in processes without a Trainer and without the command line."""

from __future__ import annotations

import armed
import pytest

# Two processes, each of which imports what it trains with.
SCRIPT = """
import torch
import torch.multiprocessing as mp
from torch import nn
from lightly.loss import NTXentLoss

def train(name):
    net, criterion = nn.Linear(6, 4), NTXentLoss()
    for _ in range(2):
        criterion(net(torch.randn(8, 6)), net(torch.randn(8, 6))).backward()
    print(f"process {name} treated {'forward' in vars(criterion)}", flush=True)

if __name__ == "__main__":
    mp.spawn(train, nprocs=1)
    train("main")
"""


def run(tmp_path, *command, text=SCRIPT, **variables):
    (tmp_path / "script.py").write_text(text)
    return armed.run(tmp_path, *command, "script.py", **variables)


def test_the_environment_treats_a_plain_script_and_its_children(tmp_path):
    pytest.importorskip("lightly")
    done = run(tmp_path, NEGPLUG_SAMPLER="uniform(num_negatives=4)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["process 0 treated True", "process main treated True"]
    assert "negplug treats NTXentLoss (lightly " in done.stderr
    assert "with uniform(num_negatives=4)" in done.stderr


def test_the_command_line_treats_the_children_of_a_script(tmp_path):
    pytest.importorskip("lightly")
    text = SCRIPT.replace('    train("main")\n', "")
    command = ["-m", "negplug", "run", "--sampler", "uniform(num_negatives=4)"]
    done = run(tmp_path, *command, text=text)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "process 0 treated True\n"


def test_a_typo_is_an_error_in_the_first_step(tmp_path):
    pytest.importorskip("lightly")
    text = SCRIPT.replace("    mp.spawn(train, nprocs=1)\n", "")
    done = run(tmp_path, text=text, NEGPLUG_SAMPLER="unifrom(num_negatives=4)")
    assert done.returncode == 1
    assert "NEGPLUG_SAMPLER: unknown sampler 'unifrom'" in done.stderr
    assert not done.stdout


# Trains with a loss that is none of a host's, and that has no negatives.
OTHER = """
import torch
from torch import nn
net = nn.Linear(6, 4)
nn.MSELoss()(net(torch.randn(8, 6)), torch.randn(8, 4)).backward()
"""


def test_a_process_that_ends_untreated_says_so(tmp_path):
    done = run(tmp_path, text=OTHER, NEGPLUG_SAMPLER="in_batch()")
    assert done.returncode == 0, done.stderr
    assert "ends without having called any contrastive loss that negplug treats" in done.stderr


UNSET = """
import sys
from negplug.hosts.arming import arm
arm()
loaded = {name for name in sys.modules if name.startswith(("negplug.", "torch"))}
assert loaded == {"negplug.hosts", "negplug.hosts.arming"}, loaded
"""


def test_without_the_variable_nothing_is_imported(tmp_path):
    done = run(tmp_path, text=UNSET)
    assert done.returncode == 0, done.stderr
