"""What the paper found, and whether it is so here: reads the tables of the other scripts.

    python benchmarks/studies/less_is_more/verdicts.py

Rules, fixed before anything ran; every interval is the 95 % one of Student's t over differences
of equal seeds, unless something else is said:

- *Few negatives do better*: M* is the M of at most 10 whose tuned setting has the best validation
  accuracy; the test accuracy of M* minus that of all.
- *ReLIC is above SimCLR*: the mean over M of its test accuracy minus SimCLR's.
- *The SNR rises as M falls*: the last ratio of M = 1 minus that of all.
- *For ReLIC accuracy follows the distance within classes, for SimCLR it does not*: Spearman's ρ
  over the test runs, with Fisher's interval; the same of the silhouette.

A finding is reproduced where the interval excludes zero on the paper's side, not reproduced where
it does on the other, and undecided where it holds zero. What is said of accuracy is undecided
too where training gains nothing: the best M has to be above the untrained network.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from neighbours import RESULTS, Interval, Row, mean, paired, rank_correlation, stored
from verdicts_figure import draw

FEW = 10
ALL = 0
OBJECTIVES = ("SimCLR", "ReLIC")
UNTRAINED = "untrained"
WORDS = {1: "reproduced", -1: "not reproduced", 0: "undecided"}

Seeds = Mapping[int, float]
"""Seed → value."""


def by_number(rows: Sequence[Row], column: str, scale: float = 1.0) -> dict[int, Seeds]:
    """Return M → seed → the column's value, all M last."""
    found: dict[int, dict[int, float]] = {}
    for row in rows:
        own = found.setdefault(int(str(row["num_negatives"])), {})
        own[int(str(row["seed"]))] = scale * float(str(row[column]))
    return dict(sorted(found.items(), key=lambda entry: (entry[0] == ALL, entry[0])))


def few_against_all(region: Sequence[Row], objective: str) -> tuple[int, Interval]:
    """Return M*, and how many points of accuracy it is above all negatives."""
    own = [row for row in region if row["objective"] == objective]
    tested = by_number([row for row in own if row["scored"] == "test"], "linear_acc", 100)
    best = max((m for m in tested if m and m <= FEW), key=lambda m: _validated(own, m))
    return best, paired(tested[best], tested[ALL])


def _validated(rows: Sequence[Row], number: int) -> float:
    """Return the best validation accuracy among the settings of one M."""
    return max(
        float(str(row["linear_acc"]))
        for row in rows
        if row["scored"] == "validation" and row["num_negatives"] == number
    )


def above(region: Sequence[Row]) -> Interval:
    """Return how many points ReLIC is above SimCLR, the mean over M of each seed."""
    tested = [row for row in region if row["scored"] == "test"]
    simclr, relic = (
        by_number([row for row in tested if row["objective"] == name], "linear_acc", 100)
        for name in OBJECTIVES
    )
    numbers = simclr.keys() & relic.keys()
    seeds = set.intersection(*({*of[m]} for of in (simclr, relic) for m in numbers))
    return mean([statistics.fmean(relic[m][s] - simclr[m][s] for m in numbers) for s in seeds])


def gain(region: Sequence[Row]) -> Interval:
    """Return how many points the best M is above the network without training."""
    tested = [row for row in region if row["scored"] == "test"]
    bare = by_number([r for r in tested if r["objective"] == UNTRAINED], "linear_acc", 100)[ALL]
    gains = [
        paired(values, bare)
        for name in OBJECTIVES
        for values in by_number(
            [row for row in tested if row["objective"] == name], "linear_acc", 100
        ).values()
    ]
    return max(gains, key=lambda each: each.middle)


def signal(ratios: Sequence[Row], objective: str) -> Interval:
    """Return how far the ratio of M = 1 is above that of all, at the end of the runs."""
    last = max(int(str(row["step"])) for row in ratios)
    end = [row for row in ratios if row["step"] == last and row["objective"] == objective]
    found = by_number(end, "snr")
    return paired(found[1], found[ALL])


def clusters(region: Sequence[Row], objective: str, column: str) -> Interval:
    """Return the rank correlation of test accuracy with a column, over the test runs."""
    own = [r for r in region if r["scored"] == "test" and r["objective"] == objective]
    accuracy, other = ([float(str(r[name])) for r in own] for name in ("linear_acc", column))
    return rank_correlation(accuracy, other)


def findings(region: Sequence[Row], ratios: Sequence[Row]) -> list[tuple[str, Interval, str]]:
    """Return what the paper found, the interval here and the verdict.

    Args:
        region: Rows of ``paper_region.py``.
        ratios: Rows of ``snr_at_one.py``.
    """
    found: list[tuple[str, Interval, str]] = []
    learned = gain(region).verdict > 0

    def tell(finding: str, interval: Interval, side: int = 1, learns: bool = learned) -> None:
        found.append((finding, interval, WORDS[side * interval.verdict if learns else 0]))

    present = {str(row["objective"]) for row in region if row["scored"] == "test"} - {UNTRAINED}
    for name in OBJECTIVES:
        if name in present:
            number, interval = few_against_all(region, name)
            tell(f"{name}: M* = {number} is above all, points", interval)
    if present == set(OBJECTIVES):
        tell("ReLIC is above SimCLR, points", above(region))
    for name in OBJECTIVES:
        if name in {row["objective"] for row in ratios}:
            tell(f"{name}: SNR of M = 1 is above that of all", signal(ratios, name), learns=True)
    for column, side in (("intra_class_distance", -1), ("silhouette", 1)):
        if "ReLIC" in present:
            tell(f"ReLIC: accuracy goes with {column}, ρ", clusters(region, "ReLIC", column), side)
        if "SimCLR" in present:
            rho = clusters(region, "SimCLR", column)
            verdict = "not reproduced" if rho.verdict and learned else "undecided"
            found.append((f"SimCLR: accuracy goes not with {column}, ρ", rho, verdict))
    return found


def accuracies(tested: Sequence[Row]) -> list[str]:
    """Return the lines of a table: the best setting of each M, on test images."""
    lines = [
        "| | M | τ | α | learning rate | accuracy (%) | minus all, points | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in OBJECTIVES:
        own = [row for row in tested if row["objective"] == name]
        found = by_number(own, "linear_acc", 100)
        for number, values in found.items():
            chosen = next(row for row in own if row["num_negatives"] == number)
            more = paired(values, found[ALL]) if number != ALL and ALL in found else "–"
            alpha = chosen["alpha"] if name == "ReLIC" else "–"
            lines.append(
                f"| {name} | {number or 'all'} | {chosen['temperature']} | {alpha} | "
                f"{chosen['learning_rate']} | {statistics.fmean(values.values()):.1f} | {more} | "
                f"{len(values)} |"
            )
    bare = by_number([row for row in tested if row["objective"] == UNTRAINED], "linear_acc", 100)
    for values in bare.values():
        score = statistics.fmean(values.values())
        lines.append(f"| {UNTRAINED} | – | – | – | – | {score:.1f} | – | {len(values)} |")
    return lines


def told(found: Sequence[tuple[str, Interval, str]]) -> list[str]:
    """Return the lines of a table: finding, interval, verdict."""
    lines = [
        "| the paper's finding | here, with 95 % interval | of | verdict |",
        "|---|---|---|---|",
    ]
    return lines + [
        f"| {finding} | {interval} | {interval.count} | **{verdict}** |"
        for finding, interval, verdict in found
    ]


def main(
    results: Annotated[Path, typer.Option(help="folder of the tables")] = RESULTS,
) -> None:
    """Print two tables, in Markdown: each number of negatives, and each finding; draw both."""
    region, ratios = (
        stored(name, results) for name in ("less_is_more_region", "less_is_more_snr_at_one")
    )
    sizes = {tuple(row[name] for name in ("network", "size", "epochs")) for row in region}
    if len(sizes) > 1:
        raise typer.BadParameter(f"the table mixes runs of {sorted(sizes)}: move some away")
    tested = [row for row in region if row["scored"] == "test"]
    print("\n".join([*accuracies(tested), "", *told(findings(region, ratios)), ""]))
    print(f"the best M minus the untrained network, points: {gain(region)}")
    print(draw(region, ratios, results / "less_is_more_region.png"))


if __name__ == "__main__":
    typer.run(main)
