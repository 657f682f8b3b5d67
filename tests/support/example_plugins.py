"""What the distributions of ``tests/plugins_examples`` hold, and their faults."""

from __future__ import annotations

import subprocess

from negplug.composers import plugins as composers
from negplug.objectives import plugins as objectives
from negplug.samplers import plugins as samplers

BROKEN = "(distribution negplug-broken 0.0.1)"
# Plugin → the stage at which it is left out, and why.
FAULTS = {
    "missing": ("import", "ModuleNotFoundError: No module named 'negplug_broken.there_is_no_"),
    "raises-at-import": ("import", "RuntimeError: the kernels were built for another torch"),
    "exits-at-import": ("import", "SystemExit: usage: exits_at_import FILE"),
    "exits-in-hook": ("registration", "SystemExit: no licence found"),
    "raises-in-hook": ("registration", "LookupError: no table of samplers"),
    "no-record": ("registration", "negplug_samplers must return SamplerSpec records, got 'stumb"),
    "returns-none": ("registration", "negplug_samplers must return an iterable of SamplerSpec, g"),
    "bad-factory": ("registration", "TypeError: 'Unbuildable' is not a callable object"),
    "unknown-hook": ("registration", "TypeError: implements unknown hook negplug_sampler; the h"),
    "panics": ("import", "Panic: the extension gave up"),
    "speechless": ("registration", "Speechless, whose message cannot be made (AttributeError)"),
    "endless": ("registration", "negplug_samplers goes on after 1000 records; it must come to "),
    "no-hook": ("registration", "TypeError: implements no hook; mark one of negplug_samplers, "),
    "needs-newer": ("registration", "RuntimeError: needs hook specification 1.99, and negplug "),
    "needs-older": ("registration", "RuntimeError: needs hook specification 0.3, and negplug "),
    "needs-nonsense": ("registration", "TypeError: REQUIRES_HOOKSPEC must be two integers, such"),
}
# Registered without complaint; their faults show later, or not at all.
LOADED = {"taken-name", "stumbles", "no-sampler"}
BUILT_IN = {module.__name__.rpartition(".")[2] for module in (*samplers, *objectives, *composers)}
HOSTS = {"pytorch-metric-learning", "sentence-transformers", "stable-pretraining"}
OWN = {*BUILT_IN, "lightly", "solo-learn", *HOSTS}


def succeeded(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert done.returncode == 0, done.stderr
    return done
