"""The name-map engine: strict both ways, every fault named at once."""

import pytest
import torch
from torch import Tensor

from vitkit import CheckpointError, VitSpec
from vitkit.checkpoint.namemap import Mapped, Op, Rule, apply, concat_rows, identity, invert, matching, unstack

RULES = (
    Rule("embed.{p}", "proj.{p}"),
    Rule(("layer.{i}.q.{p}", "layer.{i}.k.{p}", "layer.{i}.v.{p}"), "blocks.{i}.qkv.{p}", op=concat_rows),
    Rule("mask", None, why="not needed"),
    Rule("{base}norm.{p}", "norm.{p}"),
)


def tensors() -> dict[str, Tensor]:
    found = {"embed.weight": torch.randn(4, 3), "mask": torch.randn(1), "vit.norm.weight": torch.randn(4)}
    for part in "qkv":
        found[f"layer.11.{part}.weight"] = torch.randn(2, 4)
    return found


EXPECTED = {
    "proj.weight": torch.Size([4, 3]),
    "blocks.11.qkv.weight": torch.Size([6, 4]),
    "norm.weight": torch.Size([4]),
}


def run(found: dict[str, Tensor]) -> Mapped:
    return apply(RULES, found, None, EXPECTED, origin="file")


def test_tensors_are_renamed_stacked_and_knowingly_dropped() -> None:
    found = tensors()
    mapped = run(found)
    assert torch.equal(mapped.state["proj.weight"], found["embed.weight"])
    stacked = torch.cat([found[f"layer.11.{part}.weight"] for part in "qkv"])
    assert torch.equal(mapped.state["blocks.11.qkv.weight"], stacked)
    assert mapped.dropped == {"mask": "not needed"}
    assert mapped.filled == {
        "proj.weight": ("embed.weight",),
        "blocks.11.qkv.weight": ("layer.11.q.weight", "layer.11.k.weight", "layer.11.v.weight"),
        "norm.weight": ("vit.norm.weight",),
    }


def test_every_fault_is_named_in_one_error() -> None:
    found = tensors()
    del found["layer.11.k.weight"], found["vit.norm.weight"]
    found |= {"extra": torch.ones(1), "embed.weight": torch.ones(4, 5), "module.mask": torch.ones(1)}
    with pytest.raises(CheckpointError) as error:
        run(found)
    text = str(error.value)
    assert "2 missing: layer.11.k.weight; norm.weight" in text
    assert "2 unexpected: extra; module.mask" in text
    assert "1 of another shape: embed.weight [4, 5], the model needs [4, 3] for proj.weight" in text
    assert "nothing was loaded" in text and "\n" not in text


def test_the_same_parameter_under_two_names_is_a_fault() -> None:
    with pytest.raises(CheckpointError, match=r"1 unexpected: norm.weight \(says the same as vit.norm.weight\)"):
        run({**tensors(), "norm.weight": torch.ones(4)})


def test_parts_that_dont_fit_together_are_a_fault_not_a_crash() -> None:
    with pytest.raises(CheckpointError, match=r"1 of another shape: layer.11.q.weight \+ layer.11.k.weight"):
        run({**tensors(), "layer.11.k.weight": torch.ones(2, 9)})


def test_more_than_ten_faults_are_counted() -> None:
    with pytest.raises(CheckpointError, match="30 unexpected: .* and 20 more"):
        run({**tensors(), **{f"x{i}": torch.ones(1) for i in range(30)}})


def test_inverting_gives_the_file_back() -> None:
    found = tensors()
    state = run(found).state
    back = invert(RULES, state, None, bound={"base": "vit."})
    assert set(back) == set(found) - {"mask"}
    assert all(torch.equal(back[name], found[name]) for name in back)


def test_inverting_refuses_what_has_no_place() -> None:
    with pytest.raises(CheckpointError, match="no place for 2 of the model's tensors: other; one.way"):
        one_way = Rule("a", "one.way", op=Op(lambda tensors, spec: tensors[0]))
        invert((*RULES, one_way), {"other": torch.ones(1), "one.way": torch.ones(1)}, None)


def test_patterns_match_whole_names_and_numbers_only() -> None:
    assert matching(RULES, "layer.3.q.bias") == [(RULES[1], {"i": "3", "p": "bias"})]
    for name in ("layer.x.q.weight", "layer.3.q.scale", "xlayer.3.q.weight", "layerX3.q.weight", "embed.weight.x"):
        assert matching(RULES, name) == []
    assert identity.forward([torch.ones(1)], None) == 1


def test_tensors_of_all_blocks_are_cut_up() -> None:
    stack = torch.randn(3, 4)
    found = unstack({"all/w": stack, "all/b": torch.ones(()), "head": stack}, "all/{name}", "{i}/{name}")
    assert list(found) == ["0/w", "1/w", "2/w", "all/b", "head"]
    assert all(torch.equal(found[f"{i}/w"], stack[i]) for i in range(3)) and found["head"] is stack


@pytest.mark.parametrize("root", ["", "params/", "opt/target/"])
def test_what_is_missing_is_named_as_the_file_would(root: str) -> None:
    rules = (Rule("{root}a/{p}", "a.{p}"), Rule("{root}b/{p}", "b.{p}"))
    expected = {"a.weight": torch.Size([1]), "b.weight": torch.Size([1])}
    with pytest.raises(CheckpointError, match=f"1 missing: {root}b/weight$"):
        apply(rules, {f"{root}a/weight": torch.ones(1)}, None, expected, origin="file")


def test_rows_hold_for_the_specs_they_name() -> None:
    rules = (
        Rule("up.{p}", "fc.{p}", when={"gated_mlp": False}),
        Rule(("gate.{p}", "up.{p}"), "fc.{p}", op=concat_rows, when={"gated_mlp": True}),
    )
    plain, gated = VitSpec(), VitSpec(gated_mlp=True)
    up, gate = torch.randn(2, 3), torch.randn(2, 3)
    one = apply(rules, {"up.weight": up}, plain, {"fc.weight": torch.Size([2, 3])}, origin="file")
    both = {"up.weight": up, "gate.weight": gate}
    two = apply(rules, both, gated, {"fc.weight": torch.Size([4, 3])}, origin="file")
    assert torch.equal(two.state["fc.weight"], torch.cat([gate, up]))
    assert invert(rules, one.state, plain).keys() == {"up.weight"}
    assert invert(rules, two.state, gated).keys() == both.keys()
    with pytest.raises(CheckpointError, match="1 unexpected: gate.weight"):
        apply(rules, both, plain, {"fc.weight": torch.Size([2, 3])}, origin="file")


def test_a_dropped_tensor_must_say_what_the_model_computes() -> None:
    rules = (Rule("width", None, why="computed", agrees=lambda tensor, spec: int(tensor) == spec.embed_dim),)
    assert apply(rules, {"width": torch.tensor(768)}, VitSpec(), {}, origin="file").dropped == {"width": "computed"}
    with pytest.raises(CheckpointError, match=r"1 unexpected: width \(not as the model computes it\)"):
        apply(rules, {"width": torch.tensor(384)}, VitSpec(), {}, origin="file")
