"""The doctor's parts against made sets: what is wrong is named once, what is right isn't."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn
from sklearn.datasets import load_digits

import vitkit
from small import picture, picture_file
from vitkit.checkpoint.card import imagenet1k
from vitkit.data import split
from vitkit.data.digests import digest_of
from vitkit.data.doctor import first_look
from vitkit.data.doctor.classes import check_classes
from vitkit.data.doctor.duplicates import check_duplicates, correlate, hash_pictures, near_pairs, same_groups
from vitkit.data.doctor.findings import KINDS, Finding
from vitkit.data.doctor.labels import check_labels, learn_heads
from vitkit.data.doctor.pictures import check_pictures, look
from vitkit.data.doctor.survey import Survey, survey
from vitkit.data.samples import Splits
from vitkit.data.sources.arrays import read_arrays
from vitkit.data.sources.digits import read_digits
from vitkit.data.sources.open import open_data
from vitkit.errors import DataError


def kinds(findings: list[Finding]) -> list[str]:
    assert all(finding.kind in KINDS and "\n" not in finding.message for finding in findings)
    return sorted(finding.kind for finding in findings)


def names(counts: dict[str, dict[str, int]]) -> Survey:
    """A survey of part -> class -> so many pictures that nobody looks at."""
    class_names = sorted({name for part in counts.values() for name in part})
    rows = [
        (p, class_names.index(name))
        for p, part in enumerate(counts.values())
        for name, n in part.items()
        for _ in range(n)
    ]
    parts, labels = np.array(rows).T
    samples = read_arrays([np.zeros((1, 1), np.uint8)] * len(labels), labels, class_names)
    return Survey(samples, parts, tuple(counts))


def test_a_folder_is_read_past_its_faults(tmp_path: Path) -> None:
    for number in range(5):
        picture_file(tmp_path / f"rose/{number}.png", seed=number)
        picture_file(tmp_path / f"tulip/deep/{number}.png", seed=10 + number)
    (tmp_path / "daisy").mkdir()
    (tmp_path / "rose/notes.txt").write_text("watered on Monday")
    picture_file(tmp_path / "loose.jpg")
    (tmp_path / ".hidden").mkdir()
    found = survey(tmp_path)
    assert found.samples.class_names == ("rose", "tulip") and found.part_names == ("",)
    assert kinds(list(found.findings)) == ["empty_class", "loose", "other_file"]


def test_other_sources_are_refused_as_training_refuses_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="isn't there"):
        survey(tmp_path / "absent")
    with pytest.raises(DataError, match="has no class folders"):
        survey(tmp_path)


def test_parts_are_one_list(tmp_path: Path) -> None:
    for part, count in {"train": 3, "valid": 2, "test": 1}.items():
        for name in ("rose", "tulip"):
            for number in range(count):
                picture_file(tmp_path / part / name / f"{number}.png", seed=number)
    found = survey(tmp_path)
    assert found.part_names == ("train", "valid", "test")
    assert found.counts().tolist() == [[3, 3], [2, 2], [1, 1]]
    arrays = read_arrays(np.zeros((4, 9, 9), np.uint8), [0, 1, 0, 1], ["a", "b"])
    assert survey(Splits(arrays, None, arrays.subset(np.array([1]), "t"))).counts().tolist() == [[2, 2], [0, 1]]


@pytest.mark.parametrize(
    "counts, expected",
    [
        ({"": {"daisy": 9, "rose": 9}}, []),
        ({"": {"rose": 9}}, ["classes"]),
        ({"": {"red rose": 9, "Red_Rose": 9, "tulip": 9}}, ["spelling"]),
        ({"": {"a": 9, "A": 9}}, []),  # letters may well be classes
        ({"": {"dandelion": 50, "dandelon": 6, "rose": 50}}, ["typo"]),
        ({"": {"dandelion": 50, "dandeloin": 6, "rose": 50}}, ["typo"]),
        ({"": {"dandelion": 50, "dandelon": 40}}, []),  # as usual as the other
        ({"": {"class_1": 50, "class_2": 6}}, []),  # numbers aren't misspelt
        ({"": {"daisy": 90, "rose": 9}}, ["imbalance"]),
        ({"": {"daisy": 9, "rose": 4}}, ["few"]),
        ({"train": {"daisy": 9, "rose": 9}, "val": {"daisy": 2}}, ["absent"]),
        ({"train": {"daisy": 9, "rose": 9}, "val": {"daisy": 2, "rose": 2, "tulip": 3}}, ["stranger"]),
    ],
)
def test_classes(counts: dict[str, dict[str, int]], expected: list[str]) -> None:
    assert kinds(check_classes(names(counts))) == expected


def test_one_class_is_enough_where_a_picture_may_bear_none() -> None:
    samples = read_arrays(np.zeros((9, 1, 1), np.uint8), np.arange(9)[:, None] < 5, ["rust"])
    assert check_classes(survey(samples)) == []


def test_no_name_of_imagenet_is_misspelt() -> None:
    class_names = sorted(set(imagenet1k()[1]))
    assert check_classes(names({"": dict.fromkeys(class_names, 5)})) == []


def test_single_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        picture_file(tmp_path / f"rose/{number}.png", 400, 500, seed=number)
    picture_file(tmp_path / "rose/small.png", 40, 50)
    Image.new("RGB", (300, 300), "red").save(tmp_path / "rose/blank.png")
    Image.new("RGB", (400, 7), "red").save(tmp_path / "rose/tiny.png")
    monkeypatch.setattr("vitkit.data.doctor.pictures.HUGE", 300_000)
    picture_file(tmp_path / "rose/huge.png", 601, 500)
    picture(400, 500).convert("CMYK").save(tmp_path / "rose/cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(400, 300).save(tmp_path / "rose/turned.jpg", exif=exif)
    (tmp_path / "rose/empty.jpg").touch()
    (tmp_path / "rose/words.jpg").write_text("words")
    samples = survey(tmp_path).samples
    seen = look(samples)
    found = {
        (finding.kind, Path(samples.describe(*finding.pictures)).stem) for finding in check_pictures(samples, seen)
    }
    single = {("small", "small"), ("tiny", "tiny"), ("huge", "huge"), ("cmyk", "cmyk"), ("turned", "turned")}
    assert found == single | {("blank", "blank"), ("unreadable", "empty"), ("unreadable", "words")}
    turned = next(at for at in range(len(samples)) if "turned" in samples.describe(at))
    assert seen.sizes[turned].tolist() == [300, 400]


def thumbnails(*pictures: Image.Image) -> np.ndarray:
    return np.stack([np.asarray(each.convert("L").resize((32, 32), Image.Resampling.BOX)) for each in pictures])


def scenes(count: int) -> list[Image.Image]:
    """Different pictures with detail of every size, as photos have."""
    waves = np.random.default_rng(0).standard_normal((count, 96, 128, 3))
    fall = 1 / (1e-2 + np.hypot(*np.meshgrid(np.fft.fftfreq(96), np.fft.fftfreq(128), indexing="ij")))
    smooth = np.fft.ifft2(np.fft.fft2(waves, axes=(1, 2)) * fall[None, :, :, None], axes=(1, 2)).real
    smooth -= smooth.min(axis=(1, 2, 3), keepdims=True)
    return [
        Image.fromarray(each) for each in (255 * smooth / smooth.max(axis=(1, 2, 3), keepdims=True)).astype(np.uint8)
    ]


def test_the_hash_is_the_sign_of_scipys_cosine_transform() -> None:
    small = thumbnails(*scenes(5))
    spectrum = dctn(small.astype(float), axes=(1, 2))[:, :8, :8].reshape(5, -1)
    # scipy's orthogonal scaling differs in the first row and column; signs against the median need the plain one
    low = spectrum[:, 1:]
    bits = np.unpackbits(hash_pictures(small)[:, None].view(np.uint8), axis=1)[:, :63]
    assert (bits == (low > np.median(low, axis=1, keepdims=True))).all()


def test_a_crop_correlates_once_it_is_aligned() -> None:
    whole = scenes(6)
    cropped = [each.crop((6, 4, 122, 93)).resize((90, 70)) for each in whole]
    left, right = thumbnails(*whole), thumbnails(*cropped)
    assert (correlate(left, right) > 0.97).all()
    assert (correlate(left, right, steps=1) < 0.9).all()  # as they lie
    assert (correlate(left, np.roll(left, 1, axis=0)) < 0.8).all()
    assert np.allclose(correlate(left, left // 2 + 60), 1, atol=1e-3)  # another brightness and contrast


def test_near_pairs_are_the_planted_ones() -> None:
    whole = scenes(100)
    changed = [each.crop((5, 2, 125, 92)).resize((200, 130)).convert("L") for each in whole[:20]]
    assert near_pairs(thumbnails(*whole, *changed)).tolist() == [[at, 100 + at] for at in range(20)]


@pytest.mark.parametrize("content", [None, b"", b"not a picture"], ids=["small", "empty", "text"])
def test_sets_without_a_picture_to_compare_are_checked(content: bytes | None, tmp_path: Path) -> None:
    for at in range(8):
        file = picture_file(tmp_path / "ab"[at % 2] / f"{at}.png", 28, 28, seed=at)
        if content is not None:
            file.write_bytes(content)
    findings = vitkit.check(tmp_path).findings
    assert {finding.kind for finding in findings} <= {"few", "unreadable", "same", "same_across_classes"}


def test_features_propose_pairs_that_hashes_miss() -> None:
    whole = scenes(2)
    deep = [whole[0], whole[0].crop((11, 8, 120, 91)), whole[1]]  # a seventh cut off
    features = np.array([[1, 0], [0.99, 0.01], [0, 1]], np.float32)
    assert near_pairs(thumbnails(*deep)).tolist() == []
    assert near_pairs(thumbnails(*deep), features).tolist() == [[0, 1]]


def test_groups_are_named_by_where_they_reach(tmp_path: Path) -> None:
    whole = scenes(4)
    for number, (part, name) in enumerate([("train", "a"), ("train", "b"), ("test", "b"), ("test", "a")]):
        (tmp_path / part / name).mkdir(parents=True)
        whole[number].save(tmp_path / part / name / "own.png")
    whole[0].save(tmp_path / "train/a/again.png")
    whole[1].save(tmp_path / "train/a/other.png")
    whole[1].resize((200, 150)).save(tmp_path / "test/b/resized.png")
    found = survey(tmp_path)
    findings = check_duplicates(found, look(found.samples))
    assert kinds(findings) == ["alike_across_parts", "same", "same_across_classes"]
    told = {finding.kind: finding.message for finding in findings}
    assert told["same_across_classes"].startswith("under 'a' and 'b', in train: ")
    assert told["alike_across_parts"].startswith("under 'a' and 'b', in train and test: ")


def test_equal_digests_are_groups() -> None:
    assert same_groups([b"x", b"y", b"x", b"", b"", b"z", b"y", b"x"]) == [(0, 2, 7), (1, 6)]


def test_digits_with_swapped_labels_are_suspected_by_their_own_shapes() -> None:
    digits = read_digits()
    rng = np.random.default_rng(0)
    swapped = rng.choice(len(digits), 40, replace=False)
    labels = digits.labels.copy()
    labels[swapped] = (labels[swapped] + rng.integers(1, 10, 40)) % 10
    found = survey(read_arrays(digits.pictures, labels, digits.class_names))
    judged = check_labels(found, look(found.samples), limit=100)
    rather = {finding.pictures[0]: finding.class_name for finding in judged.findings}
    assert len(set(list(rather)[:60]) & set(swapped.tolist())) >= 36
    righted = [digits.class_names[digits.labels[at]] == name for at, name in rather.items() if at in swapped]
    assert np.mean(righted) > 0.9
    assert "own colours and shapes" in judged.told


def test_labels_are_left_alone_where_nothing_tells_the_classes_apart() -> None:
    rng = np.random.default_rng(0)
    noise = read_arrays(rng.integers(0, 256, (200, 9, 9), dtype=np.uint8), rng.integers(0, 2, 200), ["a", "b"])
    found = survey(noise)
    judged = check_labels(found, look(noise))
    assert judged.findings == () and "no label was doubted; give a model (--model)" in judged.told
    few = survey(noise.subset(np.arange(4), "few"))
    assert "takes two classes" in check_labels(few, look(few.samples)).told


def test_heads_agree_with_scikit_learns_regression_out_of_sample() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import KFold, cross_val_predict

    bundle = load_digits()
    heads = learn_heads(bundle.data.astype(np.float32), bundle.target, np.arange(len(bundle.target)), 10)
    theirs = cross_val_predict(
        LogisticRegression(C=0.5, max_iter=2000),
        bundle.data / 6,
        bundle.target,
        cv=KFold(5, shuffle=True, random_state=0),
    )
    ours = heads.logits.argmax(axis=1)
    assert abs((ours == bundle.target).mean() - (theirs == bundle.target).mean()) < 0.03
    assert (ours == theirs).mean() > 0.95
    assert (heads.margins[ours == bundle.target] > 0).mean() > 0.95


def test_equal_pictures_are_judged_by_heads_that_know_neither() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((60, 200)).astype(np.float32)
    twice = np.concatenate([features, features])
    labels = rng.integers(0, 2, 60)
    known = learn_heads(twice, np.tile(labels, 2), np.arange(120), 2).logits.argmax(axis=1)
    unknown = learn_heads(twice, np.tile(labels, 2), np.tile(np.arange(60), 2), 2).logits.argmax(axis=1)
    assert (known == np.tile(labels, 2)).mean() > 0.8 > (unknown == np.tile(labels, 2)).mean() + 0.2


def test_training_is_warned_of_shared_files_and_doubtful_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for part, start in {"train": 0, "val": 10}.items():
        for name in ("rose", "Rose"):
            for number in range(3):
                picture_file(
                    tmp_path / part / name / f"{number}.png", seed=start + number + 100 * len(name) * ord(name[0])
                )
    picture_file(tmp_path / "val/rose/leak.png", seed=100 * len("rose") * ord("r"))
    with caplog.at_level(logging.WARNING):
        first_look.warn(open_data(tmp_path))
    names_told, leak_told = caplog.messages
    assert "'Rose' (6 pictures) and 'rose' (7 pictures) look like one name" in names_told
    assert "in train and val: " in leak_told and "leak.png" in leak_told
    caplog.clear()
    (tmp_path / "val/rose/leak.png").unlink()
    for part in ("train", "val"):
        (tmp_path / part / "Rose").rename(tmp_path / part / "tulip")
    first_look.warn(open_data(tmp_path))
    assert caplog.messages == []


def test_training_reads_files_of_equal_size_in_several_parts_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = {"train/a/1": 30, "train/a/2": 30, "train/b/1": 40, "train/b/2": 50, "val/a/1": 60, "val/b/1": 40}
    for name, size in sizes.items():
        file = tmp_path / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * size)
    read = []
    monkeypatch.setattr(split, "digest_of", lambda picture: (read.append(picture), digest_of(picture))[1])
    first_look.warn(open_data(tmp_path))
    assert sorted(read) == [str(tmp_path / name) for name in ("train/b/1.png", "val/b/1.png")]
    [told] = caplog.messages
    assert "in train and val: " in told and all(file in told for file in read)
