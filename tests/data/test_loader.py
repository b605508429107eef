"""Batches are functions of the step: whoever decodes, however many, from wherever one starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from small import PREPROCESS, picture_file
from vitkit.data.augment import AUGMENTS, Augmentation, AugmentSpec
from vitkit.data.batch import Batch
from vitkit.data.keys import permutation
from vitkit.data.loader import Loader
from vitkit.data.mix import MixSpec, draw_mix, mix_labels, mix_pictures
from vitkit.data.samples import Samples
from vitkit.data.slices import Slices
from vitkit.data.sources.folder import read_folder
from vitkit.data.store import Store, make_store
from vitkit.data.workers import Workers
from vitkit.errors import ConfigError, DataError, ImageError
from vitkit.image.decode import decode
from vitkit.image.preprocess import apply

SPEC = AugmentSpec(crop_scale=(0.3, 1.0), flip=0.5, rotate=9, brightness=0.3, contrast=0.3, saturation=0.3)
MIX = MixSpec(mixup=0.4, cutmix=1.0, label_smoothing=0.1)


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    for seed in range(23):
        picture_file(tmp_path / "abc"[seed % 3] / f"{seed:02}.png", 40, 44, seed=seed)
    return read_folder(tmp_path)


def training(samples: Samples, *, stream: bool = False, workers: int = 0, seed: int = 3) -> Loader:
    store = make_store(samples, PREPROCESS, training=True, memory_limit_bytes=0 if stream else None)
    return Loader(
        store,
        samples.labels,
        3,
        PREPROCESS,
        batch_size=5,
        seed=seed,
        shuffle=True,
        drop_last=True,
        augment=[Augmentation(SPEC, store.size, (32, 32))],
        mix=MIX,
        workers=workers,
    )


def bits(batch: Batch) -> list[bytes]:
    tensors = [*batch.views, *(batch.targets[name] for name in sorted(batch.targets)), batch.index, batch.weight]
    return [tensor.numpy().tobytes() for tensor in tensors]


def test_batches_are_the_same_bits_however_they_are_made(samples: Samples) -> None:
    reference = training(samples)
    assert reference.steps_per_epoch == 4
    expected = [bits(reference.batch(step)) for step in range(10)]
    assert len({each[0] for each in expected}) == 10
    for stream, workers in ((False, 2), (True, 0), (True, 1), (True, 2)):
        with training(samples, stream=stream, workers=workers) as loader:
            assert [bits(batch) for batch in loader.batches(0, 10)] == expected
            assert [bits(batch) for batch in loader.batches(7, 10)] == expected[7:]
            assert bits(loader.batch(2)) == expected[2]
    assert bits(training(samples, seed=4).batch(0)) != expected[0]


def test_repeats_are_one_picture_varied_anew_and_steps_stay_direct(samples: Samples) -> None:
    """Hoffer et al.: each picture `repeats` times, with draws of its own; the epoch has as many steps as without."""
    store = make_store(samples, PREPROCESS, training=True)
    augment = [Augmentation(AUGMENTS["randaugment"], store.size, (32, 32))]

    def loader(repeats: int, **options: Any) -> Loader:
        return Loader(
            store, samples.labels, 3, PREPROCESS, batch_size=6, seed=3, shuffle=True, augment=augment,
            repeats=repeats, **options,
        )  # fmt: skip

    plain, thrice = loader(1), loader(3)
    assert thrice.steps_per_epoch == plain.steps_per_epoch
    count = len(store)
    for epoch in range(2):
        steps = range(epoch * thrice.steps_per_epoch, (epoch + 1) * thrice.steps_per_epoch)
        order = np.concatenate([plain.indices(step) for step in steps])
        assert np.array_equal(np.concatenate([thrice.indices(step) for step in steps]), np.repeat(order, 3)[:count])
    batch = thrice.batch(1)
    assert len({batch.views[0][at].numpy().tobytes() for at in range(6)}) == 6
    first = plain.batch(0).views[0][2]  # its third picture is the third triple, whose first draw is the plain one
    torch.testing.assert_close(batch.views[0][0], first, rtol=0, atol=1e-5)
    ahead = list(thrice.batches(0, 9))
    assert [bits(each) for each in thrice.batches(4, 9)] == [bits(each) for each in ahead[4:]]
    slices = loader(3, slices=Slices(accumulate=2)).batches(1, 2)
    for piece in slices:
        assert piece.part is not None
        torch.testing.assert_close(piece.views[0], batch.views[0][piece.part.rows], rtol=0, atol=1e-5)


def test_pictures_are_erased_after_they_are_normalised(samples: Samples) -> None:
    store = make_store(samples, PREPROCESS, training=True)
    spec = AugmentSpec(erase=1, erase_fill="mean")
    views = [Augmentation(spec, store.size, (32, 32))]
    erased, whole = (
        Loader(store, samples.labels, 3, PREPROCESS, batch_size=6, augment=each).batch(0).views[0]
        for each in (views, [Augmentation(AugmentSpec(), store.size, (32, 32))])
    )
    changed = (erased != whole).any(1)
    assert changed.flatten(1).any(1).all() and not erased[changed[:, None].expand_as(erased)].any()


def test_a_batch_is_augmented_by_seed_epoch_and_index_and_mixed_by_seed_and_step(samples: Samples) -> None:
    store = make_store(samples, PREPROCESS, training=True)
    augmentation = Augmentation(SPEC, store.size, (32, 32))
    for step in (1, 6):
        batch, indices = training(samples).batch(step), permutation(3, step // 4, 23)[step % 4 * 5 :][:5]
        pictures = augmentation.apply(augmentation.draw(3, step // 4, indices), torch.from_numpy(store.take(indices)))
        mean, std = (torch.tensor(values)[:, None, None] for values in (PREPROCESS.mean, PREPROCESS.std))
        mix = draw_mix(MIX, 3, step, (32, 32))
        labels = torch.from_numpy(samples.labels[indices])
        assert torch.equal(batch.index, torch.from_numpy(indices)) and torch.equal(batch.targets["label"], labels)
        assert torch.equal(batch.views[0], mix_pictures(mix, (pictures - mean) / std))
        assert torch.equal(batch.targets["label_weights"], mix_labels(mix, labels, 3, 0.1))


def test_an_epoch_holds_every_picture_once_in_an_order_of_its_own(samples: Samples) -> None:
    store = make_store(samples, PREPROCESS, training=False)
    loader = Loader(store, samples.labels, 3, PREPROCESS, batch_size=5, shuffle=True)
    assert loader.steps_per_epoch == 5
    orders = [
        [at for batch in loader.batches(5 * epoch, 5 * epoch + 5) for at in batch.index.tolist()] for epoch in (0, 1)
    ]
    assert all(sorted(order) == list(range(23)) for order in orders) and orders[0] != orders[1]


def test_evaluation_is_in_order_and_equals_apply_to_the_bit(samples: Samples) -> None:
    store = make_store(samples, PREPROCESS, training=False)
    batches = list(Loader(store, samples.labels, 3, PREPROCESS, batch_size=10).batches(0, 3))
    assert [len(batch) for batch in batches] == [10, 10, 3]
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(23))
    assert torch.cat([batch.targets["label"] for batch in batches]).tolist() == samples.labels.tolist()
    expected = np.stack([apply(PREPROCESS, decode(path)) for path in samples.pictures])
    assert np.array_equal(torch.cat([batch.views[0] for batch in batches]).numpy(), expected)
    assert batches[0].views[0].dtype == torch.float32 and batches[2].weight.tolist() == [1, 1, 1]


def test_a_batch_is_never_larger_than_the_set(samples: Samples) -> None:
    store = make_store(samples, PREPROCESS, training=False)
    loader = Loader(store, samples.labels, 3, PREPROCESS, batch_size=64, drop_last=True)
    assert loader.steps_per_epoch == 1 and len(loader.batch(0)) == len(loader) == 23


def test_several_views_of_several_sizes(samples: Samples) -> None:
    store = make_store(samples, PREPROCESS, training=True)
    views = [
        Augmentation(SPEC, store.size, size, view=view) for view, size in enumerate([(32, 32), (32, 32), (16, 16)])
    ]
    batch = Loader(store, samples.labels, 3, PREPROCESS, batch_size=4, augment=views).batch(0)
    assert [tuple(view.shape) for view in batch.views] == [(4, 3, 32, 32), (4, 3, 32, 32), (4, 3, 16, 16)]
    assert not torch.equal(batch.views[0], batch.views[1])
    assert batch.to("cpu").views[0].data_ptr() == batch.views[0].data_ptr()


def test_faults_are_said_together(samples: Samples) -> None:
    store = make_store(samples, PREPROCESS, training=True)
    wrong = [Augmentation(SPEC, (9, 9), (8, 8)), Augmentation(SPEC, store.size, (8, 8))]
    with pytest.raises(
        ConfigError, match=r"batch_size is 0.*workers is -1.*mix is set and there are 2 views.*of \(9, 9\)"
    ):
        Loader(store, samples.labels, 3, PREPROCESS, batch_size=0, workers=-1, mix=MIX, augment=wrong)
    with pytest.raises(DataError, match="23 pictures and 1 labels"):
        Loader(store, samples.labels[:1], 3, PREPROCESS, batch_size=1)


def test_a_picture_that_went_missing_is_named_by_its_worker(samples: Samples) -> None:
    with training(samples, stream=True, workers=2) as loader:
        assert loader.indices(2)[1] == loader.batch(2).index[1]
        gone = str(samples.pictures[loader.indices(2)[1]])
        Path(gone).unlink()
        with pytest.raises(ImageError, match=gone):
            list(loader.batches(0, 4))
        picture_file(Path(gone), 40, 44, seed=int(Path(gone).stem))
        assert [bits(batch) for batch in loader.batches(0, 4)] == [bits(training(samples).batch(at)) for at in range(4)]


def test_leaving_early_leaves_nothing_behind(samples: Samples) -> None:
    with training(samples, stream=True, workers=2) as loader:
        expected = bits(loader.batch(1))
        for _ in loader.batches(0, 8):
            break
        assert bits(next(loader.batches(1, 2))) == expected


def streamed(samples: Samples) -> Store:
    return make_store(samples, PREPROCESS, training=True, memory_limit_bytes=0)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_worker_that_dies_costs_nothing_but_speed(samples: Samples, caplog: pytest.LogCaptureFixture) -> None:
    store = streamed(samples)
    asked = [np.arange(at, at + 4) for at in range(12)]
    workers = Workers(store, 2)
    for turn, pixels in enumerate(workers.take(asked)):
        if turn == 3:
            os.kill(workers._processes[0].pid, signal.SIGKILL)  # type: ignore[arg-type]
        assert np.array_equal(pixels, store.take(asked[turn]))
    workers.close()
    assert turn == 11 and caplog.text.count("decoding worker 0 has died") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_workers_end_with_who_asked(samples: Samples, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import sys, time
import numpy as np
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
if __name__ == "__main__":
    from small import PREPROCESS
    from vitkit.data.sources.folder import read_folder
    from vitkit.data.store import make_store
    from vitkit.data.workers import Workers
    store = make_store(read_folder({samples.name!r}), PREPROCESS, training=True, memory_limit_bytes=0)
    workers = Workers(store, 2)
    next(taken := workers.take(np.arange(4) for _ in range(99)))
    print(*(process.pid for process in workers._processes), flush=True)
    time.sleep(60)
"""
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 2
        parent.kill()
    deadline = time.monotonic() + 10
    while any(running(pid) for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_early_steps_have_views_of_their_own(samples: Samples) -> None:
    store = make_store(samples, PREPROCESS, training=True)
    late, early = (Augmentation(SPEC, store.size, size) for size in (PREPROCESS.size, (12, 12)))
    both = Loader(store, samples.labels, 3, PREPROCESS, batch_size=5, augment=[late], early=[early], mix=MIX)
    alone = [
        Loader(store, samples.labels, 3, PREPROCESS, batch_size=5, augment=[view], mix=MIX).batch(2)
        for view in (early, late)
    ]
    found = list(both.batches(2, 4, is_early=lambda step: step < 3))
    assert [batch.views[0].shape[2:] for batch in found] == [(12, 12), PREPROCESS.size]
    for batch, expected in zip((both.batch(2, early=True), both.batch(2)), alone, strict=True):
        assert torch.equal(batch.views[0], expected.views[0])
        assert torch.equal(batch.targets["label_weights"], expected.targets["label_weights"])
    assert torch.equal(found[0].views[0], alone[0].views[0])
