"""From an expression to a sampler, an objective or a composer."""

from __future__ import annotations

import inspect
from typing import Any

from negplug.contract.composer import Composer
from negplug.contract.objective import Objective
from negplug.contract.provenance import PluginError, blaming, described
from negplug.contract.sampler import NegativeSampler
from negplug.plugins.expression import Argument, Call, parse, short
from negplug.plugins.manager import Provided, UnknownNameError, plugins
from negplug.plugins.records import Kind

_BUILDS: dict[str, type[NegativeSampler] | type[Objective] | type[Composer]] = {
    "sampler": NegativeSampler,
    "objective": Objective,
    "composer": Composer,
}


def make_sampler(expression: str) -> NegativeSampler:
    """Build the sampler that an expression describes.

    Args:
        expression: For example ``"uniform(num_negatives=64, source=in_batch())"``.

    Raises:
        ExpressionError: If the expression is malformed, names an unknown sampler or gives an
            argument that the sampler does not take. A subclass of ``ValueError``.
        ValueError, TypeError: If a sampler refuses a value.
        PluginError: If a third party's sampler fails otherwise.
    """
    sampler: NegativeSampler = _build("sampler", parse(expression))
    return sampler


def make_objective(expression: str) -> Objective:
    """Build the objective that an expression such as ``"infonce()"`` describes.

    Raises:
        ExpressionError, ValueError, TypeError: As :func:`make_sampler`.
    """
    objective: Objective = _build("objective", parse(expression))
    return objective


def make_composer(expression: str) -> Composer:
    """Build the composer of batches that an expression such as ``"clustered()"`` describes.

    Raises:
        ExpressionError, ValueError, TypeError: As :func:`make_sampler`.
    """
    composer: Composer = _build("composer", parse(expression))
    return composer


def as_sampler(sampler: NegativeSampler | str) -> NegativeSampler:
    """Return the sampler itself, or the one that an expression describes."""
    return sampler if isinstance(sampler, NegativeSampler) else make_sampler(sampler)


def as_objective(objective: Objective | str) -> Objective:
    """Return the objective itself, or the one that an expression describes."""
    return objective if isinstance(objective, Objective) else make_objective(objective)


def as_composer(composer: Composer | str) -> Composer:
    """Return the composer itself, or the one that an expression describes."""
    return composer if isinstance(composer, Composer) else make_composer(composer)


def _build(kind: Kind, call: Call) -> Any:
    try:
        provided = plugins().lookup(kind, call.name)
    except UnknownNameError as error:
        raise call.error(str(error)) from None
    _check_arguments(provided, call)
    positional, named = [], {}
    for argument in call.arguments:
        value = argument.value
        # Sources are samplers, whatever they are arguments of.
        value = _build("sampler", value) if isinstance(value, Call) else value
        if argument.name is None:
            positional.append(value)
        else:
            named[argument.name] = value
    built = _built(provided, positional, named)
    if not isinstance(built, _BUILDS[kind]):
        raise TypeError(
            f"{short(call.canonical)}: plugin {provided.plugin} gave {type(built).__name__}, not "
            f"{_BUILDS[kind].__name__}"
        )
    built.expression = call.canonical
    built.provider = provided.plugin
    return built


def _built(provided: Provided, positional: list[Any], named: dict[str, Any]) -> Any:
    """Call a factory; what is no refusal of a value is the plugin's fault."""
    try:
        return provided.spec.factory(*positional, **named)
    except (TypeError, ValueError, OSError, KeyboardInterrupt):
        raise
    except Exception:
        with blaming(provided.plugin, f"{provided.spec.name}()"):
            raise
    except BaseException as error:  # one that leaves would end a command as if all were well
        raise PluginError(
            f"plugin {provided.plugin} failed in {provided.spec.name}(): {described(error)}"
        ) from error


def _check_arguments(provided: Provided, call: Call) -> None:
    signature = inspect.signature(provided.spec.factory)
    parameters = list(signature.parameters.values())
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes = f"it takes {', '.join(names)}" if names else "it takes no arguments"
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for argument in call.arguments:
            if argument.name is not None and argument.name not in names:
                unknown = f"unknown argument {short(argument.name)!r}"
                raise call.error(f"{unknown} of {call.name}(); {takes}", argument.span)
    by_position = [a for a in call.arguments if a.name is None]
    by_name: dict[str, Argument] = {a.name: a for a in call.arguments if a.name is not None}
    try:
        signature.bind(*by_position, **by_name)
    except TypeError as error:
        raise call.error(f"{call.name}(): {error}; {takes}") from None
