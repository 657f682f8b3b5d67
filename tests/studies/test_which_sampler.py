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
@pytest.mark.parametrize("recipe", ["simclr", "moco"])
def test_every_choice_can_be_had_and_is_tuned_alike(data, recipe):
    from choices import CHOICES, UNTOUCHED, choices_for

    names = choices_for(data, recipe)
    assert len({len(CHOICES[name].temperatures) for name in names if name != UNTOUCHED}) == 1
    for name in names:
        choice = CHOICES[name]
        if choice.sampler is not None:
            negplug.ContrastiveLoss(choice.sampler, objective=choice.objective or "infonce()")


@pytest.mark.parametrize(
    ("recipe", "choice"),
    [("simclr", "stratified"), ("simclr", "clustered"), ("moco", "hierarchical")],
)
def test_a_run_scores_what_it_trained(recipe, choice):
    pytest.importorskip("kornia")
    pytest.importorskip("lightly")
    from choices import TUNED
    from training import Run, train

    run = Run(recipe, "cameras", 64, TUNED, 0.1, "validation", 0, 128, 2, 4, "cpu")
    (untouched,) = train(run)
    (again,) = train(run)
    (other,) = train(dataclasses.replace(run, choice=choice))
    assert untouched["linear_acc"] == again["linear_acc"]
    assert 0 <= untouched["linear_acc"] <= 1
    assert untouched["intra_class_distance"] != other["intra_class_distance"]


def test_the_tables_of_the_guide_are_those_of_the_rows():
    from report import PAGE, stored, written
    from training import QUESTION

    page = PAGE.read_text("utf-8")
    assert "<!-- table:" in page
    assert written(page, stored(QUESTION, scripts.BENCHMARKS / "results")) == page


@pytest.mark.parametrize(
    ("table", "choice"),
    [
        ("simclr cameras 32 again", "stratified"),
        ("simclr cameras 32 again", "HCL"),
        ("moco cameras 32 first", "hierarchical"),
        ("simclr fashion-mnist 32 first", "HCL"),
        ("simclr fashion-mnist 32 first", "uniform"),
        ("simclr fashion-mnist 32 first", "queue"),
    ],
)
def test_the_gains_of_the_readme_are_those_of_the_rows(table, choice):
    from choices import TUNED
    from report import stored
    from summary import by_choice, gain, settings, shown

    rows = stored("which_sampler", scripts.BENCHMARKS / "results")
    own = by_choice(dict(settings(rows))[table])
    text = shown(gain(own[choice], own[TUNED], "linear_acc")).strip("*")
    assert f"| {text} |" in (scripts.BENCHMARKS.parent / "README.md").read_text("utf-8")
