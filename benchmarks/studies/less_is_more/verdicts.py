"""What the paper found, and whether it is so here: reads the rows of the other scripts.

    python benchmarks/studies/less_is_more/verdicts.py

Writes the tables of the README beside it, and draws the picture.

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

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from neighbours import (
    RESULTS,
    Interval,
    Row,
    mean,
    paired,
    rank_correlation,
    stored,
    with_tables,
)
from verdicts_figure import draw
from verdicts_tables import ALL, OBJECTIVES, UNTRAINED, accuracies, along, by_number, shown, told

PAGE = Path(__file__).with_name("README.md")

FEW = 10
NOT_RUN = Interval(math.nan, math.nan, math.nan, 0)
WORDS = {1: "reproduced", -1: "not reproduced", 0: "undecided"}

CLUSTERS = {
    "intra_class_distance": ("the distance within classes", -1),
    "silhouette": ("the silhouette", 1),
}
"""Column → what it is called, and on which side of 0 the paper has its correlation for ReLIC."""


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


def signal(ratios: Sequence[Row]) -> Interval:
    """Return how far the ratio of M = 1 is above that of all, at the end of the runs."""
    last = max(int(str(row["step"])) for row in ratios)
    end = [row for row in ratios if row["step"] == last]
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
            tell(f"{name}: few negatives (M* = {number}) are above all, points", interval)
    if present == set(OBJECTIVES):
        tell("ReLIC is above SimCLR, points", above(region))
    for name in OBJECTIVES:
        finding = f"{name}: the SNR at τ = 1 of M = 1 is above that of all"
        own = [row for row in ratios if row["objective"] == name]
        tell(finding, signal(own) if own else NOT_RUN, learns=True)
    for column, (called, side) in CLUSTERS.items():
        if "ReLIC" in present:
            rho = clusters(region, "ReLIC", column)
            tell(f"ReLIC: accuracy goes with {called}, ρ", rho, side)
        if "SimCLR" in present:
            rho = clusters(region, "SimCLR", column)
            verdict = "not reproduced" if rho.verdict and learned else "undecided"
            found.append((f"SimCLR: accuracy does not go with {called}, ρ", rho, verdict))
    return found


def written(page: str, region: Sequence[Row], ratios: Sequence[Row]) -> str:
    """Return the page with its tables written anew; each stands between two comments.

    Raises:
        ValueError: If the rows are of several sizes.
    """
    common = ("network", "size", "batch_size")
    for rows, columns in (([*region, *ratios], common), (region, ["epochs"]), (ratios, ["epochs"])):
        sizes = {tuple(row[name] for name in columns) for row in rows}
        if len(sizes) > 1:
            raise ValueError(f"all rows are of one size, got {sorted(sizes)}: move some away")
    tested = [row for row in region if row["scored"] == "test"]
    tables = {
        "accuracy": [*accuracies(tested), "", _learned(gain(region))],
        "findings": told(findings(region, ratios)),
        "ratios": along(ratios),
    }
    return with_tables(page, {name: "\n".join(lines) for name, lines in tables.items()})


def _learned(best: Interval) -> str:
    return f"The best M is above the untrained network by {shown(best)} points."


def main(
    results: Annotated[Path, typer.Option(help="folder of the rows, and of the picture")] = RESULTS,
    page: Annotated[Path, typer.Option(help="whose tables are written")] = PAGE,
) -> None:
    """Write the tables of the page, and draw the picture."""
    region, ratios = (
        stored(name, results) for name in ("less_is_more_region", "less_is_more_snr_at_one")
    )
    page.write_text(written(page.read_text("utf-8"), region, ratios), "utf-8")
    print(draw(region, ratios, results / "less_is_more_region.png"))


if __name__ == "__main__":
    typer.run(main)
