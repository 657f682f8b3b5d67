"""Run a host's own test files, unmodified, in a process of their own.

This module is also the pytest plugin that reports from there: the outcome of every test, and how
often it called a treated loss. A run that passes proves nothing where none was called.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

REPORT_VARIABLE = "NEGPLUG_SUITE_REPORT"
SUPPORT = Path(__file__).parent


class Report(NamedTuple):
    """What a run found, each by the test's ``file.py::name``.

    Attributes:
        outcomes: "passed", "skipped" or "failed: …" with the error.
        calls: How often the test called a treated loss.
        output: The end of what pytest printed.
    """

    outcomes: dict[str, str]
    calls: dict[str, int]
    output: str


def run(files, scratch, *plugins, **variables):
    """Run the test files, and the package beside them if they come with one.

    Args:
        files: Of one checkout or one installation: ``…/tests/…/test_x.py``.
        scratch: A directory of this run's own.
        plugins: Names of further pytest plugins beside this module.
        variables: Set in the environment.
    """
    files = [file.resolve() for file in files]
    root = next(parent.parent for parent in files[0].parents if parent.name == "tests")
    report = scratch / "report.json"
    path = [SUPPORT, *([] if str(root) in sys.path else [root]), os.environ.get("PYTHONPATH")]
    environment = os.environ | variables | {REPORT_VARIABLE: str(report)}
    environment["PYTHONPATH"] = os.pathsep.join(str(entry) for entry in path if entry)
    # Neither the host's settings nor ours; --rootdir keeps the names of tests short.
    settings = ["-c", os.devnull, "--rootdir", str(root), "-p", "no:cacheprovider"]
    settings += [part for name in ("suite", *plugins) for part in ("-p", name)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *settings, *map(str, files)],
        cwd=scratch,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout[-6000:] + done.stderr[-2000:]
    assert report.exists(), output
    return Report(**json.loads(report.read_text()), output=output)


# ------------------------------------------------------------------ the plugin

_outcomes: dict[str, str] = {}
_calls: Counter[str] = Counter()
_current = ""


def pytest_configure(config):
    from negplug.hosts.treated_loss import TreatedLoss

    theirs = TreatedLoss.__call__

    def counted(self, *args, **kwargs):
        _calls[_current] += 1
        return theirs(self, *args, **kwargs)

    TreatedLoss.__call__ = counted


def pytest_runtest_logstart(nodeid, location):
    global _current
    _current = _short(nodeid)


def pytest_runtest_logreport(report):
    # A failing setup or teardown is a failure of the test.
    if report.when == "call" or not report.passed:
        _outcomes[_short(report.nodeid)] = _outcome(report)


def pytest_collectreport(report):
    if report.failed:
        _outcomes[_short(report.nodeid)] = _outcome(report)


def pytest_sessionfinish(session):
    found = {"outcomes": _outcomes, "calls": _calls}
    Path(os.environ[REPORT_VARIABLE]).write_text(json.dumps(found))


def _outcome(report):
    if not report.failed:
        return report.outcome
    crash = getattr(report.longrepr, "reprcrash", None)
    return f"failed: {report.longrepr if crash is None else crash.message}"


def _short(nodeid):
    return nodeid.rsplit("/", 1)[-1]
