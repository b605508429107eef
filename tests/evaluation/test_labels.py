"""Labels find their classes, or every fault is told before a picture is opened."""

from pathlib import Path

import pytest

from vitkit import DataError
from vitkit.checkpoint.card import imagenet1k
from vitkit.evaluation.labels import Labelled, read_labels

NAMES = ("tench, Tinca tinca", "crane", "goldfish, gold fish", "crane", "maillot", "maillot, tank suit", "7", "eft")
IDS = ("n00", "n01", "n02", "n03", "n04", "n05", "n06", "n07")


def make(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def write_csv(folder: Path, text: str, *pictures: str, encoding: str = "utf-8") -> Path:
    folder.mkdir(exist_ok=True)
    make(folder, *pictures)
    file = folder / "labels.csv"
    file.write_text(text, encoding=encoding)
    return file


def read(source: Path | str) -> list[Labelled]:
    return read_labels(source, NAMES, IDS, len(NAMES))


def fault(source: Path | str) -> str:
    with pytest.raises(DataError) as caught:
        read(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_class_folders_match_by_name_synonym_id_and_index_in_the_order_of_the_listing(tmp_path: Path) -> None:
    make(tmp_path, "n03/a.png", "2/b.jpg", "Tinca tinca/deep/c.JPEG", "tench, Tinca tinca/d.webp", ".hidden/e.png")
    make(tmp_path, "n03/notes.txt", "README.md")
    found = [(Path(item.picture).name, item.label) for item in read(tmp_path)]
    assert found == [("b.jpg", 2), ("c.JPEG", 0), ("a.png", 3), ("d.webp", 0)]


def test_a_single_class_is_enough(tmp_path: Path) -> None:
    assert [item.label for item in read(make(tmp_path, "eft/a.png"))] == [7]


@pytest.mark.parametrize(
    ("label", "index"),
    [
        ("n03", 3),
        ("goldfish, gold fish", 2),
        ("gold fish", 2),
        ("tank suit", 5),
        ("maillot", 4),  # the name of one class before the synonym of another
        ("7", 6),  # a name before an index
        ("6", 6),
        ("03", 3),
    ],
)
def test_a_label_is_an_id_else_a_name_else_a_synonym_else_an_index(tmp_path: Path, label: str, index: int) -> None:
    file = write_csv(tmp_path, f'path,label\na.png,"{label}"\n', "a.png")
    assert read(file) == [Labelled(str(tmp_path / "a.png"), index)]


def test_an_id_wins_over_a_name_of_the_same_spelling(tmp_path: Path) -> None:
    file = write_csv(tmp_path, "path,label\na.png,x\n", "a.png")
    assert read_labels(file, ("x", "y"), ("y", "x"), 2)[0].label == 1


def test_a_synonym_of_several_classes_is_ambiguous_even_if_it_could_be_an_index(tmp_path: Path) -> None:
    file = write_csv(tmp_path, "path,label\na.png,1\n", "a.png")
    with pytest.raises(DataError, match="'1' fits several classes, 0 and 1; say which by index"):
        read_labels(file, ("a, 1", "b, 1"), None, 2)


def test_both_cranes_of_imagenet_are_named_with_the_way_out(tmp_path: Path) -> None:
    ids, names = imagenet1k()
    file = write_csv(tmp_path, "path,label\na.png,crane\nb.png,tench\n", "a.png", "b.png")
    with pytest.raises(
        DataError, match=r"'crane' fits several classes, 134 \(n02012849\) and 517 \(n03126707\); .* id"
    ):
        read_labels(file, names, ids, 1000)


def test_every_class_id_and_unambiguous_name_of_imagenet_finds_its_own_class(tmp_path: Path) -> None:
    ids, names = imagenet1k()
    for number, words in enumerate((ids, names)):
        kept = [(index, word) for index, word in enumerate(words) if word != "crane"]
        rows = "".join(f'{index}.png,"{word}"\n' for index, word in kept)
        folder = tmp_path / str(number)
        file = write_csv(folder, f"path,label\n{rows}", *(f"{index}.png" for index, _ in kept))
        assert [item.label for item in read_labels(file, names, ids, 1000)] == [index for index, _ in kept]


def test_a_model_without_class_names_takes_indices(tmp_path: Path) -> None:
    file = write_csv(tmp_path, "path,label\na.png,4\n", "a.png")
    assert read_labels(file, None, None, 5)[0].label == 4
    with pytest.raises(DataError, match=r"'4' is outside the model's 4 classes; a class goes by .* 0\.\.3"):
        read_labels(file, None, None, 4)


def test_a_csv_from_a_spreadsheet_is_read(tmp_path: Path) -> None:
    text = 'author,label,path\r\nme,n01,"a, b.png"\r\n\r\nyou, "tench, Tinca tinca", sub/c.png\r\n'
    file = write_csv(tmp_path, text, "a, b.png", "sub/c.png", encoding="utf-8-sig")
    assert read(file) == [Labelled(str(tmp_path / "a, b.png"), 1), Labelled(str(tmp_path / "sub/c.png"), 0)]


def test_absolute_paths_and_urls_stay_as_they_are(tmp_path: Path) -> None:
    picture = make(tmp_path / "elsewhere", "a.png") / "a.png"
    file = write_csv(tmp_path / "list", f"path,label\n{picture},0\nhttps://example.org/b.png,2\n")
    assert [item.picture for item in read(file)] == [str(picture), "https://example.org/b.png"]


def test_all_unknown_classes_are_listed_with_the_nearest(tmp_path: Path) -> None:
    said = fault(make(tmp_path, "Goldfish/a.png", "tenhc/b.png", "crane/c.png", "8/d.png", "eft/e.png", "-1/f.png"))
    assert "folder 'Goldfish' is no class of the model; nearest: goldfish" in said
    assert "folder 'tenhc' is no class of the model; nearest: tench" in said
    assert "folder 'crane' fits several classes, 1 (n01) and 3 (n03)" in said
    assert "'8' is outside the model's 8 classes" in said and "'-1' is outside" in said
    assert "'eft'" not in said


def test_faults_beyond_ten_are_counted_and_the_remedy_still_shows(tmp_path: Path) -> None:
    rows = "".join(f"{n}.png,wrong{n}\n" for n in range(13))
    said = fault(write_csv(tmp_path, f"path,label\n{rows}"))
    assert "'wrong9'" in said and "'wrong10'" not in said and "and 3 more; a class goes by its id" in said


def test_an_unknown_label_is_told_once_with_its_lines(tmp_path: Path) -> None:
    said = fault(write_csv(tmp_path, "path,label\na.png,0\nb.png,newt\nc.png,newt\nd.png,newt\n"))
    assert said.count("newt") == 1
    assert "line 3 and 2 more: 'newt'" in said


def test_rows_that_say_too_little_too_much_or_the_same_twice_are_all_listed(tmp_path: Path) -> None:
    text = "path,label\na.png\nb.png,\n,0\nc.png,tench, Tinca tinca\nd.png,0\nd.png,1\n"
    said = fault(write_csv(tmp_path, text, "d.png"))
    assert "line 2 has 1 cells under 2 columns" in said
    assert "line 3 has no label" in said and "line 4 has no path" in said
    assert "line 5 has 3 cells under 2 columns (a comma needs quotes)" in said
    assert "line 7 lists 'd.png' again, after line 6" in said


@pytest.mark.parametrize("header", ["", "file,label", "path;label", "path,path,label", "path, lable"])
def test_a_header_without_one_path_and_one_label_is_refused(tmp_path: Path, header: str) -> None:
    assert "in its header" in fault(write_csv(tmp_path, f"{header}\na.png,0\n", "a.png"))


def test_missing_pictures_are_listed_together(tmp_path: Path) -> None:
    said = fault(write_csv(tmp_path, "path,label\na.png,0\nb.png,0\nc.png,0\n", "b.png"))
    assert "2 of 3 pictures aren't there" in said and "a.png" in said and "c.png" in said and "b.png" not in said
    assert f"paths count from {tmp_path}" in said


def test_a_picture_outside_the_class_folders_and_a_class_folder_without_pictures_are_faults(tmp_path: Path) -> None:
    make(tmp_path, "eft/a.png", "stray.jpg", "n01/notes.txt")
    said = fault(tmp_path)
    assert "'stray.jpg' lies in no class folder" in said
    assert "n01 holds no picture" in said


def test_nothing_to_evaluate_is_an_error_that_says_what_to_give(tmp_path: Path) -> None:
    assert "isn't there" in fault(tmp_path / "gone")
    assert "has no class folders" in fault(make(tmp_path / "empty", "notes.txt"))
    assert "lists no picture" in fault(write_csv(tmp_path / "listed", "path,label\n"))


def test_a_folder_of_pictures_beside_a_csv_points_to_the_csv(tmp_path: Path) -> None:
    file = write_csv(tmp_path, "path,label\na.png,0\n", "a.png")
    assert f"give {file}" in fault(tmp_path)


@pytest.mark.parametrize("content", [b"\xff\xd8\xff\xe0 a JPEG", b'path,label\n"a.png,0\n', "päth".encode("utf-16")])
def test_a_file_that_is_no_csv_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes(content)
    assert "isn't a CSV file in UTF-8" in fault(file)


def test_a_table_of_several_labels_and_its_parts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "path,labels,split\na.png,n01|eft|n01,val\nb.png,,val\nc.png,eft,train\n"
    file = write_csv(tmp_path, text, "a.png", "b.png", "c.png")
    assert [item.label for item in read_labels(file, NAMES, IDS, 8, split="val")] == [(1, 7), ()]
    assert not caplog.text
    assert len(read(file)) == 3 and "says which pictures are in train, val; all are scored" in caplog.text
    with pytest.raises(DataError, match="has no part 'test'; there are train, val"):
        read_labels(file, NAMES, IDS, 8, split="test")
    with pytest.raises(DataError, match="has no part 'val' of pictures"):
        read_labels(make(tmp_path / "folder", "eft/a.png"), NAMES, IDS, 8, split="val")
