"""The table of what every choice costs: none is missing, and the page shows what was measured."""

from __future__ import annotations

import pytest
import scripts
import torch

from negplug import ContrastiveLoss, make_objective, make_sampler
from negplug.plugins.manager import plugins
from negplug.samplers.filtered import Filtered

SPEED = scripts.BENCHMARKS / "speed"


@pytest.fixture(autouse=True)
def _scripts_on_the_path(monkeypatch):
    yield from scripts.on_the_path(SPEED, monkeypatch)


def built_in(kind):
    known = plugins().provided(kind)
    return {each.spec.name for each in known if each.plugin.distribution == "negplug"}


def test_every_built_in_sampler_and_objective_is_among_the_choices():
    from choices import OBJECTIVES, SAMPLERS

    for kind, expressions in (("sampler", SAMPLERS), ("objective", (*OBJECTIVES, "infonce()"))):
        assert {each.partition("(")[0] for each in expressions} == built_in(kind)


def test_every_choice_is_what_it_is_called():
    from choices import WITH_TABLES, loss_of, of_two_views

    for _, name in of_two_views():
        sampler, _, objective = name.partition(" with ")
        made = loss_of(name)
        if sampler in WITH_TABLES:
            assert type(made.sampler) is Filtered
        else:
            assert str(made.sampler) == str(make_sampler(sampler))
        assert str(made.objective) == str(make_objective(objective or "infonce()"))


@pytest.mark.parametrize(
    "name", ["filtered(pairs=…)", "in_batch() with isogclr(size=4096)", "queue(size=4096)"]
)
def test_a_step_computes_a_gradient_from_full_memories(name, monkeypatch):
    import choices

    views = tuple(view.requires_grad_() for view in torch.randn(2, 256, 128))
    monkeypatch.setattr(choices, "correlated_views", lambda *_, **__: views)
    step = choices.choice_step(name, 256, torch.device("cpu"))
    for view in views:
        view.grad = None
    step()
    for view in views:
        assert view.grad.isfinite().all()
        assert view.grad.any()


def test_the_published_forms_of_two_towers_are_ours():
    import two_towers

    inputs = two_towers.towers(16, 0, torch.device("cpu"))
    ours = ContrastiveLoss(temperature=two_towers.TEMPERATURE).pairs(*inputs)
    torch.testing.assert_close(ours, two_towers.clip(*inputs))


def test_the_page_has_what_was_measured_of_every_choice():
    import cost_page
    from choices import of_two_views
    from report import newest
    from two_towers import TOWERS

    records = newest(cost_page.RESULTS, cost_page.NAME)
    measured = {(row["competitor"], int(row["batch_size"])) for row in records}
    names = [*(each.name for each in of_two_views()), *TOWERS]
    assert {(name, size) for name in names for size in cost_page.BATCH_SIZES} <= measured, (
        "run nox -s speed -- --only every_choice"
    )
    text = cost_page.PAGE.read_text(encoding="utf-8")
    assert cost_page.page(text, records) == text, "run python benchmarks/speed/cost_page.py"
