"""Signal-to-noise ratio of gradients, from exponentially weighted moments.

For each single parameter, SNR = |E g| / √Var g over the recent steps; its mean and standard
deviation over all parameters tell how noisy a recipe's gradients are (Mitrovic, McWilliams and
Rey 2020, "Less can be more in contrastive learning", PMLR 137).

A step that lies k steps back has the weight β^k. With W the sum of weights, m the weighted mean
and S the weighted sum of squared deviations, a step of gradient g gives (West 1979, "Updating
mean and variance estimates: an improved method", CACM 22(9), with weights that decay)

    W' = β W + 1,   m' = m + (g − m)/W',   S' = β S + (g − m)(g − m')

and Var g = S/W, the variance of the weighted sample itself (divided by the sum of weights, no
Bessel correction). No difference of large numbers appears, as in E g² − (E g)².

Pure noise has a ratio too: about √(2/(π n)) over n equal steps, n = (1 + β)/(1 − β) of them in the
long run. Values near it say nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from negplug.kernels.torch_private import foreach

_CHUNK = 1 << 22
"""Numbers that are updated at a time: temporaries take this much, or the largest parameter."""


class SNR(NamedTuple):
    """Mean and standard deviation, over parameters, of each one's signal-to-noise ratio."""

    mean: float
    std: float


class GradientMoments:
    """Exponentially weighted mean and variance of every parameter's gradient.

    Keeps two float32 numbers per parameter, on its device.

    Args:
        decay: β, 0 < β ≤ 1; the moments are over about 1/(1 − β) steps, over all of them if 1.

    Raises:
        ValueError: If ``decay`` is out of range.

    Example:
        >>> moments = GradientMoments()
        >>> loss.backward()
        >>> moments.update(model.named_parameters())  # then optimizer.step()
        >>> moments.snr()
    """

    def __init__(self, decay: float = 0.99) -> None:
        if not 0 < decay <= 1:
            raise ValueError(f"decay must be above 0 and at most 1, got {decay}")
        self.decay = float(decay)
        self._means: dict[str, Tensor] = {}
        self._squares: dict[str, Tensor] = {}
        self._weights: dict[str, float] = {}

    @torch.no_grad()
    def update(self, parameters: Iterable[tuple[str, nn.Parameter]], scale: float = 1.0) -> None:
        """Take in the gradients of an optimizer step, as they are just before it.

        Args:
            parameters: Names and parameters. One without gradient is frozen, and left out.
            scale: What the gradients were multiplied with, where a ``GradScaler`` has not undone
                it yet.

        Raises:
            ValueError: If a parameter has another shape than under this name before.
        """
        for named in _chunks(parameters):
            names = [name for name, _ in named]
            for name, parameter in named:
                self._make_room(name, parameter)
            gradients = [p.grad.float() for _, p in named if p.grad is not None]
            if scale != 1.0:
                gradients = list(foreach("div")(gradients, scale))
            self._add(names, gradients)

    @torch.no_grad()
    def snr(self) -> SNR | None:
        """Return |mean|/std over the parameters whose gradient varies; None if none does.

        Parameters of zero variance, such as those of a dead unit, have no ratio and are left out.
        """
        each = [spread for spread in map(self._spread, self._weights) if spread[0]]
        if not each:
            return None
        total = sum(n for n, _, _ in each)
        mean = sum(n * m for n, m, _ in each) / total
        squares = sum(s + n * (m - mean) ** 2 for n, m, s in each)
        return SNR(mean, math.sqrt(squares / total))

    def state_dict(self) -> dict[str, Any]:
        """Return the moments, as references: tensors and built-in types only."""
        return {
            "decay": self.decay,
            "means": dict(self._means),
            "squares": dict(self._squares),
            "weights": dict(self._weights),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned.

        Raises:
            ValueError: If it was written with another decay.
        """
        if state["decay"] != self.decay:
            raise ValueError(
                f"the moments were saved with decay={state['decay']}, these have "
                f"decay={self.decay}; continue with the same"
            )
        # Copies: the moments are written in place.
        self._means = {name: mean.clone() for name, mean in state["means"].items()}
        self._squares = {name: square.clone() for name, square in state["squares"].items()}
        self._weights = dict(state["weights"])

    def _make_room(self, name: str, parameter: nn.Parameter) -> None:
        if name not in self._weights:
            self._means[name] = torch.zeros_like(parameter, dtype=torch.float32)
            self._squares[name] = torch.zeros_like(parameter, dtype=torch.float32)
            self._weights[name] = 0.0
        known = self._means[name]
        if known.shape != parameter.shape:
            raise ValueError(
                f"the parameter {name!r} has the shape {list(parameter.shape)}, its moments "
                f"{list(known.shape)}; use new moments for another model"
            )
        if known.device != parameter.device:  # a checkpoint is loaded on the CPU
            self._means[name] = known.to(parameter.device)
            self._squares[name] = self._squares[name].to(parameter.device)

    def _add(self, names: list[str], gradients: list[Tensor]) -> None:
        means = [self._means[name] for name in names]
        squares = [self._squares[name] for name in names]
        weights = [self.decay * self._weights[name] + 1.0 for name in names]
        apart = list(foreach("sub")(gradients, means))
        foreach("mul_")(squares, self.decay)
        # g − m' = (1 − 1/W')(g − m)
        foreach("addcmul_")(squares, apart, apart, [1.0 - 1.0 / w for w in weights])
        foreach("div_")(apart, weights)
        foreach("add_")(means, apart)
        self._weights.update(zip(names, weights, strict=True))

    def _spread(self, name: str) -> tuple[int, float, float]:
        """Return number, mean and sum of squared deviations of one parameter's ratios."""
        squares = self._squares[name]
        constant = squares == 0  # NaN is not: a diverged run's ratio is NaN
        number = squares.numel() - int(constant.sum())
        if number == 0:
            return 0, 0.0, 0.0
        ratios = squares.rsqrt().mul_(self._means[name]).abs_().masked_fill_(constant, 0.0)
        mean = ratios.sum() / number
        apart = ratios.sub_(mean).masked_fill_(constant, 0.0).square_().sum()
        # |m| / √(S/W)
        weight = self._weights[name]
        return number, float(mean) * math.sqrt(weight), float(apart) * weight


def all_finite(parameters: Iterable[tuple[str, nn.Parameter]]) -> bool:
    """Return whether no gradient holds inf or NaN, for which a ``GradScaler`` skips the step."""
    gradients = [p.grad for _, p in parameters if p.grad is not None]
    if not gradients:
        return True
    norms = foreach("norm")(gradients, math.inf)
    return bool(torch.stack([norm.to(norms[0].device) for norm in norms]).isfinite().all())


def _chunks(
    parameters: Iterable[tuple[str, nn.Parameter]],
) -> Iterator[list[tuple[str, nn.Parameter]]]:
    """Yield the parameters that have a gradient, so many at a time."""
    chunk: list[tuple[str, nn.Parameter]] = []
    size = 0
    for name, parameter in parameters:
        if parameter.grad is None:
            continue
        if chunk and size + parameter.numel() > _CHUNK:
            yield chunk
            chunk, size = [], 0
        chunk.append((name, parameter))
        size += parameter.numel()
    if chunk:
        yield chunk
