"""Memory and stream hold the same pixels, and both name every picture that can't be read before anything starts."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from small import PREPROCESS, picture_file
from vitkit import Preprocess
from vitkit.data.samples import Samples
from vitkit.data.sources.arrays import read_arrays
from vitkit.data.sources.dataset import read_dataset
from vitkit.data.sources.folder import read_folder
from vitkit.data.store import CHUNK, MemoryStore, StreamStore, make_store, memory_limit, stored_size
from vitkit.errors import ConfigError, DataError, ImageError
from vitkit.image.decode import decode
from vitkit.image.preprocess import fit


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    for seed in range(CHUNK + 9):
        picture_file(tmp_path / "ab"[seed % 2] / f"{seed}.png", 40 + seed % 7, 50 - seed % 5, seed=seed)
    return read_folder(tmp_path)


@pytest.mark.parametrize("training", [True, False])
def test_memory_and_stream_hold_what_fit_gives(samples: Samples, training: bool) -> None:
    seen: list[tuple[int, int]] = []
    memory = make_store(samples, PREPROCESS, training=training, on_progress=lambda *now: seen.append(now))
    stream = make_store(samples, PREPROCESS, training=training, memory_limit_bytes=0)
    assert isinstance(memory, MemoryStore) and isinstance(stream, StreamStore)
    assert memory.in_memory and not stream.in_memory
    assert seen == [(CHUNK, len(samples)), (len(samples), len(samples))]
    size = (36, 36) if training else (32, 32)
    assert memory.size == stream.size == size and len(memory) == len(stream) == len(samples)
    indices = np.array([5, 0, 5, CHUNK + 8])
    expected = [fit(dataclasses.replace(PREPROCESS, size=size), decode(samples.pictures[at])) for at in indices]
    assert np.array_equal(memory.take(indices), expected) and np.array_equal(stream.take(indices), expected)


def test_training_pictures_hold_the_evaluation_ones(samples: Samples) -> None:
    kept = make_store(samples, PREPROCESS, training=True).take(np.arange(9))
    judged = make_store(samples, PREPROCESS, training=False).take(np.arange(9))
    assert np.array_equal(kept[:, 2:-2, 2:-2], judged)


@given(
    st.sampled_from(["shortest", "squash"]),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
def test_every_picture_has_the_stored_size(resize: Any, size: Any, resize_size: Any, held: tuple[int, int]) -> None:
    preprocess = dataclasses.replace(PREPROCESS, size=size, resize=resize, resize_size=resize_size)
    store = make_store(read_arrays(np.zeros((1, *held, 3), np.uint8), [0], ["a"]), preprocess, training=True)
    assert store.take(np.array([0])).shape == (1, *stored_size(preprocess), 3)


def test_the_limit_decides() -> None:
    pixels = np.zeros((10, 8, 8, 1), np.uint8)
    preprocess = Preprocess(size=8, resize="none", crop="none", interpolation="bilinear", mean=(0.5,), std=(0.5,))
    assert make_store(read_arrays(pixels, [0] * 10, "a"), preprocess, training=True, memory_limit_bytes=640).in_memory
    assert not make_store(
        read_arrays(pixels, [0] * 10, "a"), preprocess, training=True, memory_limit_bytes=639
    ).in_memory
    assert 2**26 < memory_limit() <= 2**32


@pytest.mark.parametrize("limit", [None, 0])
def test_every_unreadable_picture_is_named_before_the_first_step(samples: Samples, limit: int | None) -> None:
    broken = [str(samples.pictures[at]) for at in range(0, len(samples), 3)]
    for path in broken:
        whole = Path(path).read_bytes()
        Path(path).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError) as caught:
        make_store(samples, PREPROCESS, training=True, memory_limit_bytes=limit)
    said = str(caught.value)
    assert f"{len(broken)} of {len(samples)} pictures can't be read; replace or remove them" in said
    assert all(path in said for path in broken[:10]) and f"and {len(broken) - 10} more" in said and "\n" not in said


def test_the_check_can_be_left_out(samples: Samples) -> None:
    Path(str(samples.pictures[1])).unlink()
    stream = make_store(samples, PREPROCESS, training=True, memory_limit_bytes=0, check=False)
    with pytest.raises(ImageError, match=r"a/10\.png doesn't exist"):
        stream.take(np.array([0, 1]))


def test_a_datasets_faults_carry_the_position() -> None:
    class Items:
        targets = (0, 1, 0, 1)

        def __len__(self) -> int:
            return 4

        def __getitem__(self, at: int) -> Any:
            if at == 1:
                raise KeyError("lost\nfile")
            return (np.zeros((4, 4), np.float32) if at == 2 else Image.new("RGB", (50, 40)), at % 2)

    with pytest.raises(
        DataError,
        match=r"2 of 4 .*own\[1\]: item 1 of .* can't be fetched \(KeyError.*; own\[2\]: array \[4, 4\] float32: ",
    ):
        make_store(read_dataset(Items(), name="own"), PREPROCESS, training=True)


def test_floats_in_between_are_refused(samples: Samples) -> None:
    with pytest.raises(ConfigError, match="'rescale_first' keeps no whole pixels to train on"):
        make_store(samples, dataclasses.replace(PREPROCESS, order="rescale_first"), training=True)


def test_workers_start_without_torch() -> None:
    code = "import sys, vitkit.data.workers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
