"""The recorder of indexes comes and goes, and leaves loaders and strategies as they were."""

import copy
import gc
import pickle

import hosts
import pytest
import ranks
from index_recipes import (
    TRAINERS,
    Recording,
    Steps,
    assert_recorded_and_unchanged,
    fit,
    make,
    without_three,
)
from torch.utils.data import (
    BatchSampler,
)

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("fails", [False, True])
def test_removal_gives_everything_back(fails):
    class Failing(Steps):
        def training_step(self, batch, batch_idx):
            if fails:
                raise ArithmeticError("stop")
            return super().training_step(batch, batch_idx)

    loader, val = make(num_workers=2, persistent_workers=True), make()
    next(iter(loader))  # an iterator from before the fit, which persistent workers keep
    own = loader.batch_sampler, val.batch_sampler
    for _ in range(2):
        recording, module = Recording(), Failing()
        trainer = hosts.trainer(callbacks=[recording], max_epochs=2)
        before = dict(vars(trainer.strategy))
        if fails:
            with pytest.raises(ArithmeticError):
                trainer.fit(module, loader, val)
        else:
            trainer.fit(module, loader, val)
            assert recording.recorded == module.seen
        recording.recorder.remove()  # once more
        assert vars(trainer.strategy).keys() == before.keys()
        assert (loader.batch_sampler, val.batch_sampler) == own
        assert loader._iterator is None or loader._iterator._index_sampler is own[0]


def test_workers_that_start_from_nothing_are_recorded():
    """As they do on Windows and macOS, where all that a loader has travels by pickle."""
    spawned = {"multiprocessing_context": "spawn", "persistent_workers": True}
    recording = Recording()
    module = fit(make(num_workers=1, collate_fn=without_three, **spawned), [recording])
    assert len(module.seen) > 3
    assert recording.recorded == module.seen


def test_the_loader_of_validation_is_left_alone():
    class Looking(hosts.lightning().Callback):
        def on_validation_start(self, trainer, pl_module):
            seen.append(val.batch_sampler is own)

    seen, val = [], make()
    own = val.batch_sampler
    fit(make(), [Recording(), Looking()], val=val)
    assert seen == [True] * 4


def test_a_method_put_on_the_strategy_by_others_is_called_and_comes_back():
    calls = []

    def process(loader):
        calls.append(loader)
        return loader

    loader, recording = make(), Recording()
    trainer = hosts.trainer(callbacks=[recording])
    trainer.strategy.process_dataloader = process
    module = Steps()
    trainer.fit(module, loader)
    assert calls == [loader]
    assert recording.recorded == module.seen
    assert trainer.strategy.process_dataloader is process


def test_a_recorder_never_removed_does_not_hinder_the_next():
    class Forgetful(Recording):
        def teardown(self, trainer, pl_module, stage):
            pass

    loader = make()
    own = loader.batch_sampler
    fit(loader, [Forgetful()])
    assert loader.batch_sampler is not own
    assert_recorded_and_unchanged(lambda callbacks: fit(loader, callbacks))
    assert loader.batch_sampler is own


def test_the_recording_sampler_passes_for_the_recorded_one():
    class Looking(hosts.lightning().Callback):
        def on_train_start(self, trainer, pl_module):
            sampler = loader.batch_sampler
            assert sampler is not own
            assert isinstance(sampler, BatchSampler)
            assert (sampler.batch_size, sampler.drop_last) == (4, False)
            assert sampler.sampler is loader.sampler
            assert len(sampler) == len(loader) == 6
            assert not hasattr(sampler, "set_epoch")
            sampler.note = "set by a recipe"
            for twin in (copy.deepcopy(sampler), pickle.loads(pickle.dumps(sampler))):
                assert type(twin) is BatchSampler
                assert twin.batch_size == 4

    loader = make()
    own = loader.batch_sampler
    fit(loader, [Recording(), Looking()])
    assert own.note == "set by a recipe"


def after_a_failed_hook(rank, world):
    def fail():
        raise ArithmeticError("no data")

    # Lightning wraps every batch sampler's __init__ around the hook, and leaves it if that raises.
    with pytest.raises(ArithmeticError):
        fit(None, build=lambda: Steps(fail))
    recording = Recording()
    return fit(make(), [recording]).seen, recording.recorded


def test_after_a_failed_hook():
    ((seen, recorded),) = ranks.run(after_a_failed_hook, 1)
    assert recorded == seen


def test_reloaded_loaders_are_not_kept_alive():
    class Counting(hosts.lightning().Callback):
        def on_train_epoch_start(self, *args):
            gc.collect()
            alive.append(len(recording.recorder._loaders))

    alive, recording = [], Recording()
    callbacks = [recording, Counting()]
    fit(None, callbacks, lambda: Steps(make), max_epochs=5, **TRAINERS["reload"])
    assert alive[-1] <= 2
