"""What bench measures of timm and transformers is the same model on the same pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch

import vitkit
from small import NAMES, PREPROCESS, small_model
from vitkit import Predictor
from vitkit.api import bench as module
from vitkit.api.bench_entry import Alone
from vitkit.engine import measure
from vitkit.evaluation.contestants import Shown, made_pictures, of_timm, of_transformers

pytestmark = pytest.mark.peer

SHOWN = Shown(made_pictures(2), (1, 3), 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models")
    model = small_model(embed_dim=64, norm_eps=1e-6)
    for layout in ("native", "hf", "timm"):
        vitkit.save(model, place / layout, preprocess=PREPROCESS, class_names=NAMES, layout=layout)
    return place


@pytest.fixture(scope="module")
def vit(folder: Path) -> Predictor:
    return vitkit.load(folder / "native", device="cpu", exact=True)


def test_transformers_names_the_classes_that_we_do(folder: Path, vit: Predictor) -> None:
    theirs = of_transformers(str(folder / "hf"), SHOWN, device=torch.device("cpu"), dtype=torch.float32)
    for picture in SHOWN.pictures:
        ours = {each.class_name: each.probability for each in vit.classify(picture)}
        assert {each["label"]: each["score"] for each in theirs.one()} == pytest.approx(ours, rel=0.02)
    assert [len(each) for each in theirs.many.run()] == [5] * 4
    assert [work.images for work in theirs.batches] == [1, 3]


def test_timm_gives_the_probabilities_that_we_do(folder: Path, vit: Predictor) -> None:
    theirs = of_timm(str(folder / "timm"), SHOWN, device=torch.device("cpu"), dtype=torch.float32)
    for picture in SHOWN.pictures:
        ours = [each.probability for each in vit.classify(picture)]
        np.testing.assert_allclose(theirs.one()[0], ours, rtol=1e-4)
    assert sum(len(batch) for batch in theirs.many.run()) == 4


def test_peers_stand_beside_the_engines_and_another_epsilon_is_said(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(measure.SIDES, "cpu", (64,))
    for name in ("PEAK_S", "STAGES_S", "CORE_S"):
        monkeypatch.setattr(module, name, 0.01)
    monkeypatch.setattr(module, "run_alone", lambda entry: Alone(300_000_000, 1.5))
    small_model(norm_eps=1e-12).save_pretrained(tmp_path / "m", preprocess=PREPROCESS, class_names=NAMES)
    asked = {"engines": ["torch"], "dtypes": ["float32"], "seconds": 0.1, "device": "cpu"}
    rows = vitkit.bench(tmp_path / "m", peers=True, **asked).rows  # type: ignore[arg-type]
    assert [row.runner for row in rows] == ["torch", "transformers", "timm"]
    assert all(row.speed is not None for row in rows)
    assert [row.note for row in rows] == [None, None, "LayerNorm with eps 1e-06, not 1e-12"]
