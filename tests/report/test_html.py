"""A page is valid, self-contained, accessible HTML in which no text of the caller's is ever markup."""

import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vitkit import ConfigError
from vitkit.report.html import (
    Block,
    Code,
    Facts,
    Figure,
    Figures,
    Folded,
    Heading,
    Note,
    Paragraph,
    Table,
    render_page,
    write_page,
)

NASTY = "</p><script>alert('x')</script> & \"quoted\" \x00 \udcff <img src=http://example.com/x onerror=y>"


def png(width: int = 3, height: int = 2) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def every_block(text: str) -> list[Block]:
    return [
        Heading(text),
        Paragraph(text),
        Note(text),
        Facts({text: text, "number": 1234567, "share": 0.98765, "nothing": None}),
        Table([text, "count"], [[text, 1234], ["b", None]], caption=text),
        Figure(png(), text, text),
        Figure(png(1600, 2), text, text, density=2),
        Figures([Figure(png(), text, text, pixelated=True)] * 2),
        Code(text),
        Folded(text, [Paragraph(text), Facts({text: 1})]),
    ]


class Reader(HTMLParser):
    """Collects tags and text, and insists that every element is closed in order."""

    VOID = ("meta", "img")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert not reader.open
    return reader


def test_no_text_is_ever_markup_and_all_of_it_is_shown() -> None:
    plain, nasty = (read(render_page(text, every_block(text), lead=text)) for text in ("plain", NASTY))
    assert [tag for tag, _ in nasty.tags] == [tag for tag, _ in plain.tags]
    assert "script" not in {tag for tag, _ in nasty.tags}
    assert not any(name.startswith("on") for _, names in nasty.tags for name in names)
    assert "".join(nasty.text).count("<script>alert('x')</script>") == "".join(plain.text).count("plain")


def test_nothing_is_requested_from_anywhere(tmp_path: Path) -> None:
    write_page(tmp_path / "r.html", "t", every_block("text"))
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    for tag, names in read(page).tags:
        assert tag not in ("script", "link", "iframe", "object", "a"), tag
        source = names.get("src")
        assert source is None or source.startswith("data:image/png;base64,")
    assert not re.search(r"url\(|@import|https?:", page)
    assert "default-src 'none'" in page
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.html"]


def test_the_page_speaks_to_screen_readers_and_small_screens() -> None:
    page = render_page("Title", every_block("words"))
    tags = read(page).tags
    assert page.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert [tag for tag, _ in tags if re.fullmatch(r"h\d", tag)] == ["h1", "h2"]
    assert all(names["alt"] and names["width"] and names["height"] for tag, names in tags if tag == "img")
    assert all(names["scope"] == "col" for tag, names in tags if tag == "th")
    assert "width=device-width" in page and "prefers-color-scheme: dark" in page


def test_numbers_are_set_to_be_compared() -> None:
    page = render_page("t", [Facts({"n": 1234567, "x": 0.98765, "flag": True, "none": None})])
    assert re.findall("<dd>(.*?)</dd>", page) == ["1,234,567", "0.9877", "True", "–"]  # noqa: RUF001
    page = render_page("t", [Table(["name", "n"], [["a", 1], ["b", None]])])
    assert page.count('class="number"') == 3


def test_pictures_have_the_size_of_their_density_and_wide_ones_scroll_before_they_are_too_small() -> None:
    for width, density, size, least in [(600, 1, "600", None), (1200, 2, "600", None), (2400, 2, "1200", 800)]:
        page = render_page("t", [Figure(png(width, 8), "plot", density=density)])
        (image,) = [names for tag, names in read(page).tags if tag == "img"]
        assert image["width"] == size and image["height"] == str(8 // density)
        styles = [names.get("style") for tag, names in read(page).tags if tag == "div"]
        assert styles == ([f"--least: {least}px"] if least else [])
    assert render_page("t", [Figures([Figure(png(2400, 8), "picture")])]).count("tabindex") == 0


def test_what_is_folded_stands_behind_its_title() -> None:
    page = render_page("t", [Folded("more", [Paragraph("a"), Folded("inner", [Paragraph("b")])])])
    order = [tag for tag, _ in read(page).tags if tag in ("details", "summary", "p")]
    assert order == ["details", "summary", "p", "details", "summary", "p"]


def test_what_is_no_block_no_png_or_no_row_is_refused() -> None:
    wrong: list[tuple[Any, str]] = [
        ("text", "no block of type str; allowed: Heading"),
        (Figure(b"GIF89a", "a fish"), "'a fish' isn't a PNG"),
        (Table(["a"], [["x"], ["x", "y"]], "scores"), r"rows \[2\] of the table 'scores'"),
    ]
    for block, said in wrong:
        with pytest.raises(ConfigError, match=said):
            render_page("t", [block])
