"""The defaults that fit a start: as found for as many pictures, more epochs in smaller batches for fewer."""

from __future__ import annotations

import pytest

from vitkit.training.starts import FINE_TUNE, SCRATCH_PHOTOS, SMALL_FIGURES, recipe_for


@pytest.mark.parametrize(
    ("start", "pictures", "epochs", "batch_size"),
    [
        (True, 3454, 25, 64),
        (True, 2000, 25, 64),
        (True, 900, 50, 32),
        (True, 50, 100, 16),
        (True, 2, 100, 16),
        (True, 14_000, 12, 64),
        (True, 1_200_000, 6, 64),
        (False, 3454, 60, 64),
        (False, 300, 240, 16),
        (False, 60_000, 60, 64),
    ],
)
def test_fewer_pictures_get_more_epochs_in_smaller_batches(
    start: bool, pictures: int, epochs: int, batch_size: int
) -> None:
    spec, why = recipe_for(from_checkpoint=start, image_size=(128, 128), pictures=pictures)
    assert (spec.epochs, spec.batch_size) == (epochs, batch_size)
    name = "fine-tuning all of the checkpoint" if start else "from scratch, for photos"
    assert why == f"{name}, fitted to {pictures:,} pictures"  # no numbers: a recipe or flags may set others


def test_a_recipe_is_as_it_was_found_for_as_many_pictures() -> None:
    for start, size, pictures, expected in (
        (True, 128, 3454, FINE_TUNE),
        (False, 128, 3454, SCRATCH_PHOTOS),
        (False, 8, 1437, SMALL_FIGURES),
    ):
        assert recipe_for(from_checkpoint=start, image_size=(size, size), pictures=pictures)[0] == expected
