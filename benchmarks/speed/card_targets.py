"""What has to hold on an H100 or H200, forward and backward at d = 128."""

from __future__ import annotations

from devices import AUTOCAST, FLOAT32
from losses import OURS
from overhead import IMAGES
from queue_loss import TREATED
from targets import Target


def _at_most(
    claim: str,
    question: str,
    bound: float,
    column: str = "median_ms",
    unit: str = " ms",
    **where: str,
) -> Target:
    """Return a target whose rows are those of any precision, unless ``dtype`` names one."""
    return Target(claim, question, where, column, bound, at_most=True, unit=unit)


def _in_batch(claim: str, bound: float, size: int, precision: str) -> Target:
    picked = {"competitor": OURS, "batch_size": str(size), "dtype": precision}
    return _at_most(f"`in_batch()`, B = {size:,}, {claim}", "in_batch_loss", bound, **picked)


_LARGE = {"competitor": OURS, "batch_size": "16384"}
_UNIFORM = {100: 2.5, 10: 0.8}
_ADDED = {
    **dict.fromkeys(("in_batch()", "uniform(*", "queue(*"), 1.0),
    **dict.fromkeys(("memory_bank(*", "hard(*", "emc2(*", "isir(*"), 3.0),
}

CARD_TARGETS: tuple[Target, ...] = (
    *(_in_batch("in either precision", 0.6, size, "*") for size in (256, 1024)),
    *(
        Target(
            f"plain cross-entropy by `in_batch()`, B = {size:,}",
            "in_batch_loss",
            {"competitor": OURS, "batch_size": str(size)},
            "ratio_to_plain",
            1.0,
        )
        for size in (256, 1024)
    ),
    _in_batch("autocast", 1.8, 16_384, AUTOCAST),
    _in_batch("float32", 8.0, 16_384, FLOAT32),
    Target(
        "Lightly by `in_batch()`, B = 16,384, autocast",
        "in_batch_loss",
        _LARGE | {"dtype": AUTOCAST},
        "ratio_to_lightly",
        100.0,
    ),
    _at_most(
        "its peak memory", "in_batch_loss", 64.0, "peak_extra_mib", " MiB", **_LARGE, dtype="*"
    ),
    _at_most(
        "Lightly's MoCo loss treated with `queue()`, K = 65,536, B = 256",
        "queue_loss",
        0.5,
        competitor=TREATED,
        batch_size="256",
    ),
    *(
        _at_most(
            f"`uniform({number})`, B = 32,768, in either precision",
            "growth",
            bound,
            competitor=f"uniform(num_negatives={number})",
            batch_size="32768",
        )
        for number, bound in _UNIFORM.items()
    ),
    _at_most(
        "`hard(100)`, B = 4,096, in either precision",
        "in_batch_loss",
        2.0,
        competitor="hard(num_negatives=100)",
        batch_size="4096",
    ),
    *(
        _at_most(
            f"`{chain}()`, whole step, B = 256",
            "overhead",
            1.0,
            competitor=f"{chain}(size={IMAGES})",
            batch_size="256",
        )
        for chain in ("emc2", "isir")
    ),
    *(
        _at_most(
            f"added to a ResNet-18 step, B = 512, autocast: `{sampler.replace('(*', '()')}`",
            "resnet_step",
            bound,
            "added_percent",
            " %",
            competitor=sampler,
            batch_size="512",
        )
        for sampler, bound in _ADDED.items()
    ),
    _at_most(
        "host waits of a steady step, worst of samplers",
        "overhead",
        0.0,
        "host_waits",
        "",
        competitor="*(*)",
    ),
    *(
        _at_most(
            f"gradient against float64, worst of samplers, backends and τ ≥ 0.02, {precision}",
            "gradient_accuracy",
            bound,
            "relative_error",
            "",
            backend="?*",
            dtype=precision,
        )
        for precision, bound in ((FLOAT32, 3e-6), (AUTOCAST, 2e-4))
    ),
)
