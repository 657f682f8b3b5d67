"""The study behind the guide: its arithmetic, one run of it, and the tables on the page."""

import dataclasses

import pytest
import scripts

import negplug


@pytest.fixture(autouse=True)
def _study_on_the_path(study):
    study("which_sampler")


def rows(choice, accuracies, **columns):
    return [
        {"choice": choice, "seed": seed, "linear_acc": accuracy, "split": "test", **columns}
        for seed, accuracy in enumerate(accuracies)
    ]


def test_a_gain_is_paired_by_seed_and_not_in_order():
    from summary import gain, shown

    own, base = rows("hard", [0.6, 0.7, 0.93]), rows("untouched", [0.5, 0.6, 0.8])
    found = gain(own[::-1], base, "linear_acc")
    assert found.middle == pytest.approx(11)
    assert shown(found) == "**+11.0 [+6.7, +15.3]**"
    with pytest.raises(ValueError, match="differ"):
        gain(own[:2], base, "linear_acc")


def test_settings_are_chosen_by_the_validation_split_alone():
    from summary import best_temperatures

    scored = {0.1: 0.7, 0.2: 0.8, 0.5: 0.6}
    tuned = [{"choice": "hard", "temperature": t, "linear_acc": a} for t, a in scored.items()]
    assert best_temperatures(tuned) == {"hard": 0.2}


@pytest.mark.parametrize("data", ["fashion-mnist", "cameras"])
def test_every_choice_can_be_had_and_is_tuned_alike(data):
    from choices import CHOICES, UNTOUCHED, choices_for

    numbers = {len(CHOICES[name].temperatures) for name in choices_for(data) if name != UNTOUCHED}
    assert len(numbers) == 1
    for name in choices_for(data):
        choice = CHOICES[name]
        if choice.sampler is not None:
            negplug.ContrastiveLoss(choice.sampler, objective=choice.objective or "infonce()")


def test_a_run_scores_what_it_trained():
    pytest.importorskip("kornia")
    pytest.importorskip("lightly")
    from choices import TUNED
    from training import Run, train

    run = Run("cameras", 64, TUNED, 0.1, "validation", 0, 128, 1, 4, "cpu")
    (untouched,) = train(run)
    (again,) = train(run)
    (stratified,) = train(dataclasses.replace(run, choice="stratified"))
    assert untouched["linear_acc"] == again["linear_acc"]
    assert 0 <= untouched["linear_acc"] <= 1
    assert untouched["intra_class_distance"] != stratified["intra_class_distance"]


def test_the_tables_of_the_guide_are_those_of_the_rows():
    from report import PAGE, stored, written
    from training import QUESTION

    page = PAGE.read_text("utf-8")
    assert "<!-- table:" in page
    assert written(page, stored(QUESTION, scripts.BENCHMARKS / "results")) == page


@pytest.mark.parametrize(
    ("data", "size", "choice"),
    [
        ("cameras", 128, "stratified"),
        ("fashion-mnist", 32, "HCL"),
        ("fashion-mnist", 32, "uniform"),
        ("fashion-mnist", 32, "queue"),
    ],
)
def test_the_gains_of_the_readme_are_those_of_the_rows(data, size, choice):
    from choices import TUNED
    from report import settings, stored
    from summary import by_choice, gain, shown

    rows = stored("which_sampler", scripts.BENCHMARKS / "results")
    (own,) = (
        by_choice(each) for name, batch, each in settings(rows) if (name, batch) == (data, size)
    )
    text = shown(gain(own[choice], own[TUNED], "linear_acc")).strip("*")
    assert f"| {text} |" in (scripts.BENCHMARKS.parent / "README.md").read_text("utf-8")
