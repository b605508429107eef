"""Batches by step number: any step's batch can be made directly, and it is the same bits however it is made."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitkit.data.augment import Augmentation, AugmentSpec
from vitkit.data.balance import Balance
from vitkit.data.batch import Batch, Part
from vitkit.data.keys import permutation
from vitkit.data.mix import MixSpec, draw_mix, mix_labels, mix_pictures, mix_rows
from vitkit.data.slices import Slices
from vitkit.data.store import Store
from vitkit.data.workers import Workers
from vitkit.errors import ConfigError, DataError, list_faults
from vitkit.image.decode import Decoded
from vitkit.image.preprocess import Preprocess

__all__ = ["Loader"]


class Loader:
    """Pictures of `store` as batches, epoch after epoch; step s is batch s mod `steps_per_epoch` of its epoch.

    Each of `augment` gives one view; without any there is one, the centre at `preprocess.size`. `early` are the views
    of early steps where they differ, such as smaller ones. With `shuffle`, order is a function of (seed, epoch), else
    it is the store's; with `balanced`, so is what is drawn, every class equally often. Pictures are augmented, mixed
    and normalised here, batch by batch on `device`; workers only decode, and only where the store isn't in memory. A
    script that uses them runs under `if __name__ == "__main__":`, as spawned processes import it. With `slices`,
    `batches` gives those of this process in the place of each whole batch; together they hold the same pictures, varied
    and mixed in the same way.

    With `repeats` above 1 a picture comes so many times in a row, each time varied anew, and an epoch of as many steps
    holds so much fewer pictures (repeated augmentation: Hoffer et al., 2020, arXiv:1901.09335).
    """

    def __init__(
        self,
        store: Store,
        labels: NDArray[Any],
        num_classes: int,
        preprocess: Preprocess,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = False,
        balanced: bool = False,
        drop_last: bool = False,
        repeats: int = 1,
        augment: Sequence[Augmentation] = (),
        early: Sequence[Augmentation] = (),
        mix: MixSpec | None = None,
        workers: int = 0,
        device: torch.device | str = "cpu",
        slices: Slices = Slices(),  # noqa: B008  # frozen
    ) -> None:
        if not len(store) or len(store) != len(labels):
            raise DataError(f"the loader has {len(store)} pictures and {len(labels)} labels; give as many, at least 1")
        faults = []
        if batch_size < 1:
            faults.append(f"batch_size is {batch_size}; give 1 or more")
        if repeats < 1:
            faults.append(f"repeats is {repeats}; give 1 or more")
        if workers < 0:
            faults.append(f"workers is {workers}; give 0 or more")
        if mix is not None and len(augment) > 1:
            faults.append(f"mix is set and there are {len(augment)} views; mixing takes one view")
        faults += [
            f"an augmentation takes pictures of {each.held}, the store holds {store.size} (height, width)"
            for each in (*augment, *early)
            if each.held != store.size
        ]
        if faults:
            raise ConfigError(f"loader: {list_faults(faults)}")
        self._store = store
        self.labels = labels
        self._num_classes = num_classes
        self._views = tuple(augment) or (Augmentation(AugmentSpec(), store.size, preprocess.size),)
        self._early = tuple(early) or self._views
        self._mix = mix
        self._answers: Tensor | None = None
        self._mean, self._std = (
            torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]
            for values in (preprocess.mean, preprocess.std)
        )
        self._seed = seed
        self._shuffle = shuffle
        self._repeats = repeats
        self._balance = Balance(labels) if balanced else None
        self.batch_size = min(batch_size, len(store))
        self._count = 0 if store.in_memory else workers
        self._workers: Workers | None = None
        self._device = torch.device(device)
        self._slices = slices
        self._order = (-1, np.empty(0, np.int64))  # the epoch it is of
        whole, rest = divmod(len(store), self.batch_size)
        self.steps_per_epoch: int = whole + (rest > 0 and not drop_last)

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self._store)

    def __enter__(self) -> Loader:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the workers."""
        self.close()

    def close(self) -> None:
        """Ends the workers; they start again when they are needed."""
        if self._workers is not None:
            self._workers.close()
        self._workers = None

    def plain(self) -> Loader:
        """A loader of the same pictures in the same order that neither varies nor mixes them, nor leaves any out."""
        plain = copy.copy(self)
        plain._views = (Augmentation(AugmentSpec(), self._store.size, self._views[0].size),)
        plain._early = plain._views
        plain._mix = None
        plain._repeats = 1
        plain._slices = Slices()
        plain._balance = None
        plain._workers = None
        plain.steps_per_epoch = -(-len(self._store) // self.batch_size)
        return plain

    def with_answers(self, answers: Tensor) -> Loader:
        """The same loader with what a teacher says of each picture, [n, K], as targets, mixed as the labels are."""
        taught = copy.copy(self)
        taught._answers = answers
        return taught

    def indices(self, step: int) -> NDArray[np.int64]:
        """Which pictures the batch of `step` holds, [B]."""
        return self._keys(step) % len(self)

    def batch(self, step: int, *, early: bool = False) -> Batch:
        """The whole batch of `step`, made here and now: a function of the loader's and these arguments."""
        return self._assemble(step, self._keys(step), self._store.take(self.indices(step)), None, early)

    def batches(
        self, start: int, stop: int, stride: int = 1, *, is_early: Callable[[int], bool] = lambda step: False
    ) -> Iterator[Batch]:
        """The batches of range(start, stop, stride), or their slices; read ahead by the workers where there are any.

        `is_early` says of a step, when its turn comes, whether it has the early views.
        """
        cuts, kept = itertools.tee(self._cut(start, stop, stride))  # the workers are ahead of us
        pictures = self._read(keys % len(self) for _, keys, _ in cuts)
        for (step, keys, part), pixels in zip(kept, pictures, strict=True):
            yield self._assemble(step, keys, pixels, part, is_early(step))

    def _cut(self, start: int, stop: int, stride: int) -> Iterator[tuple[int, NDArray[np.int64], Part | None]]:
        """Steps, keys of pictures and what these are of the whole batch."""
        for step in range(start, stop, stride):
            whole = self._keys(step)
            if self._slices.total == 1:
                yield step, whole, None
                continue
            for turn in range(self._slices.accumulate):
                rows = self._slices.rows(turn, len(whole))
                share = len(rows) / len(whole)
                if not len(rows):  # every process computes something in every turn; this counts for nothing
                    rows = np.zeros(1, np.int64)
                yield step, whole[rows], Part(torch.from_numpy(rows).to(self._device), len(whole), share)

    def _read(self, asked: Iterator[NDArray[np.int64]]) -> Iterator[Decoded]:
        if not self._count:
            return map(self._store.take, asked)
        if self._workers is None or not self._workers.alive:
            self._workers = Workers(self._store, self._count)
        return self._workers.take(asked)

    def _keys(self, step: int) -> NDArray[np.int64]:
        """What tells the pictures of a batch and their repeats apart, [B]: picture + number of pictures * repeat."""
        epoch, turn = divmod(step, self.steps_per_epoch)
        places = np.arange(turn * self.batch_size, min((turn + 1) * self.batch_size, len(self)))
        return self._epoch_order(epoch)[places // self._repeats] + len(self) * (places % self._repeats)

    def _epoch_order(self, epoch: int) -> NDArray[np.int64]:
        if not self._shuffle:
            epoch = 0
        held, order = self._order
        if held != epoch:
            order = permutation(self._seed, epoch, len(self)) if self._shuffle else np.arange(len(self))
            if self._balance is not None:
                pictures, repeats = self._balance.draw(self._seed, epoch)
                order = (pictures + len(self) * self._repeats * repeats)[order]
            self._order = (epoch, order)
        return order

    def _assemble(self, step: int, keys: NDArray[np.int64], pixels: Decoded, part: Part | None, early: bool) -> Batch:
        pictures = torch.from_numpy(pixels).to(self._device)
        epoch, indices = step // self.steps_per_epoch, keys % len(self)
        records = [(view, view.draw(self._seed, epoch, keys)) for view in (self._early if early else self._views)]
        views = tuple(view.finish(record, self._normalise(view.apply(record, pictures))) for view, record in records)
        labels = torch.from_numpy(self.labels[indices]).to(self._device)
        if labels.ndim == 2:
            labels = labels.float()
        targets = {"labels" if labels.ndim == 2 else "label": labels}
        if self._answers is not None:
            targets["answers"] = self._answers[indices].to(self._device)
        if self._mix is not None:
            mix = draw_mix(self._mix, self._seed, step, records[0][0].size)
            views = tuple(mix_pictures(mix, view) for view in views)
            targets["label_weights"] = mix_labels(mix, labels, self._num_classes, self._mix.label_smoothing)
            if "answers" in targets:
                targets["answers"] = mix_rows(mix, targets["answers"])
        weight = torch.ones(len(indices), device=self._device)
        return Batch(views, targets, torch.from_numpy(indices).to(self._device), weight, part)

    def _normalise(self, pictures: Tensor) -> Tensor:
        """In place on 0..1, with the arithmetic of `image.preprocess.normalize`."""
        return pictures.sub_(self._mean).div_(self._std)
