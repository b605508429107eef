"""The encoder stays readable: short forwards, and no family's name in any of them."""

import ast
import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path

import vitkit.model
from vitkit.model.block import Block
from vitkit.model.vit import VisionTransformer

FAMILIES = ("deit", "beit", "dino", "data2vec", "mae", "clip", "siglip", "swin", "timm", "transformers", "meta")


def code_lines(function: Callable[..., object]) -> int:
    """Lines of a method without its docstring."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    method = next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    body = method.body[1:] if ast.get_docstring(method) else method.body
    return sum((node.end_lineno or node.lineno) - node.lineno + 1 for node in body)


def test_forwards_are_short() -> None:
    assert code_lines(VisionTransformer.forward) <= 20
    assert code_lines(VisionTransformer.features) <= 20
    assert code_lines(Block.forward) <= 3


def test_no_forward_names_a_family() -> None:
    seen = 0
    for file in Path(vitkit.model.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name in ("forward", "features", "embed", "pooled"):
                seen += 1
                words = ast.dump(ast.Module(body=node.body[1:], type_ignores=[])).lower()
                assert not [family for family in FAMILIES if f"'{family}" in words], file.name
    assert seen > 20
