"""The text of a program: imports, then functions and classes, those first that others need, as ruff formats them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from itertools import takewhile

from vitkit.codegen.nodes import loaded
from vitkit.codegen.program import Program

__all__ = ["lay_out"]

WIDTH = 120
PLAIN = {"Tensor", "bool", "float", "int", "list", "nn", "str", "torch", "tuple"}
"""What annotations may name, beside classes printed above them."""


def lay_out(program: Program) -> str:
    """The whole file but its docstring and what runs it."""
    names = [f"{module}:{getattr(node, 'name', '')}" for module, tree in program.trees.items() for node in tree.body]
    blocks = []
    for name in names:
        if name in program.functions:
            blocks.append(_function(program, name, ""))
        elif name in program.classes and not _is_merged(program, name):
            blocks.append(_class(program, name))
    texts = ["\n".join(block) for block in blocks]
    return "\n\n\n".join([_imports(program), *texts])


def _imports(program: Program) -> str:
    """The imports of the names that are left, of the standard library first."""
    fields = (field for kind in program.classes for field in program.fields(kind))
    bases = (base for kind in program.classes.values() for base in kind.bases)
    used = {"torch"}.union(*map(loaded, (*program.functions.values(), *fields, *bases)))
    plain, chosen = set(), dict[str, set[str]]()
    for name, node in program.bound.items():
        module, _, short = name.partition(":")
        if short in used and module in program.trees:
            for alias in node.names if isinstance(node, ast.Import) else []:
                if short in (alias.asname, alias.name):
                    plain.add(ast.unparse(ast.Import([alias])))
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] not in ("vitkit", "__future__"):
                chosen.setdefault(str(node.module), set()).add(short)
    lines = sorted(plain) + [f"from {module} import {', '.join(sorted(chosen[module]))}" for module in sorted(chosen)]
    groups = ([line for line in lines if ("torch" in line) is torch] for torch in (False, True))
    return "\n\n".join("\n".join(group) for group in groups if group)


def _is_merged(program: Program, kind: str) -> bool:
    """Whether a class is printed as a part of its one heir: nothing else is made of it, and nothing overridden."""
    heirs = [one for one in program.classes if program.bases(one)[1:2] == [kind]]
    if len(heirs) != 1 or kind in program.made:
        return False
    own, theirs = ({name.rpartition(".")[2] for name in program.methods(one)} for one in (kind, heirs[0]))
    return not own & theirs


def _class(program: Program, kind: str) -> Iterator[str]:
    inherited = takewhile(lambda base: _is_merged(program, base), program.bases(kind)[1:])
    parts = [kind, *inherited]
    bases = ", ".join(map(ast.unparse, program.classes[parts[-1]].bases))
    yield f"class {program.classes[kind].name}({bases}):"
    yield from _doc(program, kind, "    ")
    fields = program.fields(kind)
    yield from ["", *(f"    {ast.unparse(field)}" for field in fields)] if fields else []
    methods = [name for part in parts for name in program.methods(part)]
    for name in sorted(methods, key=lambda name: (not name.endswith(".__init__"), not name.endswith(".forward"))):
        if list(map(ast.unparse, program.functions[name].body)) != ["super().__init__()"]:
            yield ""
            yield from _function(program, name, "    ")


def _function(program: Program, name: str, indent: str) -> Iterator[str]:
    node = program.functions[name]
    for argument in (*node.args.args, *node.args.kwonlyargs):
        argument.annotation = _annotation(program, name, argument.annotation)
    node.returns = _annotation(program, name, node.returns)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    head, listed = f"{indent}def {node.name}(", _parameters(node.args)
    whole = f"{head}{listed}){returns}:"
    yield from [whole] if len(whole) <= WIDTH else [head, f"{indent}    {listed}", f"{indent}){returns}:"]
    yield from _doc(program, name, indent + "    ")
    yield from _block(program, node.body, indent + "    ")


def _parameters(arguments: ast.arguments) -> str:
    """A signature's inside."""
    listed = []
    defaults = [None] * (len(arguments.args) - len(arguments.defaults)) + arguments.defaults + arguments.kw_defaults
    for one, default in zip((*arguments.args, *arguments.kwonlyargs), defaults, strict=True):
        if one in arguments.kwonlyargs[:1]:
            listed.append("*")
        mark = "=" if one.annotation is None else " = "
        listed.append(ast.unparse(one) + (f"{mark}{ast.unparse(default)}" if default else ""))
    return ", ".join(listed)


def _doc(program: Program, name: str, indent: str) -> Iterator[str]:
    if program.docs[name]:
        first = program.docs[name].splitlines()[0].split("; ")[0].rstrip(".")
        yield f'{indent}"""{first}."""'


def _annotation(program: Program, name: str, node: ast.expr | None) -> ast.expr | None:
    above = takewhile(lambda kind: not name.startswith(kind), program.classes)
    return node if node and loaded(node) <= PLAIN.union(kind.partition(":")[2] for kind in above) else None


def _block(program: Program, body: Iterable[ast.stmt], indent: str) -> Iterator[str]:
    for node in body:
        match node:
            case ast.For():
                yield from _lines(f"{indent}for {_bare(node.target)} in {ast.unparse(node.iter)}:")
                yield from _block(program, node.body, indent + "    ")
            case ast.If():
                yield from _lines(f"{indent}if {ast.unparse(node.test)}:")
                yield from _block(program, node.body, indent + "    ")
                yield from [f"{indent}else:", *_block(program, node.orelse, indent + "    ")] if node.orelse else []
            case ast.FunctionDef():
                yield from ["", f"{indent}def {node.name}({ast.unparse(node.args)}):"]
                yield from [*_block(program, node.body, indent + "    "), ""]
            case ast.Assign():
                yield from _lines(f"{indent}{_bare(node.targets[0])} = {_bare(node.value)}", _comment(program, node))
            case ast.Return(value=ast.expr() as value):
                yield from _lines(f"{indent}return {_bare(value)}", _comment(program, node))
            case _:
                yield from _lines(indent + ast.unparse(node), _comment(program, node))


def _comment(program: Program, node: ast.stmt) -> str:
    return program.observed.comments.get(node.end_lineno or 0, "")


def _spaced(node: ast.AST) -> str:
    """The text of code, with a space after the colon of a slice to more than a name."""
    text = ast.unparse(node)
    for upper in (part.upper for part in ast.walk(node) if isinstance(part, ast.Slice)):
        if upper and not isinstance(upper, ast.Name | ast.Constant | ast.UnaryOp):
            text = text.replace(f":{ast.unparse(upper)}", f": {ast.unparse(upper)}")
    return text


def _bare(node: ast.expr) -> str:
    """An expression's text, a tuple's without its parentheses."""
    bare, text = isinstance(node, ast.Tuple) and len(node.elts) > 1, _spaced(node)
    return text[1:-1] if bare and text.startswith("(") and text.endswith(")") else text


def _lines(code: str, comment: str = "") -> list[str]:
    """A statement in the house's format: the last brackets are opened where it is too long."""
    code = re.sub(r"'([^'\"]*)'", r'"\1"', code)
    code = re.sub(r"\de-0\d", lambda number: number[0].replace("e-0", "e-"), code)
    code = re.sub(r"([\w.]+) \*\* (-?[\w.]+)", r"\1**\2", code)
    if len(code + comment) <= WIDTH:
        return [code + comment]
    if len(code) <= WIDTH:
        return [code]
    close = max(code.rfind(mark) for mark in ")]}")
    depth, at = 1, close
    while depth:
        at -= 1
        depth += (code[at] in ")]}") - (code[at] in "([{")
    indent = " " * (len(code) - len(code.lstrip()))
    return [code[: at + 1], f"{indent}    {code[at + 1 : close]}", indent + code[close:]]
