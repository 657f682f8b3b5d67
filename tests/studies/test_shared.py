"""What the studies share: parts that do not overlap, views, intervals, rows that are kept."""

from dataclasses import dataclass

import image_files
import pytest
import torch
from scipy import stats


@dataclass(frozen=True)
class Asked:
    name: str
    value: float


def measured(asked):
    row = {"question": "kept", "name": asked.name, "value": asked.value, "seconds": 0.0}
    return [{**row, "found": 2 * asked.value}]


@pytest.fixture(autouse=True)
def _shared(study):
    study("emc2")


def test_no_image_is_in_two_parts(tmp_path, monkeypatch):
    from fashion import fashion

    splits = [image_files.images_of("fashion-mnist", *part) for part in ((True, 12), (False, 9))]
    image_files.write("fashion-mnist", tmp_path / "data", *splits, monkeypatch)
    monkeypatch.chdir(tmp_path)
    for shrink, side in ((1, 28), (2, 14)):
        data = fashion(7, 5, "cpu", shrink, tested=7)
        parts = (data.train, data.validation, data.test)
        assert [len(part.labels) for part in parts] == [7, 5, 7]
        assert all(part.images.shape[1:] == (1, side, side) for part in parts)
        together = torch.cat([part.images for part in parts])
        assert len(torch.unique(together, dim=0)) == 19
    train, test = (torch.from_numpy(labels).long() for _, labels in splits)
    assert torch.equal(torch.cat([data.train.labels, data.validation.labels]), train)
    assert torch.equal(data.test.labels, test[:7])


def test_a_view_is_a_piece_of_its_own_image_at_another_brightness():
    from fashion import view

    flat = torch.arange(6.0)[:, None, None, None].expand(6, 1, 14, 14)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        seen, again = view(flat), view(flat)
    assert seen.shape == flat.shape
    # A flat image stays flat, at 0.6 to 1.4 times its value and 0.4 more or less.
    assert float(seen.std(dim=(2, 3)).max()) < 1e-5
    middle = seen.mean(dim=(1, 2, 3))
    numbers = torch.arange(6.0)
    assert bool((middle >= 0.6 * numbers - 0.4).all() and (middle <= 1.4 * numbers + 0.4).all())
    assert not torch.equal(seen, again)


def test_a_whole_crop_is_the_image_or_its_mirror_image():
    from fashion import view

    ramp = torch.arange(14.0).expand(40, 1, 14, 14)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        seen = view(ramp, smallest=1.0)
    steps = seen.diff(dim=3)
    slopes = steps.mean(dim=(1, 2, 3))
    torch.testing.assert_close(steps, slopes[:, None, None, None].expand_as(steps))
    assert bool((slopes > 0).any() and (slopes < 0).any())
    assert bool(((slopes.abs() > 0.59) & (slopes.abs() < 1.41)).all())


def test_batches_hold_every_image_of_an_epoch_once():
    from fashion import batches

    for size, batch_size in ((12, 4), (13, 5)):
        order = batches(size, batch_size, 3, "cpu")
        per_epoch = size // batch_size
        assert len(order) == 3 * per_epoch
        for epoch in range(3):
            seen = torch.cat(order[per_epoch * epoch : per_epoch * (epoch + 1)])
            assert len(seen.unique()) == per_epoch * batch_size


def test_an_interval_is_students_of_the_differences_of_equal_seeds():
    from intervals import paired

    ours, theirs = {0: 3.0, 1: 5.0, 2: 4.5, 7: 100.0}, {2: 4.0, 0: 1.0, 1: 2.0, 9: -100.0}
    found = paired(ours, theirs)
    expected = stats.ttest_rel([3.0, 5.0, 4.5], [1.0, 2.0, 4.0]).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.count == 3
    assert found.verdict == 0
    assert str(found) == f"+1.83 [{expected.low:+.2f}, {expected.high:+.2f}]"
    assert str(paired({0: 0.05}, {0: 0.0})) == "+0.050"
    assert paired({0: 1.0, 1: 1.1}, {0: 0.0, 1: 0.0}).verdict == 1
    assert paired({0: 0.0, 1: 0.0}, {0: 1.0, 1: 1.1}).verdict == -1
    assert paired({0: 1.0}, {0: 0.0}).verdict == 0  # of one seed there is no interval
    with pytest.raises(ValueError, match="equal seeds"):
        paired({0: 1.0}, {1: 1.0})


def test_a_rank_correlation_has_the_sign_of_the_order():
    from intervals import rank_correlation

    rising = [1.0, 2.0, 4.0, 3.0, 5.0, 6.0, 8.0, 7.0]
    found = rank_correlation(range(8), rising)
    assert found.middle == pytest.approx(stats.spearmanr(range(8), rising).statistic)
    assert found.low < found.middle < found.high
    assert found.verdict == 1
    assert rank_correlation(range(8), [-value for value in rising]).verdict == -1
    assert rank_correlation([1, 2, 3], [1, 3, 2]).verdict == 0


def test_what_the_file_holds_is_not_measured_again(tmp_path):
    from harness import append
    from records import completed, stored

    assert stored("kept", tmp_path) == []
    settings = [Asked("a", 1.0), Asked("b", 2.5)]
    for each in reversed(settings):
        append(measured(each), tmp_path)

    def refused(_):
        raise AssertionError("measured again")

    rows = completed("kept", settings, refused, 1, tmp_path)
    assert [(row["name"], row["found"]) for row in rows] == [("a", 2), ("b", 5.0)]
    assert stored("kept", tmp_path)[0]["name"] == "b"
