"""Everything that is run on this repository, each in an environment of its own.

nox                 lint and all tests, in both host environments
nox -s quickstart   the main job: sweep a recipe, baseline against a few samplers
nox -s speed        every question of cost, beside both hosts (an idle machine, please)
nox -s upstream     the hosts' own scripts and tests, from checkouts (see CONTRIBUTING.md)
"""

import os

import nox

nox.options.default_venv_backend = "uv"
nox.options.sessions = ["lint", "tests_lightly", "tests_solo"]

SOLO = ("solo-learn==1.0.2", "setuptools<81", "--override", "requirements/solo-1.0.2.txt")
# What solo-learn main's requirements name, but for a Lightning that is older than today's torch.
SOLO_MAIN = (
    *("lightning>=2.5", "torchmetrics<0.12", "torchvision", "timm", "einops", "hydra-core"),
    *("wandb", "tqdm", "scipy", "setuptools<81"),
)

# Tests and sweeps start many processes, and each imports torch: let them find bytecode.
ENVIRONMENT = {"PYTHONDONTWRITEBYTECODE": ""}


@nox.session
def lint(session: nox.Session) -> None:
    """Format, lint and types."""
    session.install(".[dev,lightly,sweep]", "nox")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy", env={"MYPYPATH": "integrations"})


@nox.session
def tests_lightly(session: nox.Session) -> None:
    """All tests with Lightly and today's Lightning."""
    session.install(".[dev,fast,lightly,sweep]", "lightning", "scikit-learn")
    session.run("pytest", *session.posargs, env=ENVIRONMENT)


@nox.session(python="3.11")
def tests_solo(session: nox.Session) -> None:
    """All tests but the command line's with the published solo-learn 1.0.2, without numba."""
    session.install(".[dev]", "scikit-learn", *SOLO)
    session.run("pytest", "--ignore=tests/cli", *session.posargs, env=ENVIRONMENT)


@nox.session(python="3.11")
@nox.parametrize("host", ["lightly", "solo"], ids=["lightly", "solo"])
def upstream(session: nox.Session, host: str) -> None:
    """A host's own scripts and tests, from the checkout NEGPLUG_LIGHTLY_SOURCE or _SOLO_SOURCE."""
    variable = f"NEGPLUG_{host.upper()}_SOURCE"
    source = os.environ.get(variable)
    if not source:
        session.skip(f"set {variable} to a checkout of the host")
    source = os.path.abspath(source)
    # Lightly as its scripts expect it, and what its benchmarks log with; solo-learn as its users
    # have it: on the path.
    needed = SOLO_MAIN if host == "solo" else (source, "tensorboard", "psutil", "pytest-mock")
    environment = {**ENVIRONMENT, variable: source}
    if host == "solo":
        environment["PYTHONPATH"] = source
    session.install(".[dev]", "scikit-learn", *needed)
    tests = ("tests/upstream", "tests/house/test_methods_table.py")
    session.run("pytest", *tests, *session.posargs, env=environment)


@nox.session
def quickstart(session: nox.Session) -> None:
    """Sweep the Lightly recipe on the embedded data; table, plot and report in sweep/."""
    session.install(".[lightly,sweep]", "scikit-learn")
    samplers = ("baseline", "uniform(num_negatives=1)", "uniform(num_negatives=16)", "in_batch()")
    chosen = [part for sampler in samplers for part in ("--sampler", sampler)]
    script = "benchmarks/recipes/lightly_simclr.py"
    command = ("negplug", "sweep", script, *chosen, "--seeds", "2", "--out", "sweep")
    recipe = ("--epochs", "4", "--seed", "{seed}", *session.posargs)
    session.run(*command, "--", *recipe, env=ENVIRONMENT)


@nox.session(python="3.11")
def speed(session: nox.Session) -> None:
    """Time, memory and accuracy beside both hosts' own; tables in benchmarks/results/speed.md."""
    session.install(".[fast,sweep]", "scikit-learn", "lightly>=1.6", *SOLO)
    session.run("python", "benchmarks/speed/all.py", *session.posargs, env=ENVIRONMENT)
