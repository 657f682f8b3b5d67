"""Plain PyTorch scripts, which have no Trainer: `negplug run` treats what they call."""

from __future__ import annotations

import os
import subprocess
import sys

import armed
import naive
import pytest
import torch
from device import DEVICE
from torch import nn

import negplug

lightly_loss = pytest.importorskip("lightly.loss")
NTXentLoss = lightly_loss.NTXentLoss


def test_a_loss_is_treated_from_its_first_call_on(watch):
    z, criterion, seen = naive.embeddings(2, 8), NTXentLoss(0.2), []
    wanted = criterion(*z)
    criterion.register_forward_hook(lambda *args: seen.append(float(args[2].detach())))
    watching = watch("uniform(num_negatives=3)")
    assert criterion(*z) < wanted - 0.1
    treated = watching.injections["NTXentLoss"].losses["NTXentLoss"]
    assert treated.calls == 1
    criterion(*z)
    assert treated.calls == 2
    assert len(seen) == 2  # its own hooks ran once per call


def test_code_that_is_of_no_module_is_treated_too(watch):
    """As programs have it that run scripts by ``exec``."""
    watching = watch("uniform(num_negatives=3)")
    scope = {"__name__": None, "criterion": NTXentLoss(0.2), "z": naive.embeddings(2, 8)}
    exec("for _ in range(2): criterion(*z).backward()", scope)
    assert watching.injections["NTXentLoss"].losses["NTXentLoss"].calls == 2


def test_the_first_loss_is_the_treated_one_whatever_the_host_returned(watch):
    z, criterion = naive.embeddings(2, 8), NTXentLoss(0.2, memory_bank_size=(32, 16)).double()
    watch("queue()")
    losses = []
    for _ in range(3):
        loss = criterion(z[0], z[1].detach())
        losses.append(float(loss.detach()))
        loss.backward()
    assert losses[0] == 0  # nothing is in our queue, where the host's is full of noise
    assert losses[1] > 0
    assert int(criterion.memory_bank.bank_ptr) == 8  # the first call alone ran the host's forward


def test_evaluation_and_other_modules_are_left_alone(watch):
    watching = watch("in_batch()")
    criterion, z = NTXentLoss(), naive.embeddings(2, 8)
    with torch.no_grad():
        criterion(*z)
    criterion(*(v.detach() for v in z))
    nn.Linear(16, 1)(torch.randn(1, 16)).sum().backward()
    lightly_loss.BarlowTwinsLoss()(*naive.embeddings(2, 8))
    assert not watching.injections
    assert "forward" not in vars(criterion)
    watching.stop()
    criterion(*z)
    assert "forward" not in vars(criterion)


def test_a_criterion_beside_the_model_gives_the_hosts_loss_in_every_validation(watch):
    """Before the first step and behind it, for ``model.eval()`` does not reach the criterion."""
    criterion, z = NTXentLoss(0.2), naive.embeddings(2, 8)
    own = float(criterion(*z).detach())
    watching, found = watch("hard(num_negatives=2)"), []
    for _ in range(3):
        with torch.no_grad():
            found.append(float(criterion(*z)))
        treated = criterion(*z)
        treated.backward()
        assert float(treated.detach()) < own - 0.1
    assert found == [own] * 3
    assert watching.injections["NTXentLoss"].losses["NTXentLoss"].calls == 3


def test_its_steps_cannot_be_split_from_outside(watch, monkeypatch):
    monkeypatch.setenv("NEGPLUG_ACCUMULATE", "2")
    watch("in_batch()")
    here = r"NTXentLoss at \S*test_watch\.py:\d+; call negplug\.accumulated\(\) in it"
    with pytest.raises(ValueError, match=f"cannot split the steps of a plain PyTorch loop.*{here}"):
        NTXentLoss()(*naive.embeddings(2, 8))


def test_its_batches_cannot_be_composed_from_outside(watch, monkeypatch):
    monkeypatch.setenv("NEGPLUG_COMPOSE", "clustered()")
    watch("in_batch()")
    here = r"not those of a plain PyTorch loop, .* NTXentLoss at \S*test_watch\.py:\d+; unset it"
    with pytest.raises(ValueError, match=here):
        NTXentLoss()(*naive.embeddings(2, 8))


def test_what_the_script_has_injected_itself_stays(watch):
    z, criterion = naive.embeddings(2, 8), NTXentLoss()
    with negplug.inject(criterion, "uniform(num_negatives=3)") as handle:
        watching = watch("in_batch()")
        criterion(*z)
        assert handle.losses["NTXentLoss"].calls == 1
        assert not watching.injections


def test_two_losses_have_names_and_draws_of_their_own(watch):
    watching = watch("uniform(num_negatives=2)")
    z, first, second = naive.embeddings(2, 32), NTXentLoss(), NTXentLoss()
    assert first(*z) != second(*z)
    assert list(watching.injections) == ["NTXentLoss", "NTXentLoss.1"]


def test_stop_restores(watch):
    z, criterion = naive.embeddings(2, 8), NTXentLoss()
    wanted = criterion(*z)
    watching = watch("uniform(num_negatives=2)")
    assert criterion(*z) != wanted
    watching.stop()
    assert criterion(*z) == wanted


def test_objective_and_temperature(watch):
    z = naive.embeddings(2, 8)
    wanted = lightly_loss.DCLLoss(temperature=0.3)(*z)
    watch("in_batch()", "decoupled()", 0.3)
    torch.testing.assert_close(NTXentLoss(0.1)(*z), wanted)


def test_what_needs_indexes_says_why_it_cannot_run(watch):
    watch("memory_bank()")
    with pytest.raises(ValueError, match=r"index of every sample, but a plain PyTorch loop .*prov"):
        NTXentLoss()(*naive.embeddings(2, 8))


def test_a_loss_that_cannot_be_treated_says_why(watch):
    watch("in_batch()")
    criterion = lightly_loss.DCLLoss(weight_fn=lambda a, b: a.sum(1))
    with pytest.raises(ValueError, match="a function of your own"):
        criterion(*naive.embeddings(2, 8))


@pytest.mark.filterwarnings("ignore:Using `torch.compile")  # of global hooks, as ours is
def test_a_compiled_model_keeps_its_graph_and_its_loss_is_treated(watch):
    watching = watch("uniform(num_negatives=4)")
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 8)).double().to(DEVICE)
    compiled, criterion = torch.compile(model, backend=backend), NTXentLoss()
    for _ in range(2):
        criterion(*(compiled(v) for v in naive.embeddings(2, 8)))
    assert len(graphs) == 1
    assert watching.injections["NTXentLoss"].losses["NTXentLoss"].calls == 2


@pytest.mark.filterwarnings("ignore:Using `torch.compile")
def test_a_loss_inside_a_compiled_function_is_treated(watch):
    watching = watch("uniform(num_negatives=4)")
    layer, criterion = nn.Linear(16, 8).double().to(DEVICE), NTXentLoss()
    compiled = torch.compile(lambda a, b: criterion(layer(a), layer(b)), backend="eager")
    losses = [compiled(*naive.embeddings(2, 8)) for _ in range(3)]
    assert watching.injections["NTXentLoss"].losses["NTXentLoss"].calls == 3
    whole = NTXentLoss().forward(*(layer(v) for v in naive.embeddings(2, 8)))
    assert max(losses) < whole - 0.1
    losses[-1].backward()
    assert layer.weight.grad.isfinite().all()


def test_a_trainer_is_untouched(watch):
    import hosts

    watching = watch("in_batch()")
    hooks = torch.nn.modules.module._global_forward_hooks
    during = []

    class Looking(hosts.lightning().Callback):
        def on_train_batch_end(self, *_):
            during.append((watched(), len(hooks)))

    def watched():
        return any(getattr(hook, "__self__", None) is watching for hook in hooks.values())

    control = hosts.negative_control()("uniform(num_negatives=4)")
    before = len(hooks)
    assert watched()
    hosts.trainer(callbacks=[control, Looking()]).fit(hosts.recipe(), hosts.loader())
    # The Trainer's own lookout for untreated losses sees three steps.
    assert during == [(False, before)] * 2 + [(False, before - 1)]
    assert control.injection.losses["criterion"].calls == 3
    assert not watching.injections
    assert len(hooks) == before

    class Failing(hosts.lightning().Callback):
        def on_train_batch_end(self, *_):
            raise RuntimeError("stop")

    control = hosts.negative_control()("uniform(num_negatives=4)")
    with pytest.raises(RuntimeError, match="stop"):
        hosts.trainer(callbacks=[control, Failing()]).fit(hosts.recipe(), hosts.loader())
    assert len(hooks) == before
    NTXentLoss()(*naive.embeddings(2, 4))
    assert len(watching.injections) == 1


# Lightly's pytorch examples in small: a model, a criterion and a loop of the script's own.
SCRIPT = """
import copy
import sys
import torch
from torch import nn
from lightly.loss import NTXentLoss
from lightly.models.modules import MoCoProjectionHead, SimCLRProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum

torch.manual_seed(0)
bank = sys.argv[1] == "moco"
head = MoCoProjectionHead(8, 8, 4) if bank else SimCLRProjectionHead(8, 8, 4)
model = nn.Sequential(nn.Linear(6, 8), head)
momentum = copy.deepcopy(model)
deactivate_requires_grad(momentum)
criterion = NTXentLoss(memory_bank_size=(32, 4)) if bank else NTXentLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.06)
data = torch.utils.data.TensorDataset(torch.randn(32, 6))
for epoch in range(3):
    for (x,) in torch.utils.data.DataLoader(data, batch_size=8):
        if bank:
            update_momentum(model, momentum, m=0.9)
            loss = criterion(model(x), momentum(x + 0.1))
        else:
            loss = criterion(model(x), model(x + 0.1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(f"{loss.item():.5f}")
torch.save(model.state_dict(), sys.argv[2])
"""


def run(tmp_path, sampler, method, *launcher, **environment):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "negplug", "run", "--sampler", sampler]
    if sampler == "plain python":
        command = [sys.executable]
    done = subprocess.run(
        [*launcher, *command, str(script), method, str(tmp_path / "weights.pt")],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )
    return done


def test_a_script_without_a_trainer(tmp_path):
    found = {}
    for sampler in ("plain python", "baseline", "in_batch()", "uniform(num_negatives=4)"):
        done = run(tmp_path, sampler, "simclr")
        assert done.returncode == 0, done.stderr
        found[sampler] = [float(line) for line in done.stdout.split()]
        assert torch.load(tmp_path / "weights.pt", weights_only=True)
    assert found["baseline"] == found["plain python"]
    assert found["in_batch()"] == pytest.approx(found["plain python"], abs=1e-4)
    # The environment alone does the same, draw for draw.
    environment = armed.environment(tmp_path, NEGPLUG_SAMPLER="uniform(num_negatives=4)")
    done = run(tmp_path, "plain python", "simclr", **environment)
    assert [float(line) for line in done.stdout.split()] == found["uniform(num_negatives=4)"]
    # 4 of 14 negatives: less to tell the positive from.
    assert all(a < b - 0.2 for a, b in zip(*list(found.values())[:1:-1], strict=True))


def test_a_script_with_a_bank(tmp_path):
    done = run(tmp_path, "queue()", "moco")
    assert done.returncode == 0, done.stderr
    assert all(float(line) > 0 for line in done.stdout.split())
    done = run(tmp_path, "memory_bank()", "moco")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: memory_bank: needs the data set index of every sample, but")
