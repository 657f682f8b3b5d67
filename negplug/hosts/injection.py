"""``inject``: give the contrastive losses of a host's model a sampler of our choice."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from negplug.contract.adapter import LossSite, Metadata
from negplug.contract.dataset import Encoder
from negplug.contract.declarations import Declarations, as_declared, declared_name, declaring
from negplug.contract.labels import as_labels
from negplug.contract.objective import Objective
from negplug.contract.provenance import blaming
from negplug.contract.sampler import NegativeSampler
from negplug.hosts import environment
from negplug.hosts.columns import Columns
from negplug.hosts.lookout import Lookout
from negplug.hosts.plain_lookout import PlainLookout
from negplug.hosts.subsets import length
from negplug.hosts.treated_loss import TreatedLoss
from negplug.hosts.treatment import Samplers, Treatment
from negplug.hosts.untreated import names_of, scripted_in
from negplug.loss.uninterrupted import uninterrupted
from negplug.plugins.manager import plugins


class NoLossFoundError(ValueError):
    """A model holds no contrastive loss that an adapter knows, or none that ``target`` names."""


class Injection:
    """The handle of a treated model.

    Attributes:
        losses: The treated losses by the name of their site. They are no part of the model, so
            that its ``state_dict`` keeps the host's keys.
        sites: Where in the host they sit.
        lookout: Insists that the model's first steps call no other contrastive loss; None if
            they may.
    """

    def __init__(self, sites: list[LossSite], losses: list[TreatedLoss]) -> None:
        self.losses = {site.name: loss for site, loss in zip(sites, losses, strict=True)}
        for name, loss in self.losses.items():
            loss.loss.ranks.beside, loss.loss.ranks.name = ", ".join(self.losses), name
        self.sites = sites
        self.lookout: Lookout | None = None
        self._columns = Columns()
        self._treated: list[LossSite] = []
        self._afterwards: list[Callable[[], None]] = []
        try:
            for site, loss in zip(sites, losses, strict=True):
                site.treat(loss)
                self._treated.append(site)
        except Exception:
            self.remove()
            raise

    def remove(self) -> None:
        """Restore the host's own losses. The samplers' state stays readable."""
        while self._treated:
            self._treated.pop().restore()
        if self.lookout is not None:
            self.lookout.stop()
        while self._afterwards:
            self._afterwards.pop()()

    def afterwards(self, undo: Callable[[], None]) -> None:
        """Have :meth:`remove` call ``undo`` once the losses are restored."""
        self._afterwards.append(undo)

    def look_again(self) -> None:
        """Look out in the next step again, if there is a :attr:`lookout`."""
        if self.lookout is not None:
            self.lookout.start(1)

    def provide(
        self,
        indexes: Tensor | None = None,
        labels: Tensor | None = None,
        unindexed: str = "",
        encode: Encoder | None = None,
        dataset: Any = None,
    ) -> None:
        """Say what is known of the samples of the next step. It is forgotten after that step.

        Args:
            indexes: ``[B]`` data set indexes, in the order of the batch.
            labels: ``[B]``, or any other form of :func:`negplug.contract.labels.as_labels`.
            unindexed: Why there are no indexes, for messages.
            encode: Maps data set indexes ``[n]`` to V views ``[n, d]`` of those samples, embedded
                with the current parameters. It is kept until another one is given.
            dataset: The data set that the indexes count. Samplers look up its columns by name. It
                is kept until another one is given; its columns are read anew if it is given again.

        Raises:
            ValueError, TypeError: If ``labels`` are none; says what was found.
        """
        labels = None if labels is None else as_labels("labels", labels)
        if dataset is not None:
            self._columns.read_again()
        for treated in self.losses.values():
            if encode is not None:
                treated.dataset = replace(treated.dataset, encode=encode)
            if dataset is not None:
                column = functools.partial(self._columns.of, dataset)
                size = length(dataset)
                treated.dataset = replace(treated.dataset, size=size, column=column)
            said = Metadata(indexes, labels, unindexed)
            own, known = indexes is not None, labels is not None
            said = replace(said, handed_over=own, labels_handed_over=known)
            treated.provide(said, until_backward=own or known)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the steps to come are of, for samplers that switch by it.

        Args:
            epoch: Its number, from 0.

        Raises:
            TypeError, ValueError: If it is no integer from 0 on.
        """
        for treated in self.losses.values():
            treated.loss.set_epoch(epoch)

    def begin_step(self) -> None:
        """Begin a training step that lasts until :meth:`end_step`, however many backward passes."""
        for treated in self.losses.values():
            treated.loss.begin_step()

    def end_step(self, told: bool = True) -> None:
        """End a training step: samplers take in the keys that a backward pass has reached.

        Args:
            told: Whether the step counts for certain. Otherwise it does not if its gradients turn
                out to be those of a skipped step.

        Raises:
            UntreatedLossError: If it called a contrastive loss that :attr:`lookout` found.
        """
        if self.lookout is not None:
            self.lookout.end_step()
        with uninterrupted(len(self.losses) > 1):  # the step ends for all or none
            for treated in self.losses.values():
                treated.loss.end_step(told)
                treated.forget()

    def samplers(self) -> Iterator[NegativeSampler]:
        """Yield every sampler of every loss."""
        for treated in self.losses.values():
            yield from treated.loss.sampler.all_samplers()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all samplers, by site; of this rank, if ranks differ."""
        return {name: treated.loss.state_dict() for name, treated in self.losses.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            ValueError: If the sites or the samplers' settings differ; nothing is loaded then.
        """
        if not isinstance(state, dict) or set(state) != set(self.losses):
            found = list(state) if isinstance(state, dict) else type(state).__name__
            raise ValueError(
                f"the saved negative state is of {found}, but this model has the treated "
                f"losses {sorted(self.losses)}"
            )
        before = self.state_dict()
        try:
            for name, treated in self.losses.items():
                treated.loss.load_state_dict(state[name])
        except BaseException:
            for name, treated in self.losses.items():
                treated.loss.load_state_dict(before[name])
            raise

    def __getstate__(self) -> dict[str, Any]:
        # A copy of the model is another training's.
        return vars(self) | {"lookout": None}

    def __enter__(self) -> Injection:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def inject(
    model: nn.Module,
    sampler: Samplers,
    objective: Objective | str | None = None,
    temperature: float | None = None,
    target: str | None = None,
    ignore: str | Collection[str] = (),
    treat: Declarations | None = None,
) -> Injection:
    """Give every contrastive loss of ``model`` the negatives of ``sampler``.

    What you do not give is inherited from the host: the form of the loss, the temperature (read at
    every call), and the way it forms the batch.

    Args:
        model: A module of a host that an adapter knows, or one that contains such losses.
        sampler: A sampler or an expression. Each loss gets a copy with state of its own. A mapping
            of such, by the names of losses, treats these.
        objective: Replaces the host's form of the loss.
        temperature: Replaces the host's temperature.
        target: Name of the one loss to treat.
        ignore: Contrastive losses that may stay untreated, by name or class.
        treat: Classes that no adapter knows, and the form of loss that each is:
            ``"pkg.module:MyNTXent=ntxent"``, or a mapping ``{MyNTXent: "ntxent"}``.

    Returns:
        The handle; ``remove()`` restores the model, and so does leaving it as a context.

    Raises:
        NoLossFoundError: If no known loss is found.
        ValueError, TypeError: If an argument or loss cannot be used, or NEGPLUG_SAMPLER is set.
        UntreatedLossError: In one of the first steps, if what trains the same parameters as a
            treated loss is a contrastive loss that is not treated; not with a ``target``.

    Example:
        >>> handle = negplug.inject(model, "uniform(num_negatives=10)")
        >>> handle.remove()
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"inject: model must be a torch.nn.Module, got {type(model).__name__}")
    environment.insist_on_none()
    treatment = Treatment.of(sampler, objective, temperature)
    ignore = frozenset([ignore] if isinstance(ignore, str) else ignore)
    injection = inject_where(model, treatment, target, ignore, as_declared(treat))
    if treatment.targets(target) is None:
        injection.lookout = PlainLookout(model, injection.losses, ignore)
    return injection


def inject_where(
    model: nn.Module,
    treatment: Treatment,
    target: str | None = None,
    ignore: Collection[str] = (),
    declared: Mapping[str, str] | None = None,
) -> Injection:
    """Treat every contrastive loss of ``model`` but those in ``ignore``, or only ``target``.

    Args:
        model: The model.
        treatment: What each loss gets.
        target: Name of the one loss to treat.
        ignore: Losses to leave alone, by name or class.
        declared: Forms of classes that no adapter knows, by the full name of the class.

    Raises:
        NoLossFoundError: If no known loss is found, or none of a declared class.
        ValueError: If a loss cannot be treated.
    """
    if declared:
        here = {declared_name(module, declared) for module in model.modules()}
        if missing := sorted(declared.keys() - here):
            raise NoLossFoundError(
                f"treat names {missing[0]}, but {type(model).__name__} has no module of that class"
            )
        with declaring(declared):
            return inject_where(model, treatment, target, ignore)
    names = treatment.targets(target)
    if clash := sorted(set(names or ()) & set(ignore)):
        raise NoLossFoundError(f"ignore names {clash[0]!r}, which is to be treated; leave it out")
    sites = [site for site in _find(model, names) if names_of(site, model).isdisjoint(ignore)]
    if not sites:
        raise NoLossFoundError(f"ignore={sorted(ignore)} leaves no loss of this model to treat")
    return Injection(sites, [treatment.at(site) for site in sites])


def _find(model: nn.Module, names: tuple[str, ...] | None) -> list[LossSite]:
    adapters = plugins().provided("adapter")
    sites: list[LossSite] = []
    for adapter in adapters:
        with blaming(adapter.plugin, "sites()"):
            sites += adapter.spec.sites(model)
    if not sites:
        known = ", ".join(adapter.spec.name for adapter in adapters) or "none installed"
        raise NoLossFoundError(
            f"no known contrastive loss found in {type(model).__name__}{scripted_in(model)}; one "
            f"in a list, a dict or a closure is not seen, so make it an attribute of the model; "
            f"adapters: {known} (`negplug doctor` lists what each can treat)"
        )
    if names is None:
        return sites
    there = [site.name for site in sites]
    for name in names:
        if name not in there:
            known = ", ".join(map(repr, there))
            missing = f"target={name!r} names no loss of this model"
            raise NoLossFoundError(f"{missing}; there are {known}")
    return [site for site in sites if site.name in names]
