"""Lines of a metrics file, which any script may write: what is used of them, and what is named."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from negplug.hosts.trainer.recording import last_record, numbers, read_recording

GOOD = b'{"step": 3, "metrics": {"acc": 0.5}}\n'


def write(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"".join(lines))
    return path


@pytest.mark.parametrize(
    ("metric", "shown"),
    [
        ('"acc": null', "'acc': None"),
        ('"acc": "0.7"', "'acc': '0.7'"),
        ('"acc": true', "'acc': True"),
        ('"acc": [0.7]', "'acc': [0.7]"),
        ('"acc": {"mean": 0.7}', "'acc': {'mean': 0.7}"),
        (f'"acc": {10**400}', "'acc': 1000000"),
        ('"": 1', "'': 1"),
        ('"a\\nb": 1', "'a\\nb': 1"),
        ('"\\ud800": 1', "'\\ud800': 1"),
        ('"\\u001b[31m": 1', "'\\x1b[31m': 1"),
        (f'"{"n" * 201}": 1', "'nnnn"),
    ],
)
def test_a_metric_that_is_no_number_is_left_out_and_named(
    tmp_path: Path, metric: str, shown: str
) -> None:
    line = f'{{"epoch": 2, "metrics": {{"loss": 1.5, {metric}}}}}\n'.encode()
    recording = read_recording(write(tmp_path / "file", GOOD, line))
    assert recording.final_metrics() == {"acc": 0.5, "loss": 1.5}
    assert recording.records[-1]["epoch"] == 2
    (fault,) = recording.faults
    assert fault.startswith(f"line 2: {shown}")
    assert len(fault) < 200


@pytest.mark.parametrize(
    "line",
    [
        b'{"metrics": {"acc": 0.\n',
        b"\xff\n",
        b'{"metrics": {"a\xff": 1}}\n',
        b"3\n",
        b'[{"metrics": {}}]\n',
        b"[" * 100_000 + b"\n",
        b'{"step": ' + b"9" * 5_000 + b"}\n",
        b'{"metrics": {"acc": 1, "x": "' + b"y" * 2**20 + b'"}}\n',
    ],
    ids=lambda line: repr(line[:20]),
)
def test_a_line_that_is_no_record_is_left_out_and_named(tmp_path: Path, line: bytes) -> None:
    recording = read_recording(write(tmp_path / "file", GOOD, line, b"\n", GOOD))
    assert recording.records == [{"step": 3, "metrics": {"acc": 0.5}}] * 2
    (fault,) = recording.faults
    assert fault.startswith("line 2 is no record: ")
    assert len(fault) < 100


@pytest.mark.parametrize("value", ['"two"', "1.5", "true", "[1]", "NaN", "1e300", "-2"])
@pytest.mark.parametrize("name", ["epoch", "step", "trainer", "max_epochs"])
def test_what_is_no_count_is_left_out_and_named(tmp_path: Path, name: str, value: str) -> None:
    line = f'{{"{name}": {value}, "metrics": {{"acc": 0.5}}}}\n'.encode()
    recording = read_recording(write(tmp_path / "file", line))
    assert recording.records == [{"metrics": {"acc": 0.5}}]
    (fault,) = recording.faults
    assert fault.startswith(f"line 1: {name} is ")


@pytest.mark.parametrize("metrics", ["3", "null", '"acc"', '["acc"]'])
def test_metrics_that_are_no_object_are_left_out_and_named(tmp_path: Path, metrics: str) -> None:
    line = f'{{"epoch": null, "step": 8.0, "metrics": {metrics}}}\n'.encode()
    recording = read_recording(write(tmp_path / "file", line))
    assert recording.records == [{"step": 8, "metrics": {}}]
    (fault,) = recording.faults
    assert fault.startswith("line 1: metrics is ")


def test_what_is_not_finite_is_a_number_and_no_limit_of_epochs_a_count(tmp_path: Path) -> None:
    line = b'{"max_epochs": -1, "metrics": {"a": NaN, "b": -Infinity, "c": 3}}\n'
    recording = read_recording(write(tmp_path / "file", line))
    metrics = recording.final_metrics()
    assert not recording.faults
    assert recording.records[0]["max_epochs"] == -1
    assert math.isnan(metrics["a"])
    assert (metrics["b"], metrics["c"]) == (-math.inf, 3)


def test_the_last_line_is_found_in_a_long_file_and_before_a_torn_one(tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert last_record(file) is None
    lines = [json.dumps({"epoch": i, "metrics": {}}).encode() + b"\n" for i in range(5_000)]
    write(file, *lines, b'{"epoch": 5')
    assert file.stat().st_size > 2**16
    assert last_record(file) == {"epoch": 4_999, "metrics": {}}
    assert last_record(write(file, b'{"epo')) is None


def test_what_is_no_file_in_the_place_of_the_file_is_named(tmp_path: Path) -> None:
    places = [tmp_path]
    if hasattr(os, "mkfifo"):  # reading one waits for a writer
        os.mkfifo(tmp_path / "pipe")
        places += [tmp_path / "pipe", Path("/dev/zero")]
    for place in places:
        assert read_recording(place).faults == ["it is no file"]
        assert last_record(place) is None
    assert not read_recording(tmp_path / "none").faults


def test_of_many_faults_the_first_are_kept(tmp_path: Path) -> None:
    recording = read_recording(write(tmp_path / "file", *[b"x\n"] * 2_000, GOOD))
    assert len(recording.faults) == 1_000
    assert recording.final_metrics() == {"acc": 0.5}


def test_a_file_that_cannot_be_written_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from negplug.hosts.trainer.metrics import recorder

    for place in (tmp_path, tmp_path / "none" / "file"):
        monkeypatch.setenv("NEGPLUG_METRICS", str(place))
        recording = recorder(object)
        recording.setup(SimpleNamespace(is_global_zero=False), None, "fit")
        with pytest.raises(ValueError, match=r"NEGPLUG_METRICS names .*, which cannot be written"):
            recording.setup(SimpleNamespace(is_global_zero=True), None, "fit")


def test_a_file_that_cannot_be_written_any_more_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder may go while a fit runs, and its disk may fill up."""
    from types import SimpleNamespace

    from negplug.hosts.trainer.metrics import recorder

    folder = tmp_path / "runs"
    folder.mkdir()
    monkeypatch.setenv("NEGPLUG_METRICS", str(folder / "file"))
    trainer = SimpleNamespace(
        is_global_zero=True, callback_metrics={}, current_epoch=1, max_epochs=2, global_step=3
    )
    recording = recorder(object)
    recording.setup(trainer, None, "fit")
    (folder / "file").unlink()
    folder.rmdir()
    with pytest.raises(ValueError, match=r"NEGPLUG_METRICS names .*, which cannot be written"):
        recording.on_train_epoch_end(trainer, None)


@pytest.mark.parametrize("stored", [None, 3, "acc", [], {"acc": None}])
def test_what_was_stored_before_it_was_checked_is_no_metric(stored: object) -> None:
    assert numbers(stored) == {}


def test_a_second_trainer_counts_on_and_a_torn_line_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from negplug.hosts.trainer.metrics import recorder

    file = tmp_path / "metrics.jsonl"
    monkeypatch.setenv("NEGPLUG_METRICS", str(file))
    trainer = SimpleNamespace(
        callback_metrics={"acc": 0.1, "words": "no number"},
        current_epoch=1,
        global_step=8,
        is_global_zero=True,
        max_epochs=1,
        sanity_checking=False,
    )
    first, second = recorder(object), recorder(object)
    first.on_fit_end(trainer, None)  # type: ignore[attr-defined]
    trainer.callback_metrics = {"acc": 0.2}
    second.on_fit_end(trainer, None)  # type: ignore[attr-defined]
    with file.open("a") as lines:
        lines.write('{"metrics": {"acc": 0.')
    recording = read_recording(file)
    assert [record["trainer"] for record in recording.records] == [0, 1]
    assert recording.final_metrics() == {"acc": 0.2}
    (fault,) = recording.faults
    assert fault.startswith("line 3 is no record: ")


def test_the_recorder_tells_batches_and_training_time_without_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from negplug.hosts.trainer import metrics

    now = [0.0]
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])
    file = tmp_path / "metrics.jsonl"
    monkeypatch.setenv("NEGPLUG_METRICS", str(file))
    trainer = SimpleNamespace(
        callback_metrics={},
        current_epoch=0,
        global_step=1,
        is_global_zero=True,
        max_epochs=1,
        sanity_checking=True,
        world_size=2,
    )
    images = SimpleNamespace(shape=(32, 3, 8, 8))
    told = metrics.recorder(object)
    told.on_validation_start(trainer, None)  # type: ignore[attr-defined]
    told.on_validation_end(trainer, None)  # type: ignore[attr-defined]
    trainer.sanity_checking = False
    for batch in ({"names": ["a.png"], "views": [images, images]}, [SimpleNamespace(shape=(3,))]):
        now[0] += 100.0
        told.on_train_epoch_start(trainer, None)  # type: ignore[attr-defined]
        told.on_train_batch_start(trainer, None, batch, 0)  # type: ignore[attr-defined]
        now[0] += 3.0
        told.on_validation_start(trainer, None)  # type: ignore[attr-defined]
        now[0] += 50.0
        told.on_validation_end(trainer, None)  # type: ignore[attr-defined]
        now[0] += 1.0
        told.on_train_epoch_end(trainer, None)  # type: ignore[attr-defined]
    told.on_fit_end(trainer, None)  # type: ignore[attr-defined]
    records = read_recording(file).records
    assert [record["train_seconds"] for record in records] == [3.0, 4.0, 7.0, 8.0, 8.0]
    assert {record["batch_size"] for record in records} == {64}
