"""What variables ask for and nothing heeds in a plain script is said in its first steps."""

from __future__ import annotations

import armed
import pytest

pytest.importorskip("lightly")

# Without a Trainer. What computes the loss, and how many steps are made, is told by the test.
SCRIPT = """
import sys
import torch
from torch import nn
from lightly.loss import NegativeCosineSimilarity, NTXentLoss

class InfoNCE(nn.Module):
    temperature = 0.1

    def forward(self, a, b):
        logits = nn.functional.normalize(a) @ nn.functional.normalize(b).T
        return nn.functional.cross_entropy(logits / 0.1, torch.arange(len(a)))

net = nn.Linear(6, 4)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
criterion = {"byol": NegativeCosineSimilarity, "ntxent": NTXentLoss, "own": InfoNCE}[sys.argv[1]]()
for step in range(int(sys.argv[2])):
    loss = criterion(net(torch.randn(8, 6)), net(torch.randn(8, 6)))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print("step", step + 1, file=sys.stderr)
"""

RUN = ("-m", "negplug", "run", "--sampler", "in_batch()")
TREAT = "NEGPLUG_TREAT"


def said(tmp_path, loss, *command, steps=12, **variables):
    """What a script says, each with the step behind which it is said, and the exit code."""
    (tmp_path / "train.py").write_text(SCRIPT)
    done = armed.run(tmp_path, *command, "train.py", loss, str(steps), **variables)
    found, step = [], "begin"
    for line in done.stderr.splitlines():
        step = line if line.startswith("step ") else step
        if line.startswith(("negplug: ", "ValueError: ")):
            found.append((step, line.partition(": ")[2]))
    return found, done.returncode


def test_a_part_of_a_treatment_without_a_sampler_is_an_error_at_the_first_loss(tmp_path):
    # Nothing more is said of a script that fails.
    given = {"NEGPLUG_TEMPERATURE": "0.2", TREAT: "__main__:InfoNCE=infonce"}
    ((step, line),), code = said(tmp_path, "ntxent", **given)
    assert (step, code) == ("begin", 1)
    assert line.startswith("NEGPLUG_TEMPERATURE='0.2' has no effect without NEGPLUG_SAMPLER; set")


@pytest.mark.parametrize(("steps", "when"), [(12, "has made 10 optimizer steps"), (3, "ends")])
def test_what_has_no_effect_without_a_sampler_or_a_trainer(tmp_path, steps, when):
    given = {"NEGPLUG_IGNORE": "NTXentLoss", TREAT: "__main__:InfoNCE=infonce"}
    given |= {"NEGPLUG_DIAGNOSTICS": "gradient_snr"}
    found, code = said(
        tmp_path, "ntxent", steps=steps, NEGPLUG_SAMPLR="in_batch()", NEGPLUG_STRCT="1", **given
    )
    assert code == 0
    unknown, others = found[:2], found[2:]
    assert {step for step, _ in unknown} == {"begin"}
    assert {line.rpartition("did you mean ")[2] for _, line in unknown} == {
        *("NEGPLUG_SAMPLER?", "NEGPLUG_STRICT?")
    }
    assert {line.partition(" ")[0] for _, line in others} == given.keys()
    assert {step for step, _ in others} == {"step 9" if steps == 12 else "step 3"}
    for _, line in others:
        assert f" is set, but {'is about' if 'Trainer' in line else 'this process'} " in line
        assert when in line
        assert ("without one; unset it" if "Trainer" in line else "set NEGPLUG_SAMPLER too") in line


DECLARED = {
    "train:InfoNCE": "did you mean __main__:InfoNCE?",
    "__main__:InfoNEC": "did you mean __main__:InfoNCE?",
    "nowhere:Nothing": "check its module and name",
}


@pytest.mark.parametrize("command", [(), RUN])
def test_no_negatives_and_declarations_that_match_nothing_are_named_in_the_first_steps(
    tmp_path, command
):
    variables = {TREAT: ",".join(f"{name}=infonce" for name in DECLARED)}
    variables |= {} if command else {"NEGPLUG_SAMPLER": "in_batch()"}
    found, code = said(tmp_path, "byol", *command, **variables)
    assert [step for step, _ in found[:4]] == ["step 9"] * 4
    assert "has made 10 optimizer steps without having called any contrastive loss" in found[0][1]
    for (_, line), (name, hint) in zip(found[1:4], DECLARED.items(), strict=True):
        assert line.startswith(f"NEGPLUG_TREAT (or --treat) names {name}, but this process has")
        assert line.endswith(hint)
    assert code == len(found) - 4 == bool(command)  # the command ends with an error beside it


def test_what_is_heeded_is_not_named(tmp_path):
    declared = {TREAT: "__main__:InfoNCE=infonce", "NEGPLUG_IGNORE": "NTXentLoss"}
    found, code = said(tmp_path, "own", NEGPLUG_SAMPLER="in_batch()", **declared)
    assert (found, code) == ([], 0)
