"""The defaults that fit a start: as found for as many pictures, more epochs in smaller batches for fewer."""

from __future__ import annotations

import pytest

from vitkit.training.starts import FINE_TUNE, SCRATCH_BRIEF, SCRATCH_PHOTOS, SMALL_FIGURES, recipe_for


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


def test_from_scratch_few_epochs_vary_and_mix_little() -> None:
    few = recipe_for(from_checkpoint=False, image_size=(32, 32), pictures=50_000, affordable=13.0, muon=True)
    assert few[0] == SCRATCH_BRIEF and few[0].optimizer == "muon"
    assert few[0].augment.crop_scale is None and not few[0].mix.mixup + few[0].mix.cutmix + few[0].label_smoothing
    assert few[1] == "from scratch, for photos and the few epochs that the minutes allow, fitted to 50,000 pictures"
    plain, _ = recipe_for(from_checkpoint=False, image_size=(32, 32), pictures=50_000, affordable=13.0)
    assert (plain.optimizer, plain.lr) == ("adamw", SCRATCH_PHOTOS.lr)
    for start, size, affordable, expected in (
        (False, 32, 31.0, SCRATCH_PHOTOS),
        (False, 8, 13.0, SMALL_FIGURES),
        (True, 32, 13.0, FINE_TUNE),
    ):
        found, _ = recipe_for(
            from_checkpoint=start, image_size=(size, size), pictures=3454, affordable=affordable, muon=True
        )
        assert (found.augment, found.mix, found.optimizer) == (expected.augment, expected.mix, "adamw")
