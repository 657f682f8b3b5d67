"""Lightly's own example and benchmark scripts, unmodified, from a checkout of Lightly."""

from __future__ import annotations

import random

import host_scripts
import pytest

SOURCE = host_scripts.checkout("lightly")
BATCH = host_scripts.BATCH

# Method: sampler, losses called in a step, negatives of an anchor in the second step (past keys
# are of one step then, from every rank).
EXAMPLES = {
    "simclr": ("uniform(num_negatives=4)", {"criterion": 1}, lambda world: 4),
    "moco": ("queue()", {"criterion": 1}, lambda world: BATCH * world),
    "nnclr": ("in_batch()", {"criterion": 2}, lambda world: 2 * BATCH - 2),
    "dcl": ("memory_bank()", {"criterion": 1}, lambda world: BATCH * world),
    "densecl": (
        "uniform(num_negatives=4, source=queue())",
        {"criterion_global": 1, "criterion_local": 1},
        lambda world: 4,
    ),
}
RUNS = [
    *((name, "run", 1) for name in EXAMPLES),
    *((name, "environment", 2) for name in EXAMPLES),
    ("simclr", "environment", 1),
    ("simclr", "run", 2),
]


@pytest.mark.parametrize(("name", "through", "world"), RUNS)
def test_a_lightning_example(tmp_path, name, through, world):
    sampler, calls, counts = EXAMPLES[name]
    kind = "pytorch_lightning" if world == 1 else "pytorch_lightning_distributed"
    script = SOURCE / "examples" / kind / f"{name}.py"
    done = host_scripts.run(tmp_path, script, sampler=sampler, through=through, world=world)
    host_scripts.assert_treated(done.fits, world, calls, counts(world))
    _, saved = host_scripts.checkpoint(tmp_path)
    assert saved["callbacks"]["negplug"]["sampler"] == sampler
    assert set(saved["callbacks"]["negplug"]["losses"]) == set(calls)
    (logged,) = tmp_path.rglob("hparams.yaml")
    assert f"negplug/sampler: {sampler}" in logged.read_text()


@pytest.mark.parametrize("name", ["simclr", "moco", "nnclr", "dcl", "densecl", "directclr"])
def test_a_plain_example(tmp_path, name):
    """A loop of its own: `negplug run` fails unless a treated loss was called."""
    sampler = "queue(size=16)" if name in ("moco", "densecl") else "uniform(num_negatives=4)"
    script = SOURCE / "examples" / "pytorch" / f"{name}.py"
    done = host_scripts.run(tmp_path, script, sampler=sampler)
    assert "epoch: 09, loss: " in done.output
    assert "nan" not in done.output


# ------------------------------------------------------------------ the ImageNet benchmark

BENCHMARK = SOURCE / "benchmarks" / "imagenet" / "resnet50"
BENCHMARKS = {
    "simclr": ("SimCLR", "uniform(num_negatives=4)", lambda world: 4),
    "dcl": ("DCL", "hard(num_negatives=3)", lambda world: 3),
    "dclw": ("DCLW", "in_batch()", lambda world: 6),
    "mocov2": ("MoCoV2", "queue(size=16)", lambda world: 4 * world),
}
EVALUATED = ("LinearClassifier", "FinetuneClassifier")
NO_KNN = ("--skip-knn-eval",)


def images(folder):
    from PIL import Image

    draw = random.Random(0)
    for part, number in (("train", 16), ("val", 4)):
        for index in range(number):
            kind = folder / part / f"class{index % 2}"
            kind.mkdir(parents=True, exist_ok=True)
            pixels = draw.randbytes(3 * 16 * 16)
            Image.frombytes("RGB", (16, 16), pixels).save(kind / f"{index}.png")
    return "--train-dir", str(folder / "train"), "--val-dir", str(folder / "val")


def benchmark(folder, method, *more, world=1, epochs=10, **how):
    strategy = "auto" if world == 1 else "ddp_find_unused_parameters_true"
    arguments = f"--methods {method} --epochs {epochs} --devices {world} --strategy {strategy} "
    arguments += "--batch-size-per-device 4 --num-classes 5 --knn-k 2 --accelerator cpu "
    arguments += "--num-workers 0 --precision 32-true --log-dir logs"
    more = (*arguments.split(), *images(folder), *more)
    return host_scripts.run(folder, BENCHMARK / "main.py", *more, world=world, batch=4, **how)


@pytest.mark.parametrize(
    ("method", "through", "world"),
    [*((method, "run", 1) for method in BENCHMARKS), ("mocov2", "environment", 2)],
)
def test_a_benchmark_and_its_evaluations(tmp_path, method, through, world):
    """The model that is evaluated still has its criterion, which the evaluations do not call."""
    kind, sampler, counts = BENCHMARKS[method]
    knn = () if method == "simclr" else NO_KNN
    done = benchmark(tmp_path, method, *knn, sampler=sampler, through=through, world=world)
    assert "| finetune  | val_top1" in done.output
    fits = {name: [fit for fit in done.fits if fit.model == name] for name in (kind, *EVALUATED)}
    assert sum(map(len, fits.values())) == len(done.fits)
    host_scripts.assert_treated(fits[kind], world, {"criterion": 1}, counts(world))
    for name in EVALUATED:
        found = [(fit.rank, fit.steps, fit.calls) for fit in fits[name]]
        assert found == [(rank, 2, {}) for rank in range(world)]


def test_a_linear_evaluation_needs_no_negplug(tmp_path):
    others = (*NO_KNN, "--skip-finetune-eval")
    benchmark(tmp_path, "mocov2", *others, "--skip-linear-eval", sampler="queue(size=16)")
    path, saved = host_scripts.checkpoint(tmp_path)
    assert saved["callbacks"]["negplug"]["sampler"] == "queue(size=16)"
    others += ("--ckpt-path", str(path))
    done = benchmark(tmp_path, "mocov2", *others, epochs=0, without=host_scripts.NEGPLUG)
    assert [fit.model for fit in done.fits] == ["LinearClassifier"]
    assert "| linear    | val_top1    |" in done.output
    _, evaluated = host_scripts.checkpoint(tmp_path, "linear_eval/**/*.ckpt")
    for name, weight in saved["state_dict"].items():
        if name.startswith("backbone.") and name.endswith("weight"):
            assert evaluated["state_dict"][f"model.{name}"].equal(weight)
