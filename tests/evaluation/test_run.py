"""An evaluation scores what classify answers, and loses no picture silently."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitkit
from small import NAMES, PREPROCESS, picture_file, small_folder, small_model
from vitkit import ConfigError, DataError, Predictor
from vitkit.checkpoint.card import Card
from vitkit.checkpoint.read import Report
from vitkit.engine.torch_engine import TorchEngine
from vitkit.evaluation.labels import Labelled
from vitkit.evaluation.run import evaluate


def make_predictor(num_classes: int = 7, scores: str = "softmax") -> Predictor:
    module = small_model(num_classes=num_classes)
    card = Card(preprocess=PREPROCESS, class_names=NAMES if num_classes == 7 else None, scores=scores)
    engine = TorchEngine(module, PREPROCESS, device=torch.device("cpu"), dtype=torch.float32)
    return Predictor(
        module, engine, card, Report(source="small", layout="", weights=(), origins={}, filled={}, dropped={})
    )


@pytest.fixture
def predictor() -> Predictor:
    return make_predictor()


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """Eleven pictures; the third and the last can't be read."""
    files = [picture_file(tmp_path / f"{seed:02}.png", seed=seed) for seed in range(11)]
    files[2].write_bytes(b"no picture")
    files[10].write_bytes(files[10].read_bytes()[:200])
    return [str(file) for file in files]


def test_scores_are_those_of_classify(predictor: Predictor, pictures: list[str]) -> None:
    good = [path for at, path in enumerate(pictures) if at not in (2, 10)]
    answers = predictor.classify(good, top=5)
    labels = [at % 7 for at in range(len(good))]
    labels[0], labels[1] = answers[0][0].index, answers[1][4].index
    scores = evaluate(predictor, [Labelled(*pair) for pair in zip(good, labels, strict=True)], batch_size=4)
    pairs = list(zip(answers, labels, strict=True))
    assert scores.correct == sum(best[0].index == label for best, label in pairs) >= 1
    assert scores.top5 == np.mean([label in [row.index for row in best] for best, label in pairs]) > scores.top1
    assert sorted((label, best[0].index) for best, label in pairs) == sorted(
        (label, said) for label, said, times in scores.confusion for _ in range(times)
    )
    assert (scores.model, scores.engine, scores.count) == ("small", "torch float32 on cpu", 9)
    assert {row.class_name for row in scores.per_class} <= set(NAMES)
    assert scores.seconds > 0


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_failed_pictures_are_listed_and_shift_no_label(
    predictor: Predictor, pictures: list[str], batch_size: int
) -> None:
    best = {path: predictor.classify(path)[0].index for at, path in enumerate(pictures) if at not in (2, 10)}
    labelled = [Labelled(path, best.get(path, 0)) for path in pictures]
    scores = evaluate(predictor, labelled, batch_size=batch_size)
    assert (scores.count, scores.correct, scores.top1) == (9, 9, 1.0)
    assert [path for path, _ in scores.failed] == [pictures[2], pictures[10]]
    assert all(path in error for path, error in scores.failed)
    assert "2 failed and left out" in str(scores)


def test_progress_counts_every_picture_and_knows_the_total_where_there_is_one(
    predictor: Predictor, pictures: list[str]
) -> None:
    seen: list[tuple[int, int | None]] = []
    labelled = [Labelled(path, 0) for path in pictures]
    evaluate(predictor, labelled, batch_size=4, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 11) for done in range(1, 12)]
    seen.clear()
    evaluate(predictor, iter(labelled), batch_size=4, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, None) for done in range(1, 12)]


def test_pictures_are_taken_as_they_are_needed(
    predictor: Predictor, pictures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    taken = scored = ahead = 0

    def stream() -> Iterator[Labelled]:
        nonlocal taken
        for path in pictures[3:10] * 10:
            taken += 1
            yield Labelled(path, 0)

    def progress(done: int, total: int | None) -> None:
        nonlocal scored, ahead
        ahead, scored = max(ahead, taken - done), done

    evaluate(predictor, stream(), batch_size=2, on_progress=progress)
    assert scored == 70
    assert ahead <= 2 + (1 + 2)  # a batch, and what one thread decodes ahead


def test_a_model_without_a_head_is_refused_before_any_picture(pictures: list[str]) -> None:
    def never() -> Iterator[Labelled]:
        raise AssertionError("a picture was asked for")
        yield

    with pytest.raises(ConfigError, match="no classification head"):
        evaluate(make_predictor(num_classes=0), never())


def test_no_usable_picture_is_an_error_that_names_the_first(predictor: Predictor, pictures: list[str]) -> None:
    with pytest.raises(DataError, match=r"none of 1 pictures can be used; .*02\.png"):
        evaluate(predictor, [Labelled(pictures[2], 0)])
    with pytest.raises(DataError, match="no pictures"):
        evaluate(predictor, [])


def test_a_model_that_scores_by_sigmoid_ranks_the_same(pictures: list[str]) -> None:
    labelled = [Labelled(path, 1) for path in pictures[3:10]]
    softmax, sigmoid = (evaluate(make_predictor(scores=how), labelled) for how in ("softmax", "sigmoid"))
    assert (softmax.confusion, softmax.top5) == (sigmoid.confusion, sigmoid.top5)


def test_the_verb_takes_a_predictor_or_a_source_and_draws_the_confusions(predictor: Predictor, tmp_path: Path) -> None:
    folder = small_folder(tmp_path / "model")
    for seed, name in enumerate(NAMES[:3] * 2):
        picture_file(tmp_path / "data" / name / f"{seed}.png", seed=seed)
    plot = tmp_path / "confusion.png"
    from_source = vitkit.evaluate(str(folder), tmp_path / "data", device="cpu", confusion=plot)
    from_predictor = vitkit.evaluate(vitkit.load(folder, device="cpu"), str(tmp_path / "data"), batch_size=1)
    assert from_source.count == from_predictor.count == 6
    assert from_source.confusion == from_predictor.confusion
    with Image.open(plot) as image:
        assert image.format == "PNG" and min(image.size) > 300


def test_options_of_loading_are_refused_beside_a_loaded_model(predictor: Predictor, tmp_path: Path) -> None:
    picture_file(tmp_path / "class a" / "0.png")
    with pytest.raises(ConfigError, match="preset, device: the model is loaded already"):
        vitkit.evaluate(predictor, tmp_path, preset="vit_tiny_patch16_224", device="cpu")


def test_outputs_and_data_are_checked_before_the_model_is_loaded(tmp_path: Path) -> None:
    picture_file(tmp_path / "data" / "class a" / "0.png")
    with pytest.raises(ConfigError, match=r"gone.*make it first"):
        vitkit.evaluate("no/model", tmp_path / "data", confusion=tmp_path / "gone" / "c.png")
    with pytest.raises(DataError, match="isn't there"):
        vitkit.evaluate("no/model", tmp_path / "absent")
