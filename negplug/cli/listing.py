"""``negplug samplers``, ``plugins`` and ``doctor``: what is there, and what works here."""

from __future__ import annotations

import inspect
import json
import platform
import sys
import warnings
from contextlib import redirect_stdout
from importlib.metadata import version
from importlib.util import find_spec
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape

from negplug.cli.health import problems
from negplug.cli.terminal import console, plain, shortened, table
from negplug.cli.treatment import fail
from negplug.contract.provenance import described, installed_version

if TYPE_CHECKING:
    from negplug.kernels.choice import Operation
    from negplug.plugins.manager import Plugins

_JSON = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

_KINDS: tuple[Literal["sampler", "objective", "composer"], ...] = (
    "sampler",
    "objective",
    "composer",
)

# Of an adapter; one may go on and on.
_MOST_METHODS = 1_000

# Of a sentence on what is wrong, in characters.
_LONGEST_PROBLEM = 1_000

# Distribution: what it is imported as.
_PACKAGES = {
    "torch": "torch",
    "lightning": "lightning",
    "pytorch-lightning": "pytorch_lightning",
    "lightly": "lightly",
    "solo-learn": "solo",
    "pytorch-metric-learning": "pytorch_metric_learning",
    "sentence-transformers": "sentence_transformers",
    "stable-pretraining": "stable_pretraining",
    "lightly-train": "lightly_train",
    "torchgeo": "torchgeo",
    "optuna": "optuna",
    "numba": "numba",
}


def samplers(as_json: _JSON = False) -> None:
    """List the samplers, objectives and composers that expressions can name, and providers."""
    found = _plugins()
    rows = [
        {
            "kind": kind,
            "name": entry.spec.name,
            "arguments": _arguments(entry.spec.factory),
            "summary": entry.spec.summary,
            "paper": entry.spec.paper,
            "provider": f"{entry.plugin.distribution} {entry.plugin.version}",
        }
        for kind in _KINDS
        for entry in found.provided(kind)
    ]
    if as_json:
        _print_json(rows)
        return
    printed = table("kind", "expression", "negatives, loss or batches", "source", "provider")
    for row in rows:
        expression = f"{row['name']}({row['arguments']})"
        cells = (row["kind"], expression, row["summary"], row["paper"], row["provider"])
        printed.add_row(*map(_cell, cells))
    console().print(printed)


def plugins(as_json: _JSON = False) -> None:
    """List every plugin with its distribution, version, status and hooks."""
    found = _plugins()
    rows = [
        {
            "name": info.name,
            "distribution": info.distribution,
            "version": info.version,
            "status": info.status,
            "hooks": list(info.hooks),
        }
        for info in found.plugins
    ]
    if as_json:
        _print_json(
            {
                "hook_specification": _hook_specification(),
                "plugins": rows,
                "failures": [failure.as_dict() for failure in found.failures],
            }
        )
        return
    title = f"hook specification {_hook_specification()}"
    printed = table("plugin", "distribution", "version", "status", "hooks", title=title)
    for info in found.plugins:
        hooks = ", ".join(info.hooks)
        cells = (info.name, info.distribution, info.version, info.status, hooks)
        printed.add_row(*map(_cell, cells))
    console().print(printed)
    _print_failures(found)


def doctor(as_json: _JSON = False) -> None:
    """Report what is wrong, if anything; then versions, device, and what can be treated."""
    found = _plugins()
    kernels = _kernels()
    hosts = {entry.spec.name: _methods(entry.spec) for entry in found.provided("adapter")}
    report: dict[str, Any] = {
        "negplug": version("negplug"),
        "hook_specification": _hook_specification(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "device": _device(),
        "kernels": {name: backend or why for name, (backend, why) in kernels.items()},
        "hosts": hosts,
        "problems": list(problems(found, hosts, {name: why for name, (_, why) in kernels.items()})),
        "failures": [failure.as_dict() for failure in found.failures],
    }
    if as_json:
        _print_json(report)
        return
    printing = console()
    for line in _first_lines(report):
        printing.print(escape(plain(line)), soft_wrap=True)
    printed = table("what", "version", title="environment")
    printed.add_row("negplug", report["negplug"])
    printed.add_row("hook specification", report["hook_specification"])
    printed.add_row("python", report["python"])
    printed.add_row("platform", report["platform"])
    for name, found_version in report["packages"].items():
        printed.add_row(name, _cell(found_version or "not installed"))
    printed.add_row("device", report["device"])
    for operation, backend in report["kernels"].items():
        printed.add_row(operation, escape(backend))
    printing.print(printed)
    for host, methods in report["hosts"].items():
        if methods.get("methods"):
            printed = table("method", "treatable", "note", title=_cell(host))
            for method in methods["methods"]:
                yes = "[green]yes[/]" if method["treatable"] else "no"
                printed.add_row(_cell(method["method"]), yes, _cell(method["note"]))
            printing.print(printed)


def _first_lines(report: dict[str, Any]) -> list[str]:
    """Return what is wrong, or that nothing is, and what can be treated."""
    wrong = [f"- {shortened(sentence, _LONGEST_PROBLEM)}" for sentence in report["problems"]]
    verdict = f"{len(wrong)} to mend:" if wrong else "Nothing is wrong."
    ready = [host for host, methods in report["hosts"].items() if methods.get("methods")]
    absent = [host for host, methods in report["hosts"].items() if methods == {"methods": []}]
    hosts = f"Hosts that can be treated here: {', '.join(ready) or 'none'}"
    return [verdict, *wrong, f"{hosts}; not installed: {', '.join(absent)}." if absent else hosts]


def _hook_specification() -> str:
    from negplug.contract.hookspecs import HOOKSPEC_VERSION
    from negplug.plugins.requirement import written

    return written(HOOKSPEC_VERSION)


def _version(name: str) -> str | None:
    """Return a distribution's version; a checkout on the path has none."""
    unversioned = "from source" if find_spec(_PACKAGES[name]) else None
    return installed_version(name) or unversioned


def _plugins() -> Plugins:
    # What a plugin prints at its import is no part of a listing, which may be JSON.
    with warnings.catch_warnings(), redirect_stdout(sys.stderr):
        # Failures are part of what is listed; no need to warn as well.
        warnings.simplefilter("ignore")
        from negplug.plugins.manager import plugins as load

        try:
            return load()
        except ValueError as error:  # a variable of the environment that cannot be read
            fail(f"{error}.")


def _arguments(factory: Any) -> str:
    parts = []
    for name, parameter in inspect.signature(factory).parameters.items():
        if parameter.default is parameter.empty:
            parts.append(f"{name}=…")
        elif parameter.default is None:
            parts.append(name)
        else:
            parts.append(f"{name}={shortened(repr(parameter.default))}")
    return ", ".join(parts)


def _methods(adapter: Any) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reports = islice(adapter.methods(), _MOST_METHODS)
            methods = [_method(report) for report in reports]
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return {"error": described(error)}
    return {"methods": methods}


def _method(report: Any) -> dict[str, Any]:
    return {
        "method": str(report.method),
        "treatable": bool(report.treatable),
        "note": str(report.note),
        "contrastive": bool(report.contrastive),
    }


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"cuda ({torch.cuda.get_device_name()})"
    return f"cpu ({torch.get_num_threads()} threads)"


def _kernels() -> dict[str, tuple[str, str | None]]:
    """Return the backend that computes each operation here, and why none does."""
    import torch

    from negplug.kernels.chain import CHAINS
    from negplug.kernels.chosen import CHOSEN
    from negplug.kernels.pool import POOL

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    operations: tuple[Operation[Any], ...] = (CHOSEN, POOL, CHAINS)
    found: dict[str, tuple[str, str | None]] = {}
    for operation in operations:
        try:
            found[operation.name] = str(operation.backend(device, operation.typical)), None
        except ValueError as error:
            found[operation.name] = "", str(error)
    return found


def _cell(text: str) -> str:
    """Return a plugin's text for a table: without codes, and without markup of its own."""
    return escape(plain(shortened(text)))


def _print_failures(found: Plugins) -> None:
    for failure in found.failures:
        Console(stderr=True).print(f"[red]faulty[/] {escape(plain(str(failure)))}", soft_wrap=True)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))
