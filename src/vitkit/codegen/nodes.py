"""Pieces of syntax trees: what they name, and how they are changed."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeGuard, TypeVar

__all__ = [
    "always",
    "blocks",
    "drop_argument",
    "drop_defaults",
    "drop_parameter",
    "find",
    "given",
    "is_name",
    "is_simple",
    "loaded",
    "parameters",
    "put",
    "rewrite",
    "stored",
    "without",
]

N = TypeVar("N", bound=ast.AST)


def find(node: ast.AST, kind: type[N]) -> Iterator[N]:
    """The nodes of a kind in a piece of code."""
    return (part for part in ast.walk(node) if isinstance(part, kind))


def is_name(node: object) -> TypeGuard[ast.Name]:
    """Whether a node is a bare name."""
    return isinstance(node, ast.Name)


def is_simple(node: ast.expr) -> bool:
    """Whether an expression is a name, a constant or an attribute."""
    return isinstance(node, ast.Name | ast.Constant) or (isinstance(node, ast.Attribute) and is_simple(node.value))


def loaded(node: ast.AST) -> set[str]:
    """Names that a piece of code reads."""
    return {part.id for part in find(node, ast.Name) if isinstance(part.ctx, ast.Load)}


def stored(*nodes: ast.AST) -> set[str]:
    """Names that pieces of code bind."""
    return {part.id for node in nodes for part in find(node, ast.Name) if isinstance(part.ctx, ast.Store)}


def blocks(function: ast.FunctionDef) -> Iterator[list[ast.stmt]]:
    """A function's body and those of its loops and conditions."""
    yield function.body
    for node in find(function, ast.stmt):
        if isinstance(node, ast.For | ast.If):
            yield from (node.body, node.orelse)


def always(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of a statement that run once whenever it does."""
    if isinstance(node, ast.If | ast.For):
        node = node.test if isinstance(node, ast.If) else node.iter
    if not isinstance(node, ast.IfExp | ast.BoolOp | ast.ListComp | ast.GeneratorExp):
        yield node
        for part in ast.iter_child_nodes(node):
            yield from always(part)


class _Rewrite(ast.NodeTransformer):
    def __init__(self, change: Callable[[ast.AST], ast.AST]) -> None:
        self.change = change

    def visit(self, node: ast.AST) -> ast.AST:
        return self.change(self.generic_visit(node))


def rewrite(node: ast.AST, change: Callable[[ast.AST], ast.AST]) -> Any:
    """Puts `change` of each node in its place, the parts before the whole."""
    return _Rewrite(change).visit(node)


def put(values: Mapping[str, ast.expr], node: ast.AST) -> Any:
    """Puts expressions in the place of names."""
    return rewrite(node, lambda part: copy.deepcopy(values[part.id]) if is_name(part) and part.id in values else part)


def without(node: ast.expr | None, at: int) -> ast.expr:
    """A tuple without one entry; of two, the other one."""
    assert isinstance(node, ast.Tuple)
    rest = [part for i, part in enumerate(node.elts) if i != at]
    return rest[0] if len(rest) == 1 else ast.copy_location(ast.Tuple(rest, node.ctx), node)


def parameters(function: ast.FunctionDef) -> list[ast.arg]:
    """A function's parameters in order, without self."""
    return [one for one in (*function.args.args, *function.args.kwonlyargs) if one.arg != "self"]


def given(function: ast.FunctionDef, call: ast.Call) -> dict[str, ast.expr]:
    """What a call gives each parameter, defaults included."""
    names, defaults = [one.arg for one in parameters(function)], [*function.args.defaults, *function.args.kw_defaults]
    values = dict(zip(reversed(names), reversed(defaults), strict=False)) | dict(zip(names, call.args, strict=False))
    words = {word.arg: word.value for word in call.keywords if word.arg}
    return {name: value for name, value in (values | words).items() if value}


def drop_argument(call: ast.Call, name: str, names: list[str]) -> None:
    """Takes what a call gives for `name` among the parameters `names`."""
    if names.index(name) < len(call.args):
        del call.args[names.index(name)]
    call.keywords = [word for word in call.keywords if word.arg != name]


def drop_parameter(function: ast.FunctionDef, name: str) -> None:
    """Takes a parameter and its default."""
    arguments = function.args
    for owners, defaults in ((arguments.args, arguments.defaults), (arguments.kwonlyargs, arguments.kw_defaults)):
        for at, one in enumerate(owners):
            if one.arg == name:
                if at - len(owners) + len(defaults) >= 0:
                    del defaults[at - len(owners) + len(defaults)]
                owners.remove(one)
                return


def drop_defaults(function: ast.FunctionDef, calls: list[ast.Call]) -> None:
    """Takes the defaults that none of the calls needs."""
    arguments, names = function.args, [one.arg for one in parameters(function)]
    passed = [{*names[: len(call.args)], *(word.arg for word in call.keywords)} for call in calls]
    while arguments.defaults and all(arguments.args[-len(arguments.defaults)].arg in one for one in passed):
        del arguments.defaults[0]
    for at, one in enumerate(arguments.kwonlyargs):
        arguments.kw_defaults[at] = None if all(one.arg in words for words in passed) else arguments.kw_defaults[at]
