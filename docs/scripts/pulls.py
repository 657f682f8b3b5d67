"""The pictures of the objectives: how hard a negative is pushed away, by its similarity.

    python docs/scripts/pulls.py            writes docs/figures/objectives/*.svg

One anchor has a positive at similarity 0.9 and 33 negatives from -1 to 0.98. The push on a negative
is the derivative of the real loss with respect to its similarity, by autograd, at τ = 0.3.
"""

from __future__ import annotations

from pathlib import Path

import torch
from gallery import save
from torch import Tensor

from negplug import ContrastiveBatch, ContrastiveLoss

FIGURES = Path(__file__).parents[1] / "figures" / "objectives"

TEMPERATURE = 0.3
SIMILARITIES = torch.linspace(-1.0, 0.98, 33)
POSITIVE = 0.9

# Objective: a curve each, by what it is called in the picture.
DRAWN = {
    "infonce": {"infonce()": "infonce()"},
    "decoupled": {"decoupled()": "decoupled()", "infonce()": "infonce()"},
    "debiased": {
        "debiased(tau_plus=0.1)": "debiased(tau_plus=0.1)",
        "debiased(tau_plus=0.1, beta=1.0)": "with beta=1.0 (HCL)",
        "infonce()": "infonce()",
    },
    "sigmoid": {
        "sigmoid(bias=-3.0)": "sigmoid(bias=-3.0)",
        "sigmoid(bias=-5.0)": "sigmoid(bias=-5.0)",
        "infonce()": "infonce()",
    },
    "ifm": {
        "ifm(epsilon=0.1)": "ifm(epsilon=0.1)",
        "ifm(epsilon=0.2)": "ifm(epsilon=0.2)",
        "infonce()": "infonce()",
    },
    "rince": {
        "rince(q=0.5)": "rince(q=0.5)",
        "rince(q=0.1)": "rince(q=0.1)",
        "infonce()": "infonce()",
    },
}


def rows(similarities: Tensor) -> Tensor:
    """Return points of the circle with these similarities to (1, 0), on both sides in turn."""
    sides = 1 - 2 * (torch.arange(len(similarities)) % 2)
    return torch.stack([similarities, sides * (1 - similarities**2).clamp(min=0).sqrt()], 1)


def pushes(loss_fn: ContrastiveLoss, similarities: Tensor) -> Tensor:
    """Return the derivative of the loss with respect to each negative's similarity."""
    anchor = rows(torch.ones(1))
    keys = rows(torch.cat([torch.tensor([POSITIVE]), similarities])).requires_grad_()
    own, ids = torch.zeros(1, dtype=torch.int64), torch.arange(len(keys))
    batch = ContrastiveBatch.from_ids(anchor, own, keys, ids, indexes=own)
    loss_fn.contrast(batch).backward()
    assert keys.grad is not None
    return (keys.grad @ anchor[0])[1:]


def draw(name: str, curves: dict[str, Tensor]) -> None:
    """Draw the curves of one picture, that of `infonce()` in grey; NaN is left out."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(4.2, 2.7))
    colours = iter(["#3f51b5", "#d81b60", "#00897b"])
    for label, values in curves.items():
        reference = label == "infonce()" and len(curves) > 1
        style = {"color": "#9e9e9e", "ls": "--"} if reference else {"color": next(colours)}
        shown = values.isfinite()
        axes.plot(SIMILARITIES[shown], values[shown], label=label, lw=1.8, **style)
    axes.set(xlabel="similarity of the negative", ylabel="push on it, ∂loss/∂similarity")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    save(figure, FIGURES / f"{name}.svg")


def of_sogclr() -> dict[str, Tensor]:
    """Return the pushes on the same negatives after easier batches, and after harder ones."""
    curves = {}
    for label, shift in {"after easier batches": -0.5, "after harder batches": 0.5}.items():
        loss_fn = ContrastiveLoss("in_batch()", "sogclr(gamma=0.5, size=1)", TEMPERATURE)
        for _ in range(8):
            pushes(loss_fn, (SIMILARITIES + shift).clamp(-1, 0.98))
        curves[label] = pushes(loss_fn, SIMILARITIES)
    return curves | {"infonce()": pushes(ContrastiveLoss(temperature=TEMPERATURE), SIMILARITIES)}


def of_isogclr() -> dict[str, Tensor]:
    """Return the pushes once the temperature has followed batches of two kinds."""
    curves = {}
    for kind, spread in {"some are near": 1.0, "all are alike": 0.2}.items():
        loss_fn = ContrastiveLoss("in_batch()", "isogclr(eta=0.02, size=1)", TEMPERATURE)
        for _ in range(24):
            pushes(loss_fn, SIMILARITIES * spread)
        loss_fn.end_step()
        tau = float(loss_fn.objective.averages.tau[0, 0])
        curves[f"τ = {tau:.2f}, where {kind}"] = pushes(loss_fn, SIMILARITIES)
    return curves


def of_relic() -> dict[str, Tensor]:
    """Return the pushes on negatives of either side: what the positive sees as the anchor does."""
    both = pushes(ContrastiveLoss("in_batch()", "relic(alpha=1.0)", TEMPERATURE), SIMILARITIES)
    far = torch.arange(len(both)) % 2 == 0  # row 0 is the positive, and sides alternate
    return {
        "relic(), on the positive's side": both.where(~far, torch.nan),
        "relic(), on the other side": both.where(far, torch.nan),
        "infonce()": pushes(ContrastiveLoss(temperature=TEMPERATURE), SIMILARITIES),
    }


if __name__ == "__main__":
    import matplotlib as mpl

    mpl.use("svg")
    for objective, named in DRAWN.items():
        losses = {
            label: ContrastiveLoss("in_batch()", expression, TEMPERATURE)
            for expression, label in named.items()
        }
        draw(objective, {label: pushes(loss, SIMILARITIES) for label, loss in losses.items()})
    draw("relic", of_relic())
    draw("sogclr", of_sogclr())
    draw("isogclr", of_isogclr())
