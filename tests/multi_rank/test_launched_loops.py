"""Plain loops on ranks that a launcher starts: every rank is treated, or the run fails."""

from __future__ import annotations

import armed
import pytest

SCRIPT = """
import os
import torch
import torch.distributed as dist
import torch.distributed.nn  # before there is a group, which its default arguments would keep
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from lightly.loss import NTXentLoss

dist.init_process_group("gloo")
torch.manual_seed(0)
model, criterion = DistributedDataParallel(nn.Linear(6, 4)), NTXentLoss(gather_distributed=True)
for _ in range(2):
    first, second = model(torch.randn(16, 6)).chunk(2)
    criterion(first, second).backward()
print(f"rank {dist.get_rank()} treated {'forward' in vars(criterion)}\\n", end="", flush=True)
del model
dist.destroy_process_group()
"""
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
RUN = ["negplug", "run", "--sampler", "uniform(num_negatives=4)"]


def run(tmp_path, *command, text=SCRIPT, **variables):
    (tmp_path / "recipe.py").write_text(text)
    return armed.run(tmp_path, *command, **variables)


def test_a_module_through_the_command_line_under_torchrun(tmp_path):
    pytest.importorskip("lightly")
    done = run(tmp_path, *TORCHRUN, "-m", *RUN, "-m", "recipe")
    assert done.returncode == 0, done.stderr
    treated = sorted(line for line in done.stdout.splitlines() if line)
    assert treated == ["rank 0 treated True", "rank 1 treated True"]
    assert done.stderr.count("negplug treats NTXentLoss") == 1


def test_a_sampler_on_one_rank_alone_is_an_error_within_seconds(tmp_path):
    pytest.importorskip("lightly")
    alone = """
import os
if os.environ["RANK"] == "0":
    os.environ["NEGPLUG_SAMPLER"] = "uniform(num_negatives=4)"
"""
    done = run(tmp_path, *TORCHRUN, "recipe.py", text=alone + SCRIPT, NEGPLUG_RANKS_TIMEOUT="2")
    assert done.returncode == 1
    said = "RanksError: rank 1 has called no loss that negplug treats within 2 s of this rank"
    assert said in done.stderr


SBATCH = {"SLURM_PROCID": 0, "SLURM_LOCALID": 0, "SLURM_NTASKS": 3}


@pytest.mark.parametrize(
    ("launcher", "others"),
    [
        (SBATCH, False),
        ({**SBATCH, "SLURM_STEP_NUM_TASKS": 1}, False),
        ({**SBATCH, "SLURM_STEP_NUM_TASKS": 3}, True),
        ({**SBATCH, "OMPI_COMM_WORLD_RANK": 0, "OMPI_COMM_WORLD_SIZE": 3}, True),
        ({"NODE_RANK": 0}, True),
    ],
    ids=["sbatch", "a-shell", "srun", "mpirun", "a-run-on-each-node"],
)
def test_a_rank_without_a_treated_call_fails_the_run(tmp_path, launcher, others):
    """Unless a launcher has started the others, which have records of their own."""
    # What the ranks of three note, but the last.
    text = """
from negplug.hosts import call_record
for rank in range(2):
    call_record._recorded = ""
    call_record.record_call(rank, 3)
"""
    variables = {name: str(value) for name, value in launcher.items()}
    done = run(tmp_path, "-m", *RUN, "recipe.py", text=text, **variables)
    said = "ended without a call of a treated loss in rank 2" in done.stderr
    assert (done.returncode, said) == ((0, False) if others else (1, True)), done.stderr
