"""The study behind the guide: its arithmetic, one run of it, and the tables on the page."""

import dataclasses

import pytest
import scripts
import torch

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


def test_rows_at_a_temperature_that_was_beaten_later_are_in_no_table():
    from summary import settings

    def row(split, temperature, seed, score=0.5):
        where = {"recipe": "simclr", "data": "cameras", "batch_size": 32, "choice": "hard"}
        run = {"split": split, "temperature": temperature, "seed": seed, "linear_acc": score}
        return where | run

    chosen_first = [row("validation", 0.1, 1_000, 0.7), row("test", 0.1, 0), row("test", 0.1, 100)]
    chosen_later = [row("validation", 0.05, 1_000, 0.8), row("test", 0.05, 0)]
    rows = [*chosen_first, *chosen_later]
    assert dict(settings(chosen_first)) == {
        "simclr cameras 32 again": chosen_first[2:],
        "simclr cameras 32 first": chosen_first[1:2],
    }
    assert dict(settings(rows)) == {"simclr cameras 32 first": chosen_later[1:]}


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


def test_costs_are_those_of_the_steps_beside_the_untouched_recipes(tmp_path):
    pytest.importorskip("kornia")
    pytest.importorskip("lightly")
    from choices import UNTOUCHED
    from cost import QUESTION, measure, replace, stored

    table = ("moco", "cameras", 32)
    rows = measure(*table, (UNTOUCHED, "queue"), size=96, epochs=2, rounds=6)
    untouched, queue = rows
    assert untouched["times_untouched"] == 1
    assert untouched["kept_mib"] == untouched["peak_extra_mib"] == 0
    # 1,024 keys of 64 numbers, and their indexes.
    assert 0.25 < queue["kept_mib"] < 0.3
    assert queue["peak_extra_mib"] >= 0
    assert [row["rounds"] for row in rows] == [6, 6]
    others = [{**untouched, "recipe": "simclr"}]
    for table_of, new in ((("simclr", *table[1:]), others), (table, rows), (table, [queue])):
        replace(table_of, new, tmp_path)
    found = [(row["recipe"], row["choice"]) for row in stored(QUESTION, tmp_path)]
    assert found == [("simclr", UNTOUCHED), ("moco", "queue")]


def test_an_epochs_batches_are_composed_in_the_time_of_its_steps():
    from cost import start_share

    assert start_share([7.0, 1.0, 1.0, 1.0, 11.0, 1.0, 1.0, 1.0], 4) == 2.0


def test_steps_take_turns_and_the_first_epoch_is_not_timed():
    from cost import in_turns

    seen = []

    def steps(name):
        for number in range(9):
            seen.append((name, number))
            yield

    times = in_turns({name: steps(name) for name in "abc"}, 4, 4)
    assert {name: len(own) for name, own in times.items()} == {"a": 4, "b": 4, "c": 4}
    rounds = [seen[start : start + 3] for start in range(0, 24, 3)]
    assert [sorted(each) for each in rounds] == [[(n, r) for n in "abc"] for r in range(8)]
    assert len({tuple(name for name, _ in each) for each in rounds}) > 1


def test_the_peak_of_a_step_is_what_it_holds_at_once():
    from cost import peak_of

    def steps():
        kept = torch.ones(1_000)
        yield
        for _ in range(3):
            held = torch.ones(2_000)  # 8,000 bytes at a time
            del held
        kept = torch.ones(500)
        yield kept

    every = steps()
    next(every)
    assert peak_of(every) == 8_000


def test_the_tables_of_the_guide_are_those_of_the_rows():
    from report import PAGE, stored, written
    from training import QUESTION

    page = PAGE.read_text("utf-8")
    assert "<!-- table:" in page
    gains, costs = (
        stored(name, scripts.BENCHMARKS / "results") for name in (QUESTION, f"{QUESTION}_cost")
    )
    assert written(page, gains, costs) == page


@pytest.mark.parametrize(
    ("table", "choice"),
    [
        ("simclr cameras 32 again", "stratified"),
        ("simclr cameras 128 again", "stratified"),
        ("moco cameras 32 first", "hierarchical"),
        ("simclr fashion-mnist 32 first", "decoupled"),
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
