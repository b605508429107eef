"""Writes plainly what folding left roundabout, and drops assignments that nothing reads."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Mapping
from typing import Any

from vitkit.codegen.nodes import always, find, is_name, is_simple, loaded, put, without
from vitkit.codegen.observe import Observed, key_of

__all__ = ["SHORT", "tidy", "without_dead"]

SHORT = 72
"""Characters of an expression that says more in its place than under a name of its own."""


def without_dead(body: list[ast.stmt], dead: Callable[[ast.expr], bool]) -> list[ast.stmt]:
    """Statements without the assignments to what is `dead`."""
    left: list[ast.stmt] = []
    for node in body:
        if isinstance(node, ast.For | ast.If):
            node.body, node.orelse = without_dead(node.body, dead), without_dead(node.orelse, dead)
            if node.body:
                left.append(node)
            continue
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
                kept = [pair for pair in zip(target.elts, value.elts, strict=True) if not dead(pair[0])]
                target.elts, value.elts = [pair[0] for pair in kept], [pair[1] for pair in kept]
                if len(kept) == 1:
                    [(node.targets[0], node.value)] = kept
            unread = [at for at, one in enumerate(target.elts) if dead(one)] if isinstance(target, ast.Tuple) else []
            if unread and isinstance(value, ast.Subscript) and isinstance(value.value, ast.Tuple):  # rows of a table
                node.targets[0] = without(target, unread[0])
                value.value.elts = [without(row, unread[0]) for row in value.value.elts]
            if dead(node.targets[0]) or ast.unparse(node.targets[0]) == ast.unparse(node.value):
                continue
        match node:
            case ast.AugAssign(target=target) if dead(target):
                continue
            case ast.FunctionDef(name=name) if dead(ast.Name(name)):
                continue
            case ast.Expr(value=value) if not isinstance(value, ast.Call):
                continue
        left.append(node)
    return left


def tidy(function: ast.FunctionDef, observed: Observed) -> None:
    """Simplifies `function` in place."""
    _Tidy(observed).visit(function)
    function.body.sort(key=lambda node: ast.unparse(node) != "super().__init__()")
    _merge(function, observed.comments)


def _merge(function: ast.FunctionDef, comments: Mapping[int, str]) -> None:
    """Names that only the next statement reads, and other names of attributes, give way to what they stand for."""
    at = 0
    while at + 1 < len(function.body):
        first, second = function.body[at : at + 2]
        if isinstance(first, ast.Assign) and first.end_lineno not in comments:
            match first:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Attribute() as value) if is_simple(value):
                    names = [part for part in find(function, ast.Name) if part.id == name]
                    if sum(isinstance(part.ctx, ast.Store) for part in names) == 1:
                        del function.body[at]
                        put({name: value}, function)
                        continue
            rest = _merged(function, first, second)
            if rest is not None:
                function.body[at:] = [*rest, *function.body[at + 2 :]]
                at = 0
                continue
        at += 1


def _merged(function: ast.FunctionDef, first: ast.Assign, second: ast.stmt) -> list[ast.stmt] | None:
    """An assignment and the next statement as one; None where they are better two."""
    target, value = first.targets[0], first.value
    if isinstance(second, ast.Return) and second.value and ast.unparse(second.value) == ast.unparse(target):
        return [ast.copy_location(ast.Return(value), second)]
    if not is_name(target) or not isinstance(second, ast.Assign | ast.Return | ast.Expr):
        return None
    uses = [part for part in find(function, ast.Name) if part.id == target.id]
    here = [part for part in find(second, ast.Name) if part.id == target.id]
    again = isinstance(second, ast.Assign) and ast.unparse(second.targets[0]) == target.id
    last = isinstance(second, ast.Return) and second is function.body[-1]
    if len(here) - again != 1 or not (is_simple(value) if again else last or len(uses) == 2):
        return None
    if not set(map(id, here)) <= set(map(id, always(second))):  # a loop would compute it each time
        return None
    new: Any = copy.deepcopy(second)
    new.value = put({target.id: value}, new.value)
    return [new] if len(ast.unparse(new)) <= SHORT else None


class _Tidy(ast.NodeTransformer):
    def __init__(self, observed: Observed) -> None:
        self.facts = observed.facts

    def visit_For(self, node: ast.For) -> ast.For:
        self.generic_visit(node)
        used = set().union(*map(loaded, node.body))
        match node.target, node.iter:
            case ast.Tuple(elts=[ast.Name(id=number), target]), ast.Call(func=ast.Name(id="enumerate"), args=[values]):
                if number not in used:
                    node.target, node.iter = target, values
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        self.generic_visit(node)
        match node:
            case ast.Subscript(value=ast.Tuple(elts=parts), slice=ast.Constant(value=int(at))):
                return parts[at]
            case ast.Subscript(value=ast.Subscript(slice=ast.Tuple(elts=parts) as cut), slice=again):
                upper = all(isinstance(part, ast.Slice) and part.lower is None for part in parts)
                return node.value if upper and ast.unparse(cut) == ast.unparse(again) else node
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        empty = [word for word in node.keywords if isinstance(word.value, ast.Dict) and not word.value.keys]
        node.keywords = [word for word in node.keywords if word.arg or word not in empty]
        match node:
            case ast.Call(func=ast.Attribute(attr="cat"), args=[ast.List(elts=[single])]):
                return single
            case ast.Call(func=ast.Attribute(), args=[ast.GeneratorExp(elt=one, generators=loops) as only]):
                node.args = [ast.copy_location(ast.ListComp(one, loops), only)]
        return node

    def visit_ListComp(self, node: ast.ListComp) -> ast.expr:
        self.visit_GeneratorExp(node)
        match node:
            case ast.ListComp(ast.Name(id=one), [ast.comprehension(ast.Name(id=same), ast.Tuple(elts=parts), [])]):
                return ast.copy_location(ast.List(parts, ast.Load()), node) if one == same else node
        return node

    def visit_GeneratorExp(self, node: Any) -> Any:
        self.generic_visit(node)
        for loop in node.generators:
            match loop:
                case ast.comprehension(iter=ast.Tuple(elts=parts), ifs=[ast.Compare(ops=[ast.IsNot()])]):
                    present = [part for part in parts if not (isinstance(part, ast.Constant) and part.value is None)]
                    facts = [self.facts.get(key_of(part)) for part in present]
                    if all(fact and type(None) not in fact.kinds for fact in facts):
                        parts[:], loop.ifs = present, []
                case ast.comprehension(ast.Name(id=one) as name, values, []) if one not in loaded(node.elt):
                    fact = self.facts.get(key_of(values))
                    if fact and fact.size is not None:
                        loop.iter = ast.parse(f"range({fact.size})", mode="eval").body
                    if ast.unparse(loop.iter).startswith("range("):
                        name.id = "_"
        return node
