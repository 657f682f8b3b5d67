"""The best setting of a sampler and the pictures of a sweep, from results made up here."""

from __future__ import annotations

import math
import random
from itertools import product
from statistics import mean, stdev

import pytest

pytest.importorskip("optuna")
pytest.importorskip("matplotlib")

from negplug.cli.sweep.figures.gradient_snr import gradient_snr_figure
from negplug.cli.sweep.figures.num_negatives import num_negatives_figure
from negplug.cli.sweep.figures.samplers import samplers_figure
from negplug.cli.sweep.recorded import averaged, curve_of
from negplug.cli.sweep.study import Result, Run
from negplug.cli.sweep.summary import Summary

COUNT = "negplug/criterion/num_negatives"
DISTANCE = "negplug/intra_class_distance"
NUMBERS = {"uniform(num_negatives=1)": 1, "uniform(num_negatives=10)": 10, "in_batch()": 254}
SEEDS = range(3)


def made_up(seed: int) -> list[Result]:
    """Random results of a grid of two names."""
    noise = random.Random(seed)
    results = []
    for sampler, lr, tau, number in product(["baseline", *NUMBERS], "123", "12", SEEDS):
        metrics = {"linear_acc": noise.random(), DISTANCE: noise.random()}
        if sampler in NUMBERS:
            metrics |= {COUNT: NUMBERS[sampler], "negplug/second/num_negatives": NUMBERS[sampler]}
        curve = [(step, noise.random()) for step in (8, 16, 24)]
        point = (("lr", lr), ("tau", tau))
        results.append(Result(Run(sampler, number, point), noise.random(), metrics, curve))
    noise.shuffle(results)
    return results


def naive_best(results: list[Result], sampler: str, minimize: bool) -> list[Result]:
    """The runs of the setting with the best mean, found by trying all."""
    best, best_mean = [], math.inf
    for lr, tau in product("123", "12"):
        runs = [r for r in results if r.run.sampler == sampler]
        runs = [r for r in runs if r.run.point == (("lr", lr), ("tau", tau))]
        center = mean(r.metrics["linear_acc"] for r in runs) * (1 if minimize else -1)
        if center < best_mean:
            best, best_mean = runs, center
    return sorted(best, key=lambda r: r.run.seed)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("minimize", [False, True])
def test_the_best_setting_is_that_of_a_naive_loop(seed: int, minimize: bool) -> None:
    results = made_up(seed)
    summary = Summary(results, [], "linear_acc", minimize)
    for sampler in ("baseline", *NUMBERS):
        best = naive_best(results, sampler, minimize)
        assert summary.best(sampler) == best
        assert summary.values(sampler, DISTANCE) == [r.metrics[DISTANCE] for r in best]


@pytest.mark.parametrize(
    ("values", "chosen"),
    [
        # Fewer seeds are not chosen over more, however good.
        ({"1": [0.9], "2": [0.5, 0.4], "3": [0.5, 0.5]}, "3"),
        # A diverged seed is no reason to leave it out of the mean.
        ({"1": [0.9, math.nan], "2": [0.5, 0.4]}, "2"),
        ({"1": [0.9, math.inf], "2": [0.5, 0.4]}, "2"),
        # Even that of a point that is complete counts more than fewer seeds.
        ({"1": [0.9], "2": [math.nan, 0.4]}, "2"),
        ({"1": [math.nan], "2": [math.nan, 0.4]}, "2"),
        # A run that logged no metric is as one that did not finish.
        ({"1": [0.9, None], "2": [0.5, 0.4]}, "2"),
        # Ties go to what ran first.
        ({"2": [0.5, 0.5], "1": [0.6, 0.4]}, "2"),
    ],
)
def test_incomplete_diverged_and_tied_settings(values: dict[str, list[float]], chosen: str) -> None:
    results = [
        Result(Run("in_batch()", seed, (("lr", lr),)), 1.0, {} if v is None else {"acc": v})
        for lr, listed in values.items()
        for seed, v in enumerate(listed)
    ]
    summary = Summary(results, [])
    assert {r.run.point for r in summary.best("in_batch()")} == {(("lr", chosen),)}


@pytest.mark.parametrize(
    ("logged", "wanted", "shown", "chooses"),
    [
        (["train_loss", "train_acc", "val_acc"], None, "val_acc", True),
        (["negplug/criterion/acceptance", "val_acc"], None, "val_acc", True),
        (["accumulated_loss", "knn_top1"], None, "knn_top1", True),
        (["train_loss", "negplug/criterion/acceptance"], None, "train_loss", False),
        (["train_loss", "val_loss"], "val_loss", "val_loss", True),
    ],
)
def test_what_chooses_is_asked_for_or_an_accuracy(logged, wanted, shown, chooses) -> None:
    """Of the others nobody knows whether more is better."""
    results = [
        Result(Run("in_batch()", 0, (("lr", lr),)), 1.0, dict.fromkeys(logged, float(lr)))
        for lr in ("0.1", "0.3")
    ]
    summary = Summary(results, [], wanted)
    assert (summary.metric, summary.chooses) == (shown, chooses)
    (best,) = summary.best("in_batch()")
    assert best.run.point == (("lr", "0.3" if chooses else "0.1"),)
    assert ("the setting that ran first, for no accuracy was logged" in summary.note()) != chooses


@pytest.mark.parametrize(
    ("logged", "said"),
    [({"1": [0.5, 0.5], "2": [math.nan] * 2}, True), ({"1": [0.5, 0.5], "2": [0.5, 0.6]}, False)],
)
def test_a_script_that_seeds_itself_is_told_by_its_metrics(logged, said) -> None:
    results = [
        Result(Run("in_batch()", seed, (("lr", lr),)), 1.0 + seed, {"val_acc": value})
        for lr, values in logged.items()
        for seed, value in enumerate(values)
    ]
    assert ("All seeds logged the same" in Summary(results, []).note()) == said
    assert "All seeds" not in Summary(results[::2], []).note()  # of one seed each


def test_the_picture_of_numbers_shows_means_deviations_and_the_reference() -> None:
    results = made_up(0)
    figure, caption = num_negatives_figure(Summary(results, []))
    panels = dict(zip(("linear_acc", DISTANCE), figure.axes, strict=True))
    baseline = naive_best(results, "baseline", False)
    for metric, axes in panels.items():
        assert axes.get_ylabel() == metric
        points = {}
        for container in axes.containers:
            xs, ys = container.lines[0].get_data()
            ends = [segment[:, 1] for segment in container.lines[2][0].get_segments()]
            points |= {x: (y, *end) for x, y, end in zip(xs, ys, ends, strict=True)}
        assert set(points) == {1, 10, 254}
        for sampler, number in NUMBERS.items():
            values = [r.metrics[metric] for r in naive_best(results, sampler, False)]
            center, spread = mean(values), stdev(values)
            assert points[number] == pytest.approx((center, center - spread, center + spread))
        values = [r.metrics[metric] for r in baseline]
        (line,) = (line for line in axes.lines if line.get_label() == "baseline: all")
        assert line.get_ydata() == pytest.approx([mean(values)] * 2)
        (band,) = axes.patches
        assert band.get_y() == pytest.approx(mean(values) - stdev(values))
        assert band.get_height() == pytest.approx(2 * stdev(values))
    # One line per family: uniform's two numbers are joined, in_batch() stands alone.
    joined = [list(c.lines[0].get_xdata()) for c in figure.axes[0].containers]
    assert joined == [[1, 10], [254]]
    assert [t.get_text() for t in figure.axes[-1].get_xticklabels()] == ["1", "10", "254"]
    assert "`linear_acc`, `negplug/intra_class_distance` against the number" in caption
    assert "`baseline`, which takes all negatives" in caption


def legend_of(figure) -> list[str]:
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def test_a_reference_that_counts_its_negatives_is_listed_once() -> None:
    counted = [
        Result(r.run, r.seconds, r.metrics | {COUNT: 254}, r.gradient_snr)
        if r.run.sampler == "baseline"
        else r
        for r in made_up(0)
    ]
    figure, _ = num_negatives_figure(Summary(counted, []))
    assert legend_of(figure) == ["baseline: all", "uniform(num_negatives=M)", "in_batch()"]
    points = [list(c.lines[0].get_xdata()) for c in figure.axes[0].containers]
    assert points == [[1, 10], [254], [254]]


def test_without_a_baseline_the_batch_is_the_reference() -> None:
    results = [result for result in made_up(0) if result.run.sampler != "baseline"]
    figure, caption = num_negatives_figure(Summary(results, []))
    assert legend_of(figure) == ["in_batch(): all", "uniform(num_negatives=M)"]
    points = [list(c.lines[0].get_xdata()) for c in figure.axes[0].containers]
    assert points == [[1, 10], [254]]  # its point is there, beside its line
    assert "`in_batch()`, which takes all negatives" in caption


def test_pictures_wait_for_their_data() -> None:
    results = made_up(0)
    one = [r for r in results if r.run.sampler in ("baseline", "in_batch()")]
    assert num_negatives_figure(Summary(one, [])) is None
    bare = [Result(r.run, r.seconds, {}) for r in results]
    assert samplers_figure(Summary(bare, [])) is None
    assert gradient_snr_figure(Summary(bare, [])) is None


def test_the_picture_of_the_gradient_shows_mean_and_band_over_seeds() -> None:
    results = made_up(1)
    figure, _ = gradient_snr_figure(Summary(results, []))
    (axes,) = figure.axes
    # From few negatives to many, the baseline last.
    assert [line.get_label() for line in axes.lines] == [*NUMBERS, "baseline"]
    for line, band in zip(axes.lines, axes.collections, strict=True):
        best = naive_best(results, line.get_label(), False)
        columns = [[r.gradient_snr[i][1] for r in best] for i in range(3)]
        assert list(line.get_xdata()) == [8, 16, 24]
        assert list(line.get_ydata()) == pytest.approx([mean(column) for column in columns])
        heights = {x: [] for x in (8, 16, 24)}
        for x, y in band.get_paths()[0].vertices:
            heights[x].append(y)
        for x, column in zip(heights, columns, strict=True):
            center, spread = mean(column), stdev(column)
            assert min(heights[x]) == pytest.approx(center - spread)
            assert max(heights[x]) == pytest.approx(center + spread)


def test_a_curve_is_that_of_the_first_trainer_that_logged_it() -> None:
    logged = [(0, 8, 0.1), (0, 8, 0.2), (0, 16, 0.2), (0, 24, 0.3), (1, 8, 0.9), (1, 16, 0.8)]
    records = [{"trainer": 0, "step": 4, "metrics": {"loss": 1.0}}, {"metrics": {"snr": 0.7}}]
    records += [{"trainer": t, "step": s, "metrics": {"snr": v}} for t, s, v in logged]
    # Of step 8 the last value; step 16 has it still, so nothing was logged there.
    assert curve_of(records, "snr") == [(8, 0.2), (24, 0.3)]
    assert curve_of(records, "other") == []


def test_a_long_curve_is_thinned_and_keeps_its_end() -> None:
    records = [{"step": step, "metrics": {"snr": step}} for step in range(1, 2001)]
    curve = curve_of(records, "snr")
    assert len(curve) == 500
    assert curve[-1] == (2000, 2000)


def test_curves_are_averaged_where_all_have_a_value() -> None:
    curves = [[(8, 1.0), (16, 2.0), (24, 3.0)], [(8, 3.0), (24, 5.0)], []]
    assert averaged(curves) == [(8, 2.0, math.sqrt(2)), (24, 4.0, math.sqrt(2))]
