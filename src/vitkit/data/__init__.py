"""Labelled pictures to batches; order and augmentation follow from (seed, epoch, index), mixing from (seed, step)."""
