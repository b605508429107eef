"""Puts what a program needs once, or is short, in the place where it is needed."""

from __future__ import annotations

import ast
import copy
import dataclasses
from typing import TypeGuard

from vitkit.codegen.nodes import (
    always,
    blocks,
    find,
    given,
    is_name,
    is_simple,
    loaded,
    parameters,
    put,
    rewrite,
    stored,
)
from vitkit.codegen.observe import is_plain, qualified
from vitkit.codegen.program import Program
from vitkit.codegen.tidy import SHORT

__all__ = ["reduce"]

FEW = 6
"""Statements of a function with one caller that say more there than under a name of their own."""


def reduce(program: Program) -> None:
    """Leaves out and merges until nothing changes."""
    before, after = None, ""
    while before != after:
        program.drop()
        for name in program.classes:
            _unwrap(program, name)
        for name, function in program.functions.items():
            for parameter in parameters(function):
                _spread(program, name, parameter)
            if name not in program.observed.entries:
                _inline(program, name)
                _splice(program, name)
        nodes = (*program.functions.values(), *program.classes.values())
        before, after = after, "\n".join(map(ast.unparse, nodes))


def _unwrap(program: Program, name: str) -> None:
    """Puts the only field of a NamedTuple in its place."""
    fields, calls = program.fields(name), program.calls(name)
    if len(fields) != 1 or program.methods(name) or not all(call.args or call.keywords for call in calls):
        return

    def unwrapped(node: ast.AST) -> ast.AST:
        if isinstance(node, ast.Call) and program.targets(node) == {name}:
            return node.args[0] if node.args else node.keywords[0].value
        if isinstance(node, ast.Attribute) and node.attr == ast.unparse(fields[0].target):
            fact = program.fact(node.value)
            return node.value if fact and qualified(type(fact.value)) == name else node
        return fields[0].annotation if is_name(node) and node.id == name.partition(":")[2] else node

    for function in program.functions.values():
        rewrite(function, unwrapped)


def _spread(program: Program, name: str, parameter: ast.arg) -> None:
    """Puts the fields that are read of a spec in its place among the parameters."""
    function, fact = program.functions[name], program.fact(parameter)
    if not fact or not all(map(dataclasses.is_dataclass, fact.kinds)):
        return
    calls = program.calls(name)

    def is_read(node: ast.AST) -> TypeGuard[ast.Attribute]:
        return isinstance(node, ast.Attribute) and is_name(node.value) and node.value.id == parameter.arg

    fields = list(dict.fromkeys(node.attr for node in find(function, ast.Attribute) if is_read(node)))
    others = [node for node in find(function, ast.Name) if node.id == parameter.arg]
    facts = [program.fact(given(function, call).get(parameter.arg)) for call in calls]
    specs = [fact.value for fact in facts if fact and fact.constant]
    plain = all(is_plain(getattr(spec, field)) for spec in specs for field in fields)
    if not fields or len(others) != sum(map(is_read, ast.walk(function))) or len(specs) != len(calls) or not plain:
        return
    rewrite(function, lambda node: ast.Name(node.attr, ast.Load()) if is_read(node) else node)
    function.args.kwonlyargs += [ast.copy_location(ast.arg(field), parameter) for field in fields]
    function.args.kw_defaults += [None] * len(fields)
    for call, spec in zip(calls, specs, strict=True):
        values = {field: ast.copy_location(ast.Constant(getattr(spec, field)), call) for field in fields}
        call.keywords += [ast.keyword(field, value) for field, value in values.items()]


def _inline(program: Program, name: str) -> None:
    """Puts a function that is one short expression in the place of its calls."""
    function = program.functions[name]
    match function.body:
        case [ast.Return(value=ast.expr() as answer)] if len(ast.unparse(answer)) <= SHORT:
            loads = [part.id for part in find(answer, ast.Name)]
        case _:
            return

    def inlined(node: ast.AST) -> ast.AST:
        if not isinstance(node, ast.Call) or program.targets(node) != {name}:
            return node
        values, own = given(function, node), "self" not in loads or _is_own(node, function.name)
        once = all(loads.count(one) < 2 or is_simple(value) for one, value in values.items())
        return put(values, copy.deepcopy(answer)) if own and once else node

    for caller in program.functions.values():
        rewrite(caller, inlined)


def _splice(program: Program, name: str) -> None:
    """Puts the statements of a short or overridden function before the one statement that calls it."""
    function, calls = program.functions[name], program.calls(name)
    if len(calls) != 1 or program.targets(calls[0]) != {name}:
        return
    [call] = calls
    over = isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) == "super()"
    short = len(function.body) <= FEW and ("." not in name.partition(":")[2] or _is_own(call, function.name))
    early = [part for node in function.body[:-1] for part in find(node, ast.Return)]
    if early or not (over or short):
        return
    for caller in program.functions.values():
        for block in blocks(caller):
            for at, node in enumerate(block):
                if any(part is call for part in always(node)):
                    block[at : at + 1] = _spliced(caller, node, function, call) or [node]
                    return


def _spliced(
    caller: ast.FunctionDef, node: ast.stmt, function: ast.FunctionDef, call: ast.Call
) -> list[ast.stmt] | None:
    """The statements of `function`, then `node` with what they give; None where names would meet."""
    values, bound = given(function, call), stored(function)
    loads = [part.id for part in find(function, ast.Name) if isinstance(part.ctx, ast.Load)]
    same = {one for one, value in values.items() if ast.unparse(value) == one}
    light = {one for one, value in values.items() if is_simple(value) or loads.count(one) < 2}
    plain = same | (light - bound)
    body: list[ast.stmt] = [
        ast.Assign([ast.Name(one, ast.Store())], value) for one, value in values.items() if one not in plain
    ]
    body += [put({one: values[one] for one in plain - same}, copy.deepcopy(part)) for part in function.body]
    answer = body.pop().value if isinstance(body[-1], ast.Return) else None  # type: ignore[attr-defined]
    if answer and getattr(node, "value", None) is not call and not is_simple(answer):
        result = function.name.lstrip("_")
        body.append(ast.Assign([ast.Name(result, ast.Store())], answer))
        answer = ast.Name(result, ast.Load())
    taken = loaded(caller) | stored(caller) | {one.arg for one in parameters(caller)}
    shared = same if isinstance(node, ast.Return) else (same - bound) | (same & stored(node))
    if (stored(*body) & taken) - {function.name} - shared:
        return None
    body += [rewrite(node, lambda part: answer if part is call else part)] if answer else []
    return [ast.fix_missing_locations(one) for one in body]


def _is_own(call: ast.Call, method: str) -> bool:
    """Whether a call is of the caller's own method."""
    owner = call.func.value if isinstance(call.func, ast.Attribute) and call.func.attr == method else None
    return owner is not None and ast.unparse(owner) in ("self", "super()")
