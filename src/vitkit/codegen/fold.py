"""Writes what was always the same as what it was, and of every choice the side that was taken."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.codegen.observe import Fact, Key, is_plain, key_of

__all__ = ["fold"]

DEFAULTS: Mapping[str, Mapping[str, object]] = {"scaled_dot_product_attention": {"attn_mask": None, "dropout_p": 0.0}}
"""Of torch's builtin functions, which have no signature to ask."""
LONG = 10
"""Digits from which a computed number is better left as the formula."""


def fold(function: ast.FunctionDef, facts: Mapping[Key, Fact]) -> ast.FunctionDef:
    """Writes `function` for one model, in place; only what ran is left."""
    folder = _Fold(function, facts)
    function.body = folder.block(function.body)
    return function


class _Fold(ast.NodeTransformer):
    def __init__(self, function: ast.FunctionDef, facts: Mapping[Key, Fact]) -> None:
        self.facts = facts
        loops = [node.target for node in ast.walk(function) if isinstance(node, ast.For | ast.comprehension)]
        names = {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and _stored(node)}
        counted = {node.id for loop in loops for node in ast.walk(loop) if isinstance(node, ast.Name)}
        self.symbols = {name for name in names if len(name) == 1} | counted
        """Local names such as D and K, which say more than their values, and what loops count."""

    def block(self, body: Sequence[ast.stmt]) -> list[ast.stmt]:
        """The statements that ran, up to the first that leaves."""
        left: list[ast.stmt] = []
        for statement in filter(self.ran, body):
            new = self.visit(statement)
            left += new if isinstance(new, list) else [] if new is None else [new]
            if left and isinstance(left[-1], ast.Return):
                break
        return left

    def ran(self, statement: ast.stmt) -> bool:
        """Whether a statement ran, so far as it shows."""
        parts = [node for node in ast.walk(statement) if isinstance(node, ast.expr) and not _stored(node)]
        return not parts or all(isinstance(node, ast.Constant) for node in parts) or any(map(self.fact, parts))

    def fact(self, node: ast.AST) -> Fact | None:
        return self.facts.get(key_of(node))

    def truth(self, test: ast.expr) -> bool | None:
        """What a condition always was; None where it varied."""
        fact = self.fact(test)
        return fact.truths == {True} if fact and len(fact.truths) == 1 else None

    def visit(self, node: ast.AST) -> Any:
        new = super().visit(node)
        fact = self.fact(node) if isinstance(node, ast.expr) else None
        if fact is None or not fact.constant or not isinstance(new, ast.expr) or not self.closed(node, new):
            return new
        return _spelled(fact.value, new)

    def closed(self, node: ast.AST, new: ast.expr) -> bool:
        """Whether an expression may be replaced by its value: it reads no tensor and no symbol."""
        if isinstance(new, ast.Name):
            return new.id not in self.symbols
        if isinstance(node, ast.Attribute):
            owner = self.fact(node.value)
            return owner is None or not isinstance(owner.value, Tensor)
        names = [part for part in ast.walk(new) if isinstance(part, ast.Name)]
        return all(part.id not in self.symbols and (fact := self.fact(part)) and fact.constant for part in names)

    def visit_If(self, node: ast.If) -> Any:
        truth = self.truth(node.test)
        if truth is not None:
            return self.block(node.body if truth else node.orelse)
        node.test, node.body, node.orelse = self.visit(node.test), self.block(node.body), self.block(node.orelse)
        return node if node.body or node.orelse else None

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        truth = self.truth(node.test)
        return self.generic_visit(node) if truth is None else self.visit(node.body if truth else node.orelse)

    def visit_BoolOp(self, node: ast.BoolOp) -> Any:
        skipped = isinstance(node.op, ast.And)  # a value of this truth leaves the answer to the next one
        flags = all((fact := self.fact(value)) is None or fact.kinds <= {bool} for value in node.values)
        last = node.values if flags else node.values[:-1]  # whose value, not only its truth, may be the answer
        values = [value for value in last if self.truth(value) is not skipped] + ([] if flags else node.values[-1:])
        stop = next((at for at, value in enumerate(values) if self.truth(value) is (not skipped)), len(values))
        node.values = [self.visit(value) for value in values[: stop + 1]]
        return node if len(node.values) != 1 else node.values[0]

    def visit_For(self, node: ast.For) -> Any:
        node.iter, node.body = self.visit(node.iter), self.block(node.body)
        return node if node.body else None

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.body = self.block(node.body)
        return node

    def visit_Assert(self, node: ast.Assert) -> None:
        return None

    def visit_Expr(self, node: ast.Expr) -> Any:
        node.value = self.visit(node.value)
        return node if isinstance(node.value, ast.Call) else None

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        if node.value is None:
            return None
        return ast.copy_location(ast.Assign([node.target], self.visit(node.value)), node)

    def visit_Subscript(self, node: ast.Subscript) -> Any:
        table, word = self.fact(node.value), self.fact(node.slice)
        self.generic_visit(node)
        if table and isinstance(table.value, Mapping) and word and word.words:
            words = sorted(word.words)
            made = [_spelled(table.value[one], ast.copy_location(ast.Name(one, ast.Load()), node)) for one in words]
            node.value = ast.copy_location(ast.Dict([_literal(one, node) for one in words], made), node)
        return node

    def visit_Call(self, node: ast.Call) -> Any:
        fact, function = self.fact(node), self.fact(node.func)
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        writes = isinstance(node.func, ast.Attribute) and node.func.attr.endswith("_")
        if fact and fact.given and not (writes and fact.running):  # weights drawn by constructors don't last
            at = min(fact.given)
            return self.visit(arguments[at - 1] if at else node.func.value)  # type: ignore[attr-defined]
        self.generic_visit(node)
        if fact and fact.rows:
            return self.tabled(node, fact)
        called = function.value if function and function.constant else None
        if isinstance(called, functools.partial):
            node.func = _spelled(called.func, node.func)
            node.args[:0] = [_literal(value, node) for value in called.args]
            node.keywords[:0] = [ast.keyword(name, _literal(value, node)) for name, value in called.keywords.items()]
            called = called.func
        if called and fact and not any(fact.targets):
            defaults = _defaults(called)
            node.keywords = [word for word in node.keywords if not _is_default(word, defaults)]
        return node

    def tabled(self, node: ast.Call, fact: Fact) -> ast.expr:
        """A call to a spec, whose answers are one value or follow from an argument that counts from 0."""
        first = fact.rows[0][1]
        if not is_plain(first):
            return node
        if all(answer == first for _, answer in fact.rows):
            return _literal(first, node)
        for at, argument in enumerate(node.args):
            if all(type(row[at]) is int for row, _ in fact.rows):
                table = {row[at]: answer for row, answer in fact.rows}
                decides = all(table[row[at]] == answer for row, answer in fact.rows)
                if decides and sorted(table) == list(range(len(table))):
                    answers = tuple(table[number] for number in range(len(table)))
                    return ast.copy_location(ast.Subscript(_literal(answers, node), argument, ast.Load()), node)
        raise AssertionError(f"{ast.unparse(node)} can't be written without its spec")


def _stored(node: ast.expr) -> bool:
    return isinstance(getattr(node, "ctx", None), ast.Store)


def _defaults(function: Any) -> Mapping[str, object]:
    """Default values of parameters, as far as they are to be known."""
    try:
        return {name: one.default for name, one in inspect.signature(function).parameters.items()}
    except (TypeError, ValueError):
        return DEFAULTS.get(getattr(function, "__name__", ""), {"device": None})


def _is_default(word: ast.keyword, defaults: Mapping[str, object]) -> bool:
    if word.arg is None or word.arg not in defaults or not isinstance(word.value, ast.Constant):
        return False
    value, default = word.value.value, defaults[word.arg]
    return type(value) is type(default) and value == default


def _spelled(value: Any, node: ast.expr) -> ast.expr:
    """A node for a value, if there is one that says more than `node`."""
    named = isinstance(node, ast.Name | ast.Attribute)
    if is_plain(value):
        formula = isinstance(value, float) and len(repr(value)) > LONG and not _is_own(node)
        return node if formula else _literal(value, node)
    name = getattr(value, "__qualname__", "")
    if not (inspect.isroutine(value) or inspect.isclass(value)) or not named or "." in name or _of_module(node):
        return node
    if value.__module__ is not None and value.__module__.startswith("vitkit.model."):
        return _expression(name, node)
    owner = next((alias for alias, module in (("F", F), ("nn", nn)) if getattr(module, name, None) is value), None)
    return _expression(f"{owner}.{name}", node) if owner else node


def _of_module(node: ast.expr) -> bool:
    """Whether a name already is one of torch's."""
    return isinstance(node, ast.Attribute) and ast.unparse(node).split(".")[0] in ("torch", "nn", "F", "math")


def _is_own(node: ast.expr) -> bool:
    """Whether a name says less than its value: an attribute of an object."""
    return isinstance(node, ast.Attribute) and not _of_module(node)


def _literal(value: Any, node: ast.expr) -> ast.expr:
    return _expression(repr(value), node)


def _expression(text: str, node: ast.expr) -> ast.expr:
    made = ast.parse(text, mode="eval").body
    for part in ast.walk(made):
        if isinstance(part, ast.expr):
            ast.copy_location(part, node)
    return made
