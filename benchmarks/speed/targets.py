"""What the loss, the samplers and the injection have to reach, and what of it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple


class Target(NamedTuple):
    """A bound on one column of a question's rows; the worst row counts.

    Attributes:
        claim: What is compared with what.
        question: Whose rows.
        where: Column → pattern that picks the rows.
        column: The column.
        bound: To reach.
        at_most: Whether the bound is an upper one.
        unit: Behind both numbers.
    """

    claim: str
    question: str
    where: Mapping[str, str]
    column: str
    bound: float
    at_most: bool = False
    unit: str = "×"

    def measured(self, rows: Sequence[Mapping[str, str]]) -> float | None:
        """Return the worst value among rows of the question, None if there is none."""
        values = []
        for row in rows:
            if all(fnmatchcase(row.get(key, ""), pattern) for key, pattern in self.where.items()):
                if value := row.get(self.column):
                    values.append(float(value))
        # By hand: min and max lose a NaN, which is worse than any number.
        if any(value != value for value in values):
            return float("nan")
        return (max(values) if self.at_most else min(values)) if values else None

    def met(self, value: float) -> bool:
        """Return whether a measured value reaches the bound."""
        return value <= self.bound if self.at_most else value >= self.bound


def _losses(claim: str, competitor: str, batch_size: int, column: str, bound: float) -> Target:
    where = {"competitor": competitor, "batch_size": str(batch_size)}
    return Target(f"{claim}, B = {batch_size:,}", "in_batch_loss", where, column, bound)


def _full(batch_size: int, lightly: float, solo: float) -> tuple[Target, ...]:
    own = "`in_batch()` against"
    return (
        _losses(f"{own} Lightly", "in_batch()", batch_size, "ratio_to_lightly", lightly),
        _losses(f"{own} solo-learn", "in_batch()", batch_size, "ratio_to_solo", solo),
    )


def _uniform(number: int, numba: float, torch: float) -> tuple[Target, ...]:
    name = f"uniform(num_negatives={number})"
    return tuple(
        _losses(
            f"`{name}` against Lightly's full loss, {backend}",
            f"{name}, {backend}",
            4096,
            "ratio_to_lightly",
            bound,
        )
        for backend, bound in (("numba", numba), ("torch", torch))
    )


def _published(
    claim: str, question: str, where: str, numba: float, torch: float, **more: str
) -> list[Target]:
    """Return a target per backend, against the published form; ``where`` has a place for it."""
    targets = []
    for backend, bound in (("numba", numba), ("torch", torch)):
        picked = {"competitor": where.format(backend), "batch_size": "256", **more}
        name = f"{claim}, {backend}, B = 256"
        targets.append(Target(name, question, picked, "ratio_to_published", bound))
    return targets


def _chain(proposals: str) -> list[Target]:
    """Return the targets of a chain; the published loop's proposals are views in either case."""
    claim = f"chain through {proposals}, published by ours"
    kind = proposals.split()[-1]
    return _published(claim, "chain", "negplug, {}*", 50.0, 20.0, proposals=kind)


_SHARED = "uniform(num_negatives=100, shared=True)"
_QUEUE = {"competitor": "queue(size=65536)", "batch_size": "256"}
_FEW = ("uniform(num_negatives=10)", "uniform(num_negatives=100)", _SHARED)

TARGETS: tuple[Target, ...] = (
    *_full(1024, 4.5, 4.0),
    *_full(4096, 5.5, 4.0),
    _losses("its memory, Lightly's by ours", "in_batch()", 4096, "memory_ratio_to_lightly", 20.0),
    _losses("its memory, solo-learn's by ours", "in_batch()", 4096, "memory_ratio_to_solo", 20.0),
    _losses("`decoupled()` against Lightly's `DCLLoss`", "*decoupled()", 1024, "ratio_to_dcl", 7.0),
    *_uniform(10, 100.0, 70.0),
    *_uniform(100, 20.0, 8.0),
    _losses(f"`{_SHARED}` against Lightly", _SHARED, 4096, "ratio_to_lightly", 120.0),
    Target("`queue(size=65536)` against Lightly", "queue_loss", _QUEUE, "ratio_to_lightly", 3.5),
    Target("`queue(size=65536)` against solo-learn", "queue_loss", _QUEUE, "ratio_to_solo", 3.5),
    *_chain("the B images"),
    *_chain("all 2B views"),
    *_published("whole `emc2` step, published by ours", "emc2_step", "emc2(), {}", 25.0, 8.0),
    Target(
        "treated training step against the untreated one",
        "injection",
        {"competitor": "*treated: in_batch()"},
        "ratio_to_untreated",
        1.0,
    ),
    *(
        Target(
            f"`{sampler}`, time at 2B by that at B, worst doubling",
            "growth",
            {"competitor": sampler},
            "time_per_doubling",
            2.4,
            at_most=True,
        )
        for sampler in _FEW
    ),
    Target(
        "`in_batch()` on one core against Lightly, B = 8",
        "overhead",
        {"competitor": "in_batch()", "batch_size": "8"},
        "ratio_to_lightly",
        1.0,
    ),
    Target(
        "worst of samplers on one core against Lightly, B = 8",
        "overhead",
        {"competitor": "*(*)", "batch_size": "8"},
        "ratio_to_lightly",
        0.5,
    ),
    Target(
        "gradient in float32 against float64, worst of samplers, backends and τ ≥ 0.02",
        "gradient_accuracy",
        {"backend": "?*"},
        "relative_error",
        3e-6,
        at_most=True,
        unit="",
    ),
)
