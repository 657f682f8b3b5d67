"""``docs/methods.md``: each cell is tried on the installed host, and the page says what came out.

``NEGPLUG_WRITE_METHODS=1 pytest tests/house/test_methods_table.py`` writes the installed host's
part.
"""

from __future__ import annotations

import copy
import os
import re
from pathlib import Path

import hosts
import pytest
import torch

from negplug.plugins.manager import plugins

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"

# A row each: what is tried in turn, until one trains.
SAMPLERS = {
    "in_batch": ["in_batch()"],
    "gather": ["gather()"],
    "uniform": ["uniform(num_negatives=4)"],
    "queue": ["queue()", "queue(size=128)"],
    "memory_bank": ["memory_bank()"],
    "hierarchical": ["hierarchical(uniform(num_negatives=2), hard(num_negatives=2))"],
    "schedule": ["schedule(uniform(num_negatives=2), hard(num_negatives=2), from_steps=(0, 1))"],
    "stratified": [
        "stratified(num_negatives=4, same=0.25)",
        "stratified(num_negatives=4, same=0.0)",
        "stratified(num_negatives=4, source=queue())",
    ],
    "hard": ["hard(num_negatives=4)"],
    "filtered": [
        'filtered(by="labels")',
        'filtered(by="labels", source=queue())',
        "filtered(similarity=0.9999)",
    ],
    "false_negatives": [
        "false_negatives(top=2, threshold=0.9)",
        "false_negatives(action='eliminate', top=2, threshold=0.9)",
    ],
    "synthetic": ["synthetic(num_mixed=4, num_hardest=4)"],
    "gumbel_max": ["gumbel_max(num_negatives=4)"],
    "emc2": ["emc2(out_of_batch='recompute')", "emc2(out_of_batch='cached')"],
    "isir": ["isir(out_of_batch='recompute')", "isir(out_of_batch='cached')"],
}

# A row each, with all negatives of the batch.
OBJECTIVES = {
    "infonce": ["infonce()"],
    "decoupled": ["decoupled()"],
    "debiased": ["debiased(tau_plus=0.1, beta=0.5)"],
    "relic": ["relic()"],
    "sogclr": ["sogclr()"],
    "isogclr": ["isogclr()"],
    "sigmoid": ["sigmoid()"],
    "ifm": ["ifm()"],
    "rince": ["rince()"],
}

NO_NEGATIVES = "no negatives to choose"

pytestmark = pytest.mark.filterwarnings("ignore")


def adapter_of(name):
    (spec,) = (a.spec for a in plugins().provided("adapter") if a.spec.name == name)
    return spec


def installed():
    """Return the installed host's heading, its adapter's name and its methods' builders."""
    generation = hosts.solo_generation()
    if generation is None:
        import lightly_methods

        return "Lightly", "lightly", lightly_methods.METHODS
    names = ["SimCLR", "SupCon", "MoCoV2Plus", "MoCoV3", "NNCLR", "All4One", "ReSSL"]
    if generation != "main":
        names = ["SimCLR", "MoCoV2Plus", "NNCLR", "ReSSL"]
    queues = {name: {"queue_size": 24} for name in ("MoCoV2Plus", "NNCLR", "All4One", "ReSSL")}
    builders = {name: lambda n=name: hosts.solo_method(n, **queues.get(n, {})) for name in names}
    return f"solo-learn {generation}", "solo-learn", builders


def tried(model, sampler, objective=None):
    """Train two steps as a user would; return why that is refused, or None."""
    control = hosts.negative_control()(sampler, objective)
    trainer = hosts.trainer(callbacks=[control], max_steps=2, log_every_n_steps=1)
    try:
        trainer.fit(model, hosts.loader())
    except ValueError as error:
        # Of every version, and of every loss that has the same reason.
        return re.sub(r"(lightly|solo-learn) \S+( source\))? \w+", "this loss", str(error))
    assert trainer.global_step == 2
    assert hosts.parameters(model).isfinite().all()
    for treated in control.injection.losses.values():
        assert treated.calls >= 2
        assert treated.loss.observed["num_negatives"] > 0
    return None


class Notes:
    """What was refused, by why: a number each, in the order in which they came up."""

    def __init__(self):
        # (why, whether something else trains): what was refused, of which methods, what trains
        self.found = {}

    def number(self, method, refused, why, trains):
        why = why_in_general(why)
        known = self.found.setdefault((why, trains is not None), ({}, {}, {}))
        for names, name in zip(known, (refused, method, trains), strict=True):
            names[name] = None
        return 1 + list(self.found).index((why, trains is not None))

    def table(self):
        lines = ["| | refused | of | why | what trains |", "| --- | --- | --- | --- | --- |"]
        for number, ((why, _), known) in enumerate(self.found.items(), 1):
            refused, methods, trains = (list(filter(None, names)) for names in known)
            cells = (listed(refused), ", ".join(methods), f"“{why}”", listed(trains) or "–")
            lines.append(f"| {number} | {' | '.join(cells)} |")
        return lines


def listed(expressions):
    return ", ".join(f"`{expression}`" for expression in expressions)


def why_in_general(why):
    """Return a refusal's reason without what is of one sampler or one method alone."""
    why = re.sub(r"^\w+(\([^)]*\))?: ", "", why)
    return re.sub(r"\w+\.training_step writes to .* before", "the recipe writes before", why)


def cell(method, model, expressions, notes, sampler=None):
    """Return ✓ or ✗, with the number of the note that says what was refused and why.

    Expressions are of objectives where a sampler is named, and else of samplers.
    """
    refusals = []
    for expression in expressions:
        treatment = (expression,) if sampler is None else (sampler, expression)
        refused = tried(copy.deepcopy(model), *treatment)
        if refused is None:
            break
        refusals.append((expression, refused))
    if not refusals:
        return "✓"
    trains = expressions[len(refusals)] if len(refusals) < len(expressions) else None
    # Where nothing trains, the last reason is the one that is in the way.
    number = notes.number(method, *refusals[0 if trains else -1], trains)
    return f"{'✗' if trains is None else '✓'} {number}"


def table(builders, notes):
    columns = []
    for name, build in builders.items():
        model = build()  # once, since the hosts' take long
        cells = [cell(name, model, tries, notes) for tries in SAMPLERS.values()]
        cells += [cell(name, model, tries, notes, "in_batch()") for tries in OBJECTIVES.values()]
        columns.append(cells)
    rows = [["", *builders], ["---", *(":-:" for _ in builders)]]
    each = zip((*SAMPLERS, *OBJECTIVES), zip(*columns, strict=True), strict=True)
    rows += [[f"`{name}`", *cells] for name, cells in each]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def part(heading, builders, reports):
    notes = Notes()
    lines = [f"## {heading}", "", table(builders, notes), "", *notes.table()]
    lines += ["", "`negplug doctor` says of each:", ""]
    for report in reports:
        if report.treatable:
            lines.append(f"- `{report.method}`: {report.note}")
        elif report.note != NO_NEGATIVES:
            lines.append(f"- `{report.method}` is refused: {report.note}")
    return "\n".join(lines) + "\n"


def test_the_page_says_what_works():
    heading, adapter, builders = installed()
    torch.manual_seed(0)
    found = part(heading, builders, adapter_of(adapter).methods())
    page = PAGE.read_text(encoding="utf-8")
    before, start, rest = page.partition(f"## {heading}\n")
    theirs, end, after = rest.partition("\n## ")
    if os.environ.get("NEGPLUG_WRITE_METHODS"):
        PAGE.write_text(before + found + end + after, encoding="utf-8")
        return
    assert (start + theirs).strip() == found.strip()


@pytest.mark.parametrize(("kind", "rows"), [("sampler", SAMPLERS), ("objective", OBJECTIVES)])
def test_all_of_ours_have_a_row(kind, rows):
    offered = plugins().provided(kind)
    assert set(rows) == {s.spec.name for s in offered if s.plugin.distribution == "negplug"}


def test_every_treatable_loss_has_a_column():
    _, adapter, builders = installed()
    treatable = {report.method for report in adapter_of(adapter).methods() if report.treatable}
    if adapter == "lightly":
        models = [build() for build in builders.values()]
        assert treatable <= {type(part).__name__ for model in models for part in model.modules()}
    else:
        assert treatable == set(builders)


def test_a_method_that_its_host_does_not_train_says_so():
    if hosts.solo_generation() != "1.0.2":
        assert not any("does not train" in r.note for r in adapter_of(installed()[1]).methods())
        return
    reports = adapter_of("solo-learn").methods()
    failing = {r.method for r in reports if "asks for dataloader_idx" in r.note}
    assert failing == {"MoCoV2Plus", "ReSSL"}
    model = hosts.solo_method("MoCoV2Plus", queue_size=24)
    model.__class__ = type(model).__base__  # the published class, which tests mend otherwise
    with pytest.raises(TypeError, match="dataloader_idx"):
        hosts.trainer(max_steps=1).fit(model, hosts.loader())
