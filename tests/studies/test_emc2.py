"""The study of EMC²: its kept rows belong to runs, and a run is what its seed says."""

from dataclasses import fields

import image_files
import pytest
import torch


@pytest.fixture(autouse=True)
def _emc2(study):
    study("emc2")


def test_kept_rows_name_all_that_a_run_is():
    from estimators import ESTIMATORS
    from gradient_norm import NETWORKS, QUESTION, Run
    from neighbours import RESULTS
    from records import stored

    rows = stored(QUESTION, RESULTS)
    for row in rows:
        Run(**{field.name: row[field.name] for field in fields(Run)})
    assert {row["estimator"] for row in rows} <= set(ESTIMATORS)
    assert {row["network"] for row in rows} <= set(NETWORKS)


@pytest.mark.parametrize("data", ["digits", "fashion-mnist"])
def test_every_image_has_two_fixed_views(data, tmp_path, monkeypatch):
    from data import NETWORKS, embed, fixed_views

    splits = [image_files.images_of("fashion-mnist", *part) for part in ((True, 8), (False, 4))]
    image_files.write("fashion-mnist", tmp_path / "data", *splits, monkeypatch)
    monkeypatch.chdir(tmp_path)
    side = 28 if data == "fashion-mnist" else 32
    views = fixed_views(6, data)
    assert views.shape == (6, 2, 3, side, side)
    assert torch.equal(views, fixed_views.__wrapped__(6, data))
    assert not torch.equal(views[:, 0], views[:, 1])
    for name in NETWORKS:
        network = NETWORKS[name]()
        # An embedding is a function of its own image alone.
        torch.testing.assert_close(embed(network, views)[2:4], embed(network, views[2:4]))


def test_the_paper_form_visits_negatives_alone_and_keeps_its_states():
    from estimators import ESTIMATORS, PAPER

    size, batch = 6, 3
    table = torch.randn(size, 2, 4, generator=torch.Generator().manual_seed(0))
    form = ESTIMATORS[PAPER](size, 0.2, 0)

    def encode(indexes):
        return table[indexes].unbind(1)

    for epoch in range(4):
        for indexes in torch.randperm(size, generator=torch.Generator().manual_seed(epoch)).split(
            batch
        ):
            value = form(*encode(indexes), indexes=indexes, encode=encode)
            assert bool(value.isfinite())
    states = form.state_dict()["states"]
    assert states.shape == (2 * size,)
    assert bool((states >= 0).all())
    assert bool((states % size != torch.arange(2 * size) % size).all())


@pytest.mark.parametrize("estimator", ["SimCLR", "EMC², paper form", "isir, recompute", "SogCLR"])
def test_equal_runs_score_alike(estimator, tmp_path, monkeypatch):
    from accuracy import Run, train

    splits = [image_files.images_of("fashion-mnist", *part) for part in ((True, 40), (False, 40))]
    image_files.write("fashion-mnist", tmp_path / "data", *splits, monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fashion.TEST_SIZE", 40)
    run = Run(estimator, 0.07, 40, 8, 2, 1e-3, "MLP", 3)
    ((first,), (second,)) = (train(run, "cpu") for _ in range(2))
    for row in (first, second):
        row.pop("seconds")
    assert first == second
    assert first["estimator"] == estimator
    assert 0 <= first["linear_acc"] <= 1
    assert 0 <= first["knn_acc"] <= 1
