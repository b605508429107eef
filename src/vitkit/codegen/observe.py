"""Watches the modules' own code while it builds one model and runs it: what every expression was, each time.

The code is read anew into namespaces of its own, with every expression wrapped in a call that notes its value, and runs
on torch's "meta" device: whatever the size of the model, this takes no memory.
"""

from __future__ import annotations

import ast
import builtins
import copy
import dataclasses
import importlib
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

import vitkit.model
from vitkit.model.build import BUILDERS
from vitkit.model.spec import ModelSpec

__all__ = ["Fact", "Key", "Observed", "is_plain", "key_of", "observe", "qualified"]

Key = tuple[int, int, int, int, str]
"""A node of the code: where it begins and ends, and its kind. Lines are counted through all modules."""
SPACING = 100_000
"""Lines between the beginnings of two modules in that count."""


def key_of(node: ast.AST) -> Key:
    """The key of an expression, a parameter or a function."""
    start, end = (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]
    return (*start, *end, type(node).__name__)


@dataclass
class Fact:
    """What one node was, over all the times it ran."""

    value: Any
    """The first value."""
    constant: bool = True
    """Whether it always was that value; tensors never are."""
    kinds: set[type] = field(default_factory=set)
    words: set[str] = field(default_factory=set)
    """The values that were strings."""
    truths: set[bool] = field(default_factory=set)
    """What it was as a condition; both where that isn't known."""
    size: int | None = None
    """How many entries a list, tuple or range had, if always as many."""
    targets: set[str] = field(default_factory=set)
    """Of a call: the watched functions it reached; "" stands for any other."""
    given: set[int] | None = None
    """Of a call that always gave back a tensor it was given: 0 for the object of the method, i for argument i."""
    rows: list[tuple[tuple[Any, ...], Any]] = field(default_factory=list)
    """Of a call to a spec: arguments and answers."""
    running: bool = False
    """Whether it ran outside the constructors."""


@dataclass
class Observed:
    """The code of the modules that took part, and the facts."""

    root: str
    """The class of the model."""
    entries: tuple[str, ...]
    """The qualified names of the methods that were called."""
    trees: dict[str, ast.Module]
    """Of each module, before all modules that import it."""
    comments: Mapping[int, str]
    """Comments at the ends of lines."""
    facts: dict[Key, Fact]
    stateful: set[tuple[str, str]]
    """Classes and those of their attributes that have a place in the state_dict."""
    hooks: set[str]
    """Methods that torch's own classes call where nobody sees it: what overrides theirs."""


def observe(model: ModelSpec) -> Observed:
    """Builds and runs `model`, in two precisions on batches of two sizes: no constant depends on either."""
    watch, spec = _Watch(), model.spec
    kind = BUILDERS[model.arch]
    root = getattr(watch.load(kind.__module__), kind.__name__)
    with torch.device("meta"), torch.no_grad():
        module = root(**{entry.name: getattr(spec, entry.name) for entry in dataclasses.fields(spec)}).eval()
        watch.running = True
        for batch, dtype in ((2, torch.float32), (3, torch.bfloat16)):
            pixels = torch.empty(batch, spec.in_channels, *spec.image_size, dtype=dtype)
            entries = _run(module.to(dtype), model, pixels)
    kinds = {kind for part in module.modules() for kind in type(part).__mro__}
    own = {kind for kind in kinds if kind.__module__ in watch.modules}
    return Observed(
        root=qualified(root),
        entries=tuple(qualified(getattr(root, name)) for name in entries),
        trees=watch.trees,
        comments=watch.comments,
        facts=watch.facts,
        stateful={
            (qualified(kind), name) for part in module.modules() for kind in type(part).__mro__ for name in _state(part)
        },
        hooks={name for kind in own for name in vars(kind) for base in kinds - own if name in vars(base)},
    )


def _run(module: Any, model: ModelSpec, pixels: Tensor) -> tuple[str, ...]:
    """Calls what the printed file is for; returns the methods' names."""
    spec: Any = model.spec
    embeddings = module(pixels)
    if model.arch == "mae":
        module.reconstruct(pixels)
        module.reconstruct(pixels, mask_ratio=0.5, noise=torch.empty(len(pixels), spec.grid[0] * spec.grid[1]))
        return "forward", "reconstruct"
    if model.arch == "clip" and spec.text is not None:
        length = max(spec.text.context_length + 2 - len(pixels), 1)
        texts = module.embed_text(torch.zeros(5, length, dtype=torch.int64))
        module.similarity(embeddings if spec.num_classes == 0 else module.embed(pixels), texts)
        return "forward", "embed_text", "similarity"
    return ("forward",)


def _state(module: nn.Module) -> list[str]:
    """Names of what a module holds that has a place in the state_dict."""
    return [*module._parameters, *(name for name, part in module.named_children() if part.state_dict())]


class _Watch:
    """Loads modules whose expressions report to `facts`."""

    def __init__(self) -> None:
        self.modules: dict[str, ModuleType] = {}
        self.trees: dict[str, ast.Module] = {}
        self.comments: dict[int, str] = {}
        self.facts: dict[Key, Fact] = {}
        self.running = False

    def load(self, name: str) -> ModuleType:
        """The watched twin of a module: a new one, the package's own stays as it is."""
        if name in self.modules:
            return self.modules[name]
        path = importlib.import_module(name).__file__
        assert path is not None
        source = Path(path).read_text(encoding="utf-8")
        module = self.modules[name] = ModuleType(name)
        tree = ast.parse(source)
        first = len(self.modules) * SPACING
        ast.increment_lineno(tree, first)
        for number, line in enumerate(source.splitlines(), start=1):
            code, mark, comment = line.partition("  # ")
            if mark and code.strip() and '"' not in comment and not comment.startswith(("type:", "noqa")):
                self.comments[first + number] = f"  # {comment}"
        watched = ast.fix_missing_locations(_Wrap().visit(copy.deepcopy(tree)))
        module.__dict__.update(
            __builtins__={**vars(builtins), "__import__": self._import}, _see=self._see, _call=self._call
        )
        exec(compile(watched, path, "exec", dont_inherit=True), module.__dict__)
        self.trees[name] = tree
        return module

    def _import(self, name: str, *arguments: Any) -> ModuleType:
        """What an import statement in watched code gets: a watched twin of each module with torch in it."""
        module = __import__(name, *arguments)
        if not name.startswith(vitkit.model.__name__ + "."):
            return module
        found = importlib.import_module(name)
        return self.load(name) if hasattr(found, "nn") or hasattr(found, "torch") else found

    def _see(self, key: Key, value: Any) -> Any:
        fact = self.facts.get(key)
        size = len(value) if isinstance(value, list | tuple | range) else None
        if fact is None:
            fact = self.facts[key] = Fact(value, constant=not isinstance(value, Tensor), size=size)
        elif fact.constant:
            comparable = type(fact.value) is type(value) and (is_plain(value) or dataclasses.is_dataclass(value))
            fact.constant = fact.value is value or (comparable and bool(fact.value == value))
        fact.size = size if fact.size == size else None
        fact.kinds.add(type(value))
        if isinstance(value, str):
            fact.words.add(value)
        known = value is None or isinstance(value, bool | int | float | str | tuple | list)
        fact.truths |= {bool(value)} if known else {True, False}
        fact.running |= self.running
        return value

    def _call(self, key: Key, function: Any, *arguments: Any, **keywords: Any) -> Any:
        result = function(*arguments, **keywords)
        owner = getattr(function, "__self__", None)
        self._see(key, result)
        fact = self.facts[key]
        fact.targets.add(self._target(function))
        if isinstance(result, Tensor) or function is typing.cast:
            given = {at for at, one in enumerate([owner, *arguments, *keywords.values()]) if one is result}
            fact.given = given if fact.given is None else fact.given & given
        else:
            fact.given = set()
        if dataclasses.is_dataclass(owner):
            fact.rows.append(((*arguments, *keywords.values()), result))
        return result

    def _target(self, function: Any) -> str:
        """The qualified name of what a call reaches, if it is watched; a NamedTuple's is its class."""
        owner = getattr(function, "__self__", None)
        if isinstance(owner, tuple):
            function = type(owner) if function.__name__ == "_replace" else function
        if isinstance(function, nn.Module):
            function = type(function).forward
        return qualified(function) if getattr(function, "__module__", None) in self.modules else ""


def qualified(thing: Any) -> str:
    """The name of a function or class, its module's first."""
    return f"{thing.__module__}:{thing.__qualname__}"


def is_plain(value: Any) -> bool:
    """Whether a value can be written as a literal."""
    if isinstance(value, tuple):
        return type(value) is tuple and all(map(is_plain, value))
    return value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value))


class _Wrap(ast.NodeTransformer):
    """Wraps the expressions of all functions: what runs and what it gives stay the same."""

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        node.body = [self.visit(part) if isinstance(part, ast.FunctionDef) else part for part in node.body]
        return node

    def visit_Module(self, node: ast.Module) -> ast.Module:
        kinds = ast.FunctionDef | ast.ClassDef
        node.body = [self.visit(part) if isinstance(part, kinds) else part for part in node.body]
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        arguments = [part for part in ast.walk(node.args) if isinstance(part, ast.arg)]
        seen: list[ast.stmt] = [ast.Expr(_report(one, ast.Name(one.arg, ast.Load()))) for one in arguments]
        node.body = [*seen, ast.Expr(_report(node, ast.Constant(None))), *(self.visit(part) for part in node.body)]
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign:
        node.value = self.visit(node.value) if node.value else None
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.JoinedStr:
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if isinstance(node.func, ast.Name) and node.func.id == "super":  # which needs the method's own frame
            return node
        key = _constant(key_of(node))
        self.generic_visit(node)
        return ast.Call(ast.Name("_call", ast.Load()), [key, node.func, *node.args], node.keywords)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        sliced = isinstance(node, ast.Tuple) and any(isinstance(part, ast.Slice) for part in node.elts)
        stored = not isinstance(getattr(node, "ctx", ast.Load()), ast.Load)
        silent = isinstance(node, ast.Starred | ast.Slice | ast.Constant | ast.Call)
        return node if not isinstance(node, ast.expr) or sliced or stored or silent else _report(node, node)


def _report(node: ast.AST, value: ast.expr) -> ast.Call:
    return ast.Call(ast.Name("_see", ast.Load()), [_constant(key_of(node)), value], [])


def _constant(key: Key) -> ast.Tuple:
    return ast.Tuple([ast.Constant(part) for part in key], ast.Load())
