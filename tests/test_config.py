"""Dataclasses to plain data and back: strict, and all faults at once."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitkit.config import from_dict, to_dict
from vitkit.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    name: str
    sides: tuple[int, int] = (1, 2)


@dataclass(frozen=True, kw_only=True)
class Outer:
    count: int
    rate: float = 0.5
    flag: bool = False
    kind: Literal["a", "b"] = "a"
    format: Literal[1] = 1
    size: int | tuple[int, int] = 3
    words: tuple[str, ...] | None = None
    inner: Inner | None = None
    table: Mapping[str, float] = field(default_factory=dict)
    anything: Any = None

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ConfigError(f"count is {self.count}; at least 0")


def faults(data: object, kind: type = Outer) -> str:
    with pytest.raises(ConfigError) as caught:
        from_dict(kind, data, origin="x.json")
    text = str(caught.value)
    assert text.startswith("x.json: ") and "\n" not in text
    return text.removeprefix("x.json: ")


texts = st.text(max_size=5)
numbers = st.integers(-(10**9), 10**9)
inners = st.builds(Inner, name=texts, sides=st.tuples(numbers, numbers))
outers = st.builds(
    Outer,
    count=st.integers(0, 10**9),
    rate=st.floats(allow_nan=False),
    flag=st.booleans(),
    kind=st.sampled_from(["a", "b"]),
    size=numbers | st.tuples(numbers, numbers),
    words=st.none() | st.lists(texts, max_size=3).map(tuple),
    inner=st.none() | inners,
    table=st.dictionaries(texts, st.floats(allow_nan=False), max_size=3),
    anything=st.none() | texts | st.booleans(),
)


@given(outers)
def test_what_is_written_as_json_is_read_back_equal(value: Outer) -> None:
    assert from_dict(Outer, json.loads(json.dumps(to_dict(value))), origin="x.json") == value


def test_defaults_fill_what_isnt_said() -> None:
    assert from_dict(Outer, {"count": 3}, origin="x.json") == Outer(count=3)


def test_an_unknown_key_names_the_nearest() -> None:
    assert faults({"count": 1, "flagg": True}) == "Outer has no key 'flagg'; nearest: flag"
    assert faults({"count": 1, "zzz": 1}) == "Outer has no key 'zzz'"
    assert "Outer.inner has no key 'nam'; nearest: name" in faults({"count": 1, "inner": {"nam": "x", "name": "y"}})


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"count": True}, "Outer.count is True, not a whole number"),
        ({"count": 1.0}, "Outer.count is 1.0, not a whole number"),
        ({"count": "1"}, "Outer.count is '1', not a whole number"),
        ({"count": None}, "Outer.count is None, not a whole number"),
        ({"count": 1, "rate": True}, "Outer.rate is True, not a number"),
        ({"count": 1, "rate": "0.5"}, "Outer.rate is '0.5', not a number"),
        ({"count": 1, "flag": 1}, "Outer.flag is 1, not true or false"),
        ({"count": 1, "kind": "c"}, "Outer.kind is 'c', allowed: 'a', 'b'"),
        ({"count": 1, "kind": ["a"]}, "Outer.kind is ['a'], allowed: 'a', 'b'"),
        ({"count": 1, "format": True}, "Outer.format is True, allowed: 1"),
        ({"count": 1, "format": 1.0}, "Outer.format is 1.0, allowed: 1"),
        ({"count": 1, "format": 2}, "Outer.format is 2, allowed: 1"),
        ({"count": 1, "size": [1, 2, 3]}, "Outer.size is [1, 2, 3], not a whole number or a list"),
        ({"count": 1, "size": True}, "Outer.size is True, not a whole number or a list"),
        ({"count": 1, "words": "abc"}, "Outer.words is 'abc', not a list"),
        ({"count": 1, "words": ["a", 2]}, "Outer.words[1] is 2, not a text"),
        ({"count": 1, "inner": "x"}, "Outer.inner is 'x', not a table"),
        ({"count": 1, "inner": {}}, "Outer.inner.name is missing"),
        ({"count": 1, "inner": {"name": "x", "sides": [1]}}, "Outer.inner.sides has 1 entries, not 2"),
        ({"count": 1, "table": [1]}, "Outer.table is [1], not a table"),
        ({"count": 1, "table": {"a": "b"}}, "Outer.table.a is 'b', not a number"),
        ({}, "Outer.count is missing"),
        ([], "Outer is [], not a table"),
        (None, "Outer is None, not a table"),
        ({"count": -1}, "count is -1; at least 0"),
    ],
)
def test_a_wrong_value_is_named_with_its_place_and_what_is_allowed(data: object, says: str) -> None:
    assert faults(data) == says


def test_all_faults_come_at_once() -> None:
    said = faults({"rate": "x", "flag": 3, "inner": {"name": 1, "sides": [1, "2"]}, "surplus": 0})
    assert sorted(said.split("; ")) == [
        "Outer has no key 'surplus'",
        "Outer.count is missing",
        "Outer.flag is 3, not true or false",
        "Outer.inner.name is 1, not a text",
        "Outer.inner.sides[1] is '2', not a whole number",
        "Outer.rate is 'x', not a number",
    ]


def test_a_whole_number_stands_for_a_float_and_a_list_for_a_tuple() -> None:
    made = from_dict(Outer, {"count": 1, "rate": 2, "size": [3, 4], "words": ["x"]}, origin="x")
    assert type(made.rate) is float and made.size == (3, 4) and made.words == ("x",)


def test_plain_data_holds_nothing_but_json_types() -> None:
    made = to_dict(Outer(count=1, inner=Inner(name="n"), words=("a",), table={"t": 1.0}))
    assert made["inner"] == {"name": "n", "sides": [1, 2]} and made["words"] == ["a"] and made["table"] == {"t": 1.0}
    assert to_dict([Inner(name="n")]) == [{"name": "n", "sides": [1, 2]}]
