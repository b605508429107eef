"""What a training remembers of its own pictures' labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from small import PREPROCESS, picture_file
from vitkit import Preprocess, VisionTransformer
from vitkit.api.loaders import make_loaders
from vitkit.data.loader import Loader
from vitkit.data.samples import Samples, Splits
from vitkit.data.store import MemoryStore
from vitkit.image.decode import decode
from vitkit.image.preprocess import fit as fitted
from vitkit.training.loop import fit
from vitkit.training.objective import Classification
from vitkit.training.processes import Processes
from vitkit.training.spec import TrainSpec
from vitkit.training.witness import Witness


def test_the_last_answers_and_the_mean_margins_of_all_epochs_are_kept(tmp_path: Path) -> None:
    half = (0.5, 0.5, 0.5)
    preprocess = Preprocess(size=(8, 8), resize="none", crop="none", interpolation="bicubic", mean=half, std=half)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(20) % 3
    loader = Loader(MemoryStore(pixels), labels, 3, preprocess, batch_size=5, shuffle=True)
    judged = Loader(MemoryStore(pixels), labels, 3, preprocess, batch_size=6)
    torch.manual_seed(0)
    model = VisionTransformer(image_size=8, patch_size=4, num_classes=3, embed_dim=16, depth=1, num_heads=2, mlp_dim=16)
    inputs = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    seen: list[np.ndarray] = []

    def look(progress: object, row: object) -> None:
        with torch.inference_mode():
            seen.append(model.eval()(inputs).numpy())

    witness = Witness(Classification())
    spec = TrainSpec(epochs=6, evaluate_every=2, batch_size=5, ema_decay=0.0, dtype="float32")
    fit(
        model,
        witness,
        loader,
        judged,
        spec,
        tmp_path,
        device=torch.device("cpu"),
        dtype=torch.float32,
        on_step=look,
    )
    judged_after = [logits.astype(np.float64) for logits in seen[7::8]]  # 4 steps an epoch, every second epoch
    answers = witness.answers()
    held = [each for each in vars(witness).values() if isinstance(each, np.ndarray | list)]
    assert sorted(np.shape(each) for each in held) == [(20,), (20, 3)]  # however many the epochs
    np.testing.assert_allclose(answers.logits, judged_after[-1], atol=1e-5)
    margins = [
        [
            row[label] - max(value for at, value in enumerate(row) if at != label)
            for row, label in zip(logits, labels, strict=True)
        ]
        for logits in judged_after
    ]
    assert len(margins) == 3
    np.testing.assert_allclose(answers.margins, np.mean(margins, axis=0), atol=1e-5)


def test_pictures_learnt_from_are_judged_as_an_evaluation_sees_them(tmp_path: Path) -> None:
    paths = [picture_file(tmp_path / f"{seed}.jpg", 300, 260, seed=seed) for seed in range(4)]
    samples = Samples([str(path) for path in paths], np.arange(4) % 2, ("a", "b"), "four")
    spec, device = TrainSpec(batch_size=2), torch.device("cpu")
    learnt, judged, _ = make_loaders(
        Splits(samples, samples), PREPROCESS, spec, Classification(), 0, device, Processes(), on_read=None
    )
    with learnt, judged:
        seen = torch.cat([batch.views[0] for batch in judged.batches(0, judged.steps_per_epoch)])
    crops = np.stack([fitted(PREPROCESS, decode(str(path), channels=3)) for path in paths])
    expected = (crops / 255 - np.array(PREPROCESS.mean)) / np.array(PREPROCESS.std)
    np.testing.assert_allclose(seen.permute(0, 2, 3, 1), expected, atol=1e-5)
