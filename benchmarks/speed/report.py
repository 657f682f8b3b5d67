"""``speed.md``: the targets beside what was measured, and the tables that README and docs show.

    python benchmarks/speed/report.py

reads the newest row of every competitor and setting from the CSV files; a question that was not
measured is said to be so. A card's folder gets a page of its own, and the CPU's page its targets.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from card_targets import CARD_TARGETS
from devices import AUTOCAST
from harness import RESULTS
from losses import LIGHTLY_DCL, OURS_DCL, TREATED_DCL
from targets import TARGETS, Target

Record = dict[str, str]


def newest(results: Path, question: str) -> list[Record]:
    """Return the last row of each competitor and setting; none if there is no such file.

    What stands before the column ``device`` says what was measured, the rest where and how.
    """
    path = results / f"{question}.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        names = list(reader.fieldnames or ())
        setting = names[: names.index("device")]
        last: dict[tuple[str, ...], Record] = {}
        for row in reader:
            key = tuple(row[name] for name in setting)
            # Behind what is older, so that a run's rows stay together.
            last.pop(key, None)
            last[key] = row
    return list(last.values())


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, the first column on the left, the others on the right."""
    rule = ["---", *["---:"] * (len(headings) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows))


def pivot(
    records: Sequence[Record], side: Callable[[Record], str], top: str, cell: str, corner: str
) -> str:
    """Return a table of one column over two others.

    Args:
        records: Rows.
        side: What a row stands for.
        top: Column of numbers, which are the headings.
        cell: Column whose values are the cells.
        corner: What the first column is called.
    """
    names = list(dict.fromkeys(side(record) for record in records))
    values = sorted({record[top] for record in records}, key=float)
    cells = {(side(record), record[top]): record.get(cell) for record in records}
    rows = [[name, *(cells.get((name, value)) or "–" for value in values)] for name in names]
    return table([corner, *values], rows)


def targets(results: Path, wanted: Sequence[Target]) -> str:
    """Return the table of targets."""
    rows = [[target.claim, *_outcome(target, results)] for target in wanted]
    return table(["forward + backward, unless said otherwise", "target", "measured", ""], rows)


def _outcome(target: Target, results: Path) -> tuple[str, str, str]:
    bound = f"{'≤' if target.at_most else '≥'} {target.bound:g}{target.unit}"
    value = target.measured(newest(results, target.question))
    if value is None:
        return bound, "–", "not measured"
    return bound, f"{value:.3g}{target.unit}", "met" if target.met(value) else "**missed**"


def conditions(results: Path) -> str:
    """Return where each question was measured, those of the same conditions together."""
    found: dict[str, list[str]] = {}
    for path in sorted(results.glob("*.csv")):
        if path.stem not in _QUESTIONS:
            continue
        for row in newest(results, path.stem):
            pages = "" if row["huge_pages"] == "0" else ", huge pages"
            card = f"{row['gpu']} beside " if row.get("gpu") else ""
            where = (
                f"{row['date']}, {card}{row['threads']} threads of {row['cpu_model']}{pages}, "
                f"torch {row['torch']}, {row['hosts']}"
            )
            questions = found.setdefault(where, [])
            if path.stem not in questions:
                questions.append(path.stem)
    return "\n".join(f"- {where}: {', '.join(names)}" for where, names in found.items())


def _host_tables(records: list[Record]) -> str:
    softmax = {
        "ratio_to_lightly": "`NTXentLoss`'s time by this, over B",
        "ratio_to_solo": "`simclr_loss_func`'s time by this, over B",
        "memory_ratio_to_lightly": "`NTXentLoss`'s peak memory by this, over B",
        "memory_ratio_to_solo": "`simclr_loss_func`'s peak memory by this, over B",
    }
    decoupled = {
        "ratio_to_dcl": "`DCLLoss`'s time by this, over B",
        "memory_ratio_to_dcl": "`DCLLoss`'s peak memory by this, over B",
    }
    plain = {
        "median_ms": "median ms over B",
        "peak_extra_mib": "peak MiB over B",
        "ratio_to_plain": "plain cross-entropy's time by this, over B",
        "ratio_to_floor": "time by the floor, over B",
    }
    dcl = [row for row in records if row["competitor"] in (LIGHTLY_DCL, TREATED_DCL, OURS_DCL)]
    others = [row for row in records if row not in dcl]
    return "![](in_batch_loss.png)\n\n" + "\n\n".join(
        pivot(rows, _competitor, "batch_size", column, corner)
        for rows, columns in ((others, softmax), (dcl, decoupled), (records, plain))
        for column, corner in columns.items()
        if any(row.get(column) for row in rows)
    )


def _accuracy(records: list[Record]) -> str:
    def side(record: Record) -> str:
        return ", ".join(filter(None, (_competitor(record), record["backend"])))

    return pivot(records, side, "temperature", "relative_error", "τ")


def _number(records: list[Record]) -> str:
    return "![](negatives_number.png)\n\n" + pivot(
        records, _competitor, "num_negatives", "median_ms", "median ms over M"
    )


def _growth(records: list[Record]) -> str:
    return "![](growth.png)\n\n" + "\n\n".join(
        pivot(records, _competitor, "batch_size", column, corner)
        for column, corner in (
            ("median_ms", "median ms over B"),
            ("time_per_doubling", "by that of B/2"),
            ("peak_extra_mib", "peak MiB"),
            ("ratio_to_floor", "time by the floor"),
        )
        if any(record.get(column) for record in records)
    )


def _columns(*names: str) -> Callable[[list[Record]], str]:
    """Return what lays columns side by side, those of ratios too, one row per competitor."""

    def lay(records: list[Record]) -> str:
        ratios = [name for name in records[0] if re.match("(again_)?ratio_to_", name)]
        shown = [name for name in records[0] if name in names or name in ratios]
        headings = ["", *(name.replace("_", " ") for name in shown)]
        rows = [
            [_competitor(record), *(record[name] or "–" for name in shown)] for record in records
        ]
        return table(headings, rows)

    return lay


def _kernels(records: list[Record]) -> str:
    def side(record: Record) -> str:
        return f"{record['competitor']}, K = {record['pool']}"

    return pivot(records, side, "pool_by_columns", "ratio_to_dense", "dense by this, over K/M")


def _competitor(record: Record) -> str:
    name, precision = record["competitor"], record.get("dtype")
    return f"{name}, {precision}" if precision == AUTOCAST else name


_TIMES = ("batch_size", "median_ms", "q20_ms", "q80_ms", "again_ms")
_QUESTIONS: dict[str, tuple[str, Callable[[list[Record]], str]]] = {
    "in_batch_loss": ("Losses over the batch size", _host_tables),
    "gradient_accuracy": ("Relative error of the gradient in float32", _accuracy),
    "negatives_number": ("Over the number of negatives, B = 1,024", _number),
    "every_choice": (
        "Every sampler and objective, memories full",
        _columns("kind", *_TIMES, "peak_extra_mib"),
    ),
    "growth": ("Over large batches", _growth),
    "queue_loss": (
        "A queue of 65,536 keys, keys written included",
        _columns(*_TIMES, "peak_extra_mib"),
    ),
    "enqueue": ("Writing keys alone", _columns(*_TIMES)),
    "overhead": (
        "Overhead: small steps of every sampler",
        _columns(*_TIMES, "writing_operations", "host_waits"),
    ),
    "resnet_step": ("Training steps of a ResNet-18", _columns(*_TIMES, "added_percent")),
    "chosen_columns": ("Kernels for chosen columns", _kernels),
    "chain": ("Metropolis–Hastings chains", _columns("proposals", *_TIMES)),
    "emc2_step": ("A whole step of `emc2`", _columns(*_TIMES)),
    "step_share": (
        "Share of a training step that samplers take",
        _columns("median_ms", "sampling_median_ms", "sampling_share_percent"),
    ),
    "injection": (
        "Cost of the injection in a training step",
        _columns(
            *_TIMES,
            "hooks_ms",
            "adapter_ms",
            "injection_share_percent",
            "ratio_low",
            "ratio_high",
        ),
    ),
    "gradient_snr": (
        "What `GradientSNR` takes of a training step",
        _columns("median_ms", "update_median_ms", "update_share_percent", "ratio_median_ms"),
    ),
    "ceilings": ("Ceilings", _columns("dtype", "median_ms", "tera_per_second")),
}
"""Question → its heading, and what makes its table."""


def cards(results: Path) -> dict[str, Path]:
    """Return name → folder of each card that something was measured on."""
    found = {}
    for question in _QUESTIONS:
        for path in sorted(results.glob(f"*/{question}.csv")):
            found[newest(path.parent, question)[-1]["gpu"]] = path.parent
    return found


def write(results: Path) -> Path:
    """Write ``speed.md`` into the folder of each device's CSV files, and return the CPU's path."""
    others = []
    for name, folder in cards(results).items():
        page = _page(f"Speed on an {name}", folder, CARD_TARGETS, ())
        link = f"[All tables]({page.relative_to(results).as_posix()})."
        others += [f"## Targets on an {name}", targets(folder, CARD_TARGETS), link]
    return _page("Speed", results, TARGETS, others)


def _page(title: str, folder: Path, wanted: Sequence[Target], others: Sequence[str]) -> Path:
    parts = [
        f"# {title}",
        "Written by `nox -s speed`; `benchmarks/README.md` says how it is measured.",
        "## Targets",
        targets(folder, wanted),
        *others,
        "## Measured on",
        conditions(folder),
    ]
    for question, (heading, lay) in _QUESTIONS.items():
        records = newest(folder, question)
        if records:
            parts += [f"## {heading}", f"From `{question}.csv`.", lay(records)]
    path = folder / "speed.md"
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def main(
    results: Annotated[Path, typer.Option(help="folder of the CSV files")] = RESULTS,
) -> None:
    """Write speed.md from the CSV files."""
    print(write(results))


if __name__ == "__main__":
    typer.run(main)
