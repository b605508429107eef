"""The Predictor: the same answer however a picture comes, in bounded memory, with errors in their place."""

import copy
import gc
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
import torch
from PIL import Image

import vitkit
from small import NAMES, PREPROCESS, picture, picture_file, small_folder, small_model
from vitkit import ConfigError, EngineError, ImageError, Predictor, Preprocess
from vitkit.engine import predict
from vitkit.engine.predict import Answer, best_first, probabilities
from vitkit.engine.torch_engine import TorchEngine
from vitkit.image.preprocess import apply, fit
from vitkit.image.quick_fit import decode_for

GREY = Preprocess(
    size=32, resize="squash", crop="none", interpolation="bilinear", mean=(0.4,), std=(0.3,), order="resize_first"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_folder(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def vit(folder: Path) -> Predictor:
    return vitkit.load(folder, device="cpu", exact=True)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for seed in range(5):
        picture_file(tmp_path / "d" / f"{seed}.png", seed=seed)
    return tmp_path / "d"


def plain_logits(vit: Predictor, image: Image.Image) -> torch.Tensor:
    """The answer by the shortest way: preprocessing and the module, one picture, nothing between."""
    with torch.inference_mode():
        return vit.module(torch.from_numpy(apply(PREPROCESS, np.asarray(image)))[None])[0]


def test_a_distilled_model_answers_by_both_heads(tmp_path: Path) -> None:
    vit = vitkit.load(small_folder(tmp_path / "m", distillation_token=True), device="cpu", exact=True)
    pixels = torch.from_numpy(apply(PREPROCESS, np.asarray(picture())))[None]
    with torch.inference_mode():
        tokens = vit.module.features(pixels).prefix_tokens
        logits = (vit.module.head(tokens[:, 0]) + vit.module.head_dist(tokens[:, 1])) / 2
    expected = scipy.special.softmax(logits[0].double().numpy())
    found = [(each.index, each.probability) for each in vit.classify(picture(), top=7)]
    assert found == [(at, pytest.approx(expected[at], rel=1e-5)) for at in np.argsort(-expected)]


def test_classify_is_softmax_of_the_modules_logits_best_first(vit: Predictor) -> None:
    image = picture(seed=3)
    expected = scipy.special.softmax(plain_logits(vit, image).double().numpy())
    found = vit.classify(image, top=7)
    assert [p.index for p in found] == list(np.argsort(-expected))
    assert [p.class_name for p in found] == [NAMES[p.index] for p in found]
    np.testing.assert_allclose([p.probability for p in found], expected[[p.index for p in found]], rtol=1e-5)
    assert sum(p.probability for p in found) == pytest.approx(1, abs=1e-12)


def test_top_is_five_at_most_all_and_at_least_one(vit: Predictor) -> None:
    assert [len(vit.classify(picture(), **top)) for top in ({}, {"top": 1}, {"top": 7}, {"top": 99})] == [5, 1, 7, 7]
    assert vit.classify(picture(), top=99)[:3] == vit.classify(picture(), top=3)
    with pytest.raises(ConfigError, match="top is 0; at least 1"):
        vit.classify(picture(), top=0)


def test_equal_probabilities_keep_the_order_of_the_classes(vit: Predictor) -> None:
    answer = Answer("x", logits=np.array([1, 2, 1, 2, 0, 2, 1], np.float32))
    assert [p.index for p in vit.predictions(answer, top=7)] == [1, 3, 5, 0, 2, 6, 4]
    assert [p.index for p in vit.predictions(Answer("x", logits=np.zeros(7, np.float32)), top=7)] == list(range(7))


@pytest.mark.parametrize("top", [1, 2, 5, 8, 9])
def test_the_best_are_those_of_a_stable_sort_of_all(top: int) -> None:
    for levels in (1, 2, 3, 100):
        chances = np.random.default_rng(levels).integers(0, levels, (200, 8)) / levels
        for row in chances:
            assert best_first(row, top).tolist() == sorted(range(8), key=lambda at: -row[at])[:top]


def test_probabilities_are_scipys_for_extreme_logits_too() -> None:
    logits = np.random.default_rng(0).normal(scale=50, size=(20, 30)).astype(np.float32)
    logits[0, :3] = 3e38, -3e38, 0
    wide = logits.astype(np.float64)
    np.testing.assert_allclose(probabilities(logits, "softmax"), scipy.special.softmax(wide, axis=-1), rtol=1e-12)
    np.testing.assert_allclose(probabilities(logits, "sigmoid"), scipy.special.expit(wide), rtol=1e-12)


def test_sigmoid_models_rate_each_class_alone(folder: Path) -> None:
    import dataclasses

    one = vitkit.load(folder, device="cpu", exact=True)
    one.card = dataclasses.replace(one.card, scores="sigmoid")
    image = picture(seed=1)
    expected = scipy.special.expit(plain_logits(one, image).double().numpy())
    found = one.classify(image, top=7)
    np.testing.assert_allclose([p.probability for p in found], np.sort(expected)[::-1], rtol=1e-5)
    assert sum(p.probability for p in found) != pytest.approx(1, abs=1e-3)


def test_unnamed_classes_go_by_their_index(folder: Path) -> None:
    vit = vitkit.load(folder, num_classes=3)
    assert [(p.class_name, p.probability) for p in vit.classify(picture())] == [(str(i), 1 / 3) for i in range(3)]


def test_one_picture_gives_one_answer_in_every_form(vit: Predictor, tmp_path: Path) -> None:
    path = picture_file(tmp_path / "p.png", seed=2)
    image = picture(seed=2)
    array = np.asarray(image)
    forms: list[Any] = [
        str(path), path, path.read_bytes(), image, array, np.asfortranarray(array),
        torch.from_numpy(array.copy()).permute(2, 0, 1),
    ]  # fmt: skip
    expected = vit.classify(path)
    assert isinstance(expected, list) and isinstance(expected[0], vitkit.Prediction)
    for form in forms:
        assert vit.classify(form) == expected
        assert vit.embed(form).shape == (32,) and vit.embed(form).dtype == np.float32
        np.testing.assert_array_equal(vit.embed(form), vit.embed(path))


def test_many_pictures_give_one_answer_each_in_every_form(vit: Predictor, pictures: Path) -> None:
    paths = sorted(pictures.iterdir())
    arrays = [np.asarray(Image.open(path)) for path in paths]
    expected = vit.classify(paths)
    assert len(expected) == 5 and all(len(found) == 5 for found in expected)
    stack = np.stack(arrays)
    forms: list[Any] = [
        pictures, str(pictures), tuple(paths), (path for path in paths), arrays, stack,
        torch.from_numpy(stack).permute(0, 3, 1, 2),
    ]  # fmt: skip
    for form in forms:
        assert vit.classify(form) == expected
    assert vit.embed(pictures).shape == (5, 32)
    np.testing.assert_array_equal(vit.embed(stack), vit.embed(pictures))
    assert vit.classify(paths[:1]) == [vit.classify(paths[0])]


def test_no_pictures_give_no_answers(vit: Predictor) -> None:
    assert vit.classify([]) == [] and list(vit.answers([])) == []
    assert vit.embed([]).shape == (0, 32) and vit.embed(np.zeros((0, 9, 9, 3), np.uint8)).shape == (0, 32)


def test_answers_takes_one_picture_or_a_folder_as_well(vit: Predictor, pictures: Path) -> None:
    """A path is a string, and a string could be taken for many one-letter paths."""
    path = str(pictures / "0.png")
    assert [answer.picture for answer in vit.answers(path)] == [path]
    assert [answer.picture for answer in vit.answers(pictures)] == [str(pictures / f"{n}.png") for n in range(5)]


def test_answers_has_errors_in_their_place_and_goes_on(vit: Predictor, pictures: Path) -> None:
    (pictures / "1.png").write_bytes(b"")
    given: list[Any] = [*sorted(pictures.iterdir()), "missing.png", b"junk", None, np.zeros((3, 3), np.float32)]
    for batch_size in (1, 2, 3, 100):
        answers = list(vit.answers(given, batch_size=batch_size))
        assert [answer.error is None for answer in answers] == [True, False, True, True, True] + [False] * 4
        assert all(
            (answer.logits is None) == (answer.error is not None) == (answer.embedding is None) for answer in answers
        )
        assert [answer.picture for answer in answers[:6]] == [str(item) for item in given[:6]]
        assert all(isinstance(answer.error, ImageError) and "\n" not in str(answer.error) for answer in answers[5:])
        for answer, path in zip(answers[:5:2], given[:5:2], strict=True):
            assert answer.logits is not None
            np.testing.assert_allclose(answer.logits, plain_logits(vit, Image.open(path)).numpy(), rtol=1e-4, atol=1e-5)


def test_classify_and_embed_raise_the_first_pictures_error(vit: Predictor, pictures: Path) -> None:
    (pictures / "2.png").write_bytes(b"")
    (pictures / "3.png").write_bytes(b"junk")
    for verb in (vit.classify, vit.embed):
        with pytest.raises(ImageError, match=r"2\.png is empty"):
            verb(pictures)
        with pytest.raises(ImageError, match=r"missing\.png doesn't exist"):
            verb("missing.png")
        with pytest.raises(ImageError, match="is no picture"):
            verb(None)  # type: ignore[arg-type]


def test_an_error_keeps_no_pixels_alive(vit: Predictor, tmp_path: Path) -> None:
    """A broken picture is half decoded when it fails; its error may be kept for long."""
    picture_file(tmp_path / "cut.jpg", 600, 600)
    content = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    gc.collect()
    kept = list(vit.answers([tmp_path / "cut.jpg"] * 3))
    assert [answer.error is not None for answer in kept] == [True] * 3
    alive = [thing for thing in gc.get_objects() if issubclass(type(thing), Image.Image)]
    assert not [image for image in alive if image.size == (600, 600)]


class Tracked(np.ndarray[Any, Any]):
    """An array can't be referred to weakly, a subclass can."""


class Quick:
    """An engine that only sees to the size of its batches; `parts` of it are told apart."""

    name = "quick"

    def __init__(self, vit: Predictor, sharing: bool) -> None:
        self.input, self.sharing = vit.engine.input, sharing
        self.parts: list[int] = []

    def shared(self, calls: int) -> "Quick":
        self.parts.append(calls)
        return copy.copy(self) if self.sharing else self

    def run(self, pixels: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
        assert len(pixels) == 4
        return {"embedding": pixels[:, 0, 0, :].astype(np.float32)}


class Counting(Quick):
    """One that takes batches of any size, and remembers them."""

    def __init__(self, vit: Predictor, sharing: bool) -> None:
        super().__init__(vit, sharing)
        self.sizes: list[int] = []

    def run(self, pixels: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
        self.sizes.append(len(pixels))
        return {"embedding": pixels[:, 0, 0, :].astype(np.float32)}


@pytest.fixture
def threads() -> Iterator[int]:
    """Torch's threads, which the test may set."""
    found = torch.get_num_threads()
    yield found
    torch.set_num_threads(found)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("sharing", [True, False])
def test_thousands_stream_through_and_few_are_held(vit: Predictor, sharing: bool) -> None:
    """Of 3,000 pictures cores + 3 batches at most are drawn but not yet answered; few are held as they came."""
    torch.set_num_threads(3)
    drawn: list[weakref.ref[Tracked]] = []
    answered = most_waiting = most_held = 0

    def stream() -> Iterator[Any]:
        nonlocal most_waiting, most_held
        for number in range(3000):
            item = np.full((32, 32, 3), number % 251, np.uint8).view(Tracked)
            drawn.append(weakref.ref(item))
            most_waiting = max(most_waiting, len(drawn) - answered)
            most_held = max(most_held, sum(reference() is not None for reference in drawn[-60:]))
            yield item
            del item

    engine = Quick(vit, sharing)
    predictor = Predictor(vit.module, engine, vit.card, vit.report)
    for answer in predictor.answers(stream(), batch_size=4):
        assert answer.error is None and answer.embedding is not None
        assert answer.embedding[0] == answered % 251
        answered += 1
    assert (len(drawn), answered, engine.parts) == (3000, 3000, [3])
    assert 4 < most_waiting <= (3 + 3) * 4 + 3
    assert 1 <= most_held <= 3 + 4 + 1


@pytest.mark.usefixtures("threads")
def test_one_batch_is_run_by_all_cores_and_one_picture_in_the_callers_thread(
    vit: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(3)
    threads: list[threading.Thread] = []
    whole = vit.engine.run
    monkeypatch.setattr(vit.engine, "run", lambda crops: threads.append(threading.current_thread()) or whole(crops))

    def decode(*given: Any, **named: Any) -> Any:
        threads.append(threading.current_thread())
        return decode_for(*given, **named)

    monkeypatch.setattr(predict, "decode_for", decode)
    vit.classify(picture())
    assert threads == [threading.main_thread()] * 2
    vit.embed(picture(seed=seed) for seed in range(8))
    assert threads[-1] == threading.main_thread() and threading.main_thread() not in threads[2:-1]
    assert len(threads) == 2 + 8 + 1
    vit.embed([picture(seed=seed) for seed in range(9)])  # two batches, by engines that share the cores
    assert len(threads) == 2 + 8 + 1 + 9 and not [
        thread for thread in threading.enumerate() if thread.name.startswith("vitkit")
    ]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("batch_size", "part"), [(2, 2), (8, 4), (16, 6)])
def test_cores_share_a_batch_in_parts_of_four_or_more(vit: Predictor, batch_size: int, part: int) -> None:
    torch.set_num_threads(3)
    stream = [np.full((32, 32, 3), number, np.uint8) for number in range(48)]
    engine = Counting(vit, True)
    found = Predictor(vit.module, engine, vit.card, vit.report).embed(stream, batch_size=batch_size)
    assert engine.sizes == [part] * (48 // part) and found[:, 0].tolist() == list(range(48))


@pytest.mark.usefixtures("threads")
def test_an_engines_error_reaches_the_caller_after_the_answers_before_it(vit: Predictor) -> None:
    torch.set_num_threads(2)

    class Breaking(Quick):
        def run(self, pixels: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
            if pixels.min() == 9:
                raise EngineError("batch 9 breaks")
            return super().run(pixels)

    stream = (np.full((32, 32, 3), number, np.uint8) for number in range(20) for _ in range(4))
    answers = Predictor(vit.module, Breaking(vit, True), vit.card, vit.report).answers(stream, batch_size=4)
    assert [next(answers).error for _ in range(9 * 4)] == [None] * 36
    with pytest.raises(EngineError, match="batch 9 breaks"):
        next(answers)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vitkit")]
    assert len(list(stream)) > 4 * 4  # nor was the rest of the stream drawn


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("drawn", [3, 6])
def test_a_streams_error_comes_after_the_answers_and_an_interrupt_at_once(vit: Predictor, drawn: int) -> None:
    torch.set_num_threads(2)
    predictor = Predictor(vit.module, Counting(vit, True), vit.card, vit.report)

    def stream(error: BaseException) -> Iterator[Any]:
        yield from np.zeros((drawn, 32, 32, 3), np.uint8)
        raise error

    answers = predictor.answers(stream(OSError("no more")), batch_size=4)
    assert [next(answers).error for _ in range(drawn)] == [None] * drawn
    with pytest.raises(OSError, match="no more"):
        next(answers)
    with pytest.raises(KeyboardInterrupt):
        next(predictor.answers(stream(KeyboardInterrupt()), batch_size=4))


def test_by_ones_a_picture_may_depend_on_the_answer_before_it(vit: Predictor) -> None:
    """A camera that is turned by what was seen."""
    answered: list[Answer] = []

    def camera() -> Iterator[Image.Image]:
        for number in range(20):
            assert len(answered) == number
            yield picture(seed=number)

    for answer in vit.answers(camera(), batch_size=1):
        answered.append(answer)
    assert len(answered) == 20


def test_threads_that_begin_after_an_answer_have_all_cores(vit: Predictor, threads: int) -> None:
    torch.set_num_threads(threads + 2)
    vit.classify([picture(seed=seed) for seed in range(20)])
    seen: list[int] = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [torch.get_num_threads()] == [threads + 2]


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_has_at_least_one_picture(vit: Predictor, batch_size: int) -> None:
    for call in (vit.classify, vit.embed):
        with pytest.raises(ConfigError, match=f"batch_size is {batch_size}; at least 1"):
            call([picture()], batch_size=batch_size)


def test_batches_of_any_size_agree(vit: Predictor) -> None:
    many = [picture(20 + seed, 60 - seed, seed=seed) for seed in range(19)]
    alone = vit.embed(many, batch_size=1)
    for batch_size in (2, 8, 100):
        together = vit.embed(many, batch_size=batch_size)
        assert np.abs(together - alone).max() <= 1e-5 * np.abs(alone).max()


def test_answers_dont_change_with_use_nor_with_copies(vit: Predictor) -> None:
    first = vit.embed([picture(seed=n) for n in range(3)])
    state = {name: tensor.clone() for name, tensor in vit.module.state_dict().items()}
    twin = copy.deepcopy(vit)
    vit.classify(picture(seed=9))
    vit.embed(np.zeros((8, 8, 3), np.uint8))
    with torch.no_grad():
        twin.module.norm.bias.add_(1)  # type: ignore[union-attr, operator]
    np.testing.assert_array_equal(vit.embed([picture(seed=n) for n in range(3)]), first)
    assert all(torch.equal(tensor, state[name]) for name, tensor in vit.module.state_dict().items())
    assert not np.array_equal(twin.embed([picture(seed=n) for n in range(3)]), first)


def test_given_pixels_are_left_as_they_are(vit: Predictor) -> None:
    array = np.asarray(picture(32, 32)).copy()
    array.flags.writeable = False
    before = array.copy()
    vit.classify(array)
    np.testing.assert_array_equal(array, before)


def test_preprocess_is_what_the_module_takes(vit: Predictor, pictures: Path) -> None:
    pixels = vit.preprocess(pictures / "0.png")
    assert pixels.shape == (3, 32, 32) and pixels.dtype == torch.float32
    np.testing.assert_array_equal(pixels.numpy(), apply(PREPROCESS, np.asarray(picture(seed=0))))
    with torch.inference_mode():
        logits = vit.module(pixels[None])[0].double().numpy()
    expected = scipy.special.softmax(logits)
    found = vit.classify(pictures / "0.png", top=7)
    np.testing.assert_allclose([p.probability for p in found], np.sort(expected)[::-1], rtol=1e-5)


@pytest.mark.parametrize(("preprocess", "channels"), [(PREPROCESS, 3), (GREY, 1)])
def test_the_engine_normalises_as_preprocessing_does_to_the_bit(preprocess: Preprocess, channels: int) -> None:
    module = small_model(in_channels=channels)
    engine = TorchEngine(module, preprocess, device=torch.device("cpu"), dtype=torch.float32)
    seen: list[torch.Tensor] = []
    module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    module.patch_embed.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    # Every level of every channel, in a picture of the model's own size and in one that is resized.
    levels = np.arange(32 * 32 * channels).reshape(32, 32, channels).astype(np.uint8)
    shapes = [levels, np.random.default_rng(0).integers(0, 256, (45, 70, channels), dtype=np.uint8)]
    engine.run(np.stack([fit(preprocess, shape) for shape in shapes]))
    expected = np.stack([apply(preprocess, shape) for shape in shapes])
    assert len(seen) == 1 and seen[0].is_contiguous()
    np.testing.assert_array_equal(seen[0].numpy(), expected)
    assert (engine.input.dtype, engine.input.channels, engine.input.size) == ("uint8", channels, (32, 32))


def test_preprocessing_in_floats_reaches_the_module_as_it_is() -> None:
    import dataclasses

    squash = Preprocess(
        size=32, resize="squash", crop="none", interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    preprocess = dataclasses.replace(squash, order="rescale_first")
    module = small_model()
    engine = TorchEngine(module, preprocess, device=torch.device("cpu"), dtype=torch.float32)
    assert engine.input.dtype == "float32"
    pictures = [np.asarray(picture(seed=seed)) for seed in range(2)]
    with torch.inference_mode():
        expected = module(torch.from_numpy(np.stack([apply(preprocess, one) for one in pictures]))).numpy()
    crops = np.stack([fit(preprocess, one) for one in pictures])
    np.testing.assert_allclose(engine.run(crops)["logits"], expected, rtol=1e-5, atol=1e-6)


def test_an_answer_that_isnt_a_number_is_an_error_that_names_the_engine(vit: Predictor) -> None:
    for name in ("head.bias", "norm.weight"):
        broken = copy.deepcopy(vit)
        with torch.no_grad():
            broken.module.get_parameter(name)[0] = float("inf")
        with pytest.raises(EngineError, match=r"^torch float32 on cpu: the \w+ holds values that aren't finite"):
            broken.classify(picture())


def test_running_out_of_memory_names_the_batch_and_the_remedy(vit: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    def on_the_cpu(*inputs: Any) -> Any:
        return torch.empty(10**15)

    def on_an_accelerator(*inputs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    for embed in (on_the_cpu, on_an_accelerator):
        monkeypatch.setattr(vit.module, "embed", embed)
        with pytest.raises(EngineError, match=r"no memory for 3 pictures at once; choose a smaller batch size"):
            vit.embed([picture()] * 3)
    monkeypatch.setattr(vit.module, "embed", lambda pixels: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):  # a fault of ours isn't dressed up
        vit.embed(picture())


def test_a_model_without_a_head_embeds_and_refuses_to_classify(tmp_path: Path) -> None:
    small_model(num_classes=0).save_pretrained(tmp_path / "m", preprocess=PREPROCESS)
    vit = vitkit.load(tmp_path / "m")
    with pytest.raises(ConfigError, match="no classification head; embed with it"):
        vit.classify("missing.png")
    assert vit.embed(picture()).shape == (32,)
    [answer] = vit.answers([picture()])
    assert answer.logits is None and answer.error is None
    with pytest.raises(EngineError, match="has no logits"):
        vit.predictions(answer, top=1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_reduced_precision_answers_nearly_the_same_and_says_so(folder: Path, vit: Predictor, dtype: str) -> None:
    reduced = vitkit.load(folder, device="cpu", dtype=dtype)
    assert reduced.engine.name == f"torch {dtype} on cpu" and dtype in repr(reduced)
    ours, exact = reduced.embed(picture()), vit.embed(picture())
    assert ours.dtype == np.float32
    assert 0 < np.abs(ours - exact).max() < 0.05 * np.abs(exact).max()


def test_it_says_what_it_is(vit: Predictor, folder: Path) -> None:
    assert repr(vit) == f"Predictor({str(folder)!r}, torch float32 on cpu, exact, 7 classes)"
    assert vit.class_names == NAMES and vit.spec == small_model().spec
