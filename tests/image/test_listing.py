"""Folders and patterns become the pictures they hold, in order, and say what they leave out."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from vitkit.errors import DataError
from vitkit.image.listing import list_pictures


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    for name in (
        "b.jpg",
        "a.PNG",
        "notes.txt",
        ".hidden.jpg",
        "sub/c.jpeg",
        "sub/deep/d.webp",
        ".git/e.jpg",
        "z/x.csv",
    ):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    yield tmp_path / "set"


def names(paths: Iterator[str], folder: Path) -> list[str]:
    return [Path(path).relative_to(folder).as_posix() for path in paths]


def test_a_folder_gives_its_pictures_and_counts_the_rest(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "vitkit"):
        found = names(list_pictures([str(folder)]), folder)
    assert found == ["a.PNG", "b.jpg", "sub/c.jpeg", "sub/deep/d.webp"]
    assert caplog.messages == [f"2 other files in {folder}"]


def test_a_npz_is_a_picture_only_where_it_is_named(folder: Path) -> None:
    """Beside pictures lie embeddings of them and sets of data, which have that ending too."""
    embeddings = folder / "embeddings.npz"
    embeddings.touch()
    assert str(embeddings) not in list_pictures([str(folder)])
    assert list(list_pictures([str(embeddings)])) == list(list_pictures([f"{folder}/*.npz"])) == [str(embeddings)]


def test_patterns_match_files_at_one_level_or_at_any(folder: Path) -> None:
    assert names(list_pictures([f"{folder}/*.jpg"]), folder) == ["b.jpg"]
    assert names(list_pictures([f"{folder}/**/*.*p*g"]), folder) == ["b.jpg", "sub/c.jpeg"]
    assert names(list_pictures([f"{folder}/*"]), folder) == ["a.PNG", "b.jpg", "notes.txt"]
    assert names(list_pictures([f"{folder}/[ab].*"]), folder) == ["a.PNG", "b.jpg"]


def test_paths_and_urls_pass_through_in_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    sources = ["missing.jpg", "http://host/a*b.jpg?x=[1]", "sub", "notes.txt"]
    found = list(list_pictures(sources))
    assert found == [*sources[:2], str(Path("sub/c.jpeg")), str(Path("sub/deep/d.webp")), "notes.txt"]


def test_a_file_whose_name_looks_like_a_pattern_is_itself(folder: Path) -> None:
    odd = folder / "cat[1].jpg"
    odd.touch()
    assert list(list_pictures([str(odd)])) == [str(odd)]


def test_nothing_found_is_an_error_that_names_the_source(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no picture \\(0 other files\\)"):
        list(list_pictures([str(folder / "empty")]))
    with pytest.raises(DataError, match="z holds no picture \\(1 other files\\)"):
        list(list_pictures([str(folder / "z")]))
    with pytest.raises(DataError, match=r"\*\.bmp matches no file"):
        list(list_pictures([f"{folder}/*.bmp"]))


def test_sources_are_opened_only_when_reached(folder: Path) -> None:
    pictures = list_pictures([str(folder), f"{folder}/*.bmp"])
    assert Path(next(pictures)).name == "a.PNG"
    with pytest.raises(DataError):
        list(pictures)


def test_a_folder_that_cannot_be_listed_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(DataError, match="can't be listed: Permission denied"):
        list(list_pictures([str(folder)]))
