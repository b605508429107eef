"""The classes and functions of one model's file; what nothing needs is left out, until nothing more can be."""

from __future__ import annotations

import ast

from vitkit.codegen.fold import fold
from vitkit.codegen.nodes import (
    drop_argument,
    drop_defaults,
    drop_parameter,
    find,
    is_name,
    loaded,
    parameters,
    put,
    stored,
    without,
)
from vitkit.codegen.observe import Fact, Observed, key_of, qualified
from vitkit.codegen.tidy import tidy, without_dead

__all__ = ["Program"]


class Program:
    """What is to be printed: `functions` by qualified name, and the `classes` that some of them belong to."""

    def __init__(self, observed: Observed) -> None:
        self.observed, self.trees = observed, observed.trees
        self.functions: dict[str, ast.FunctionDef] = {}
        self.classes: dict[str, ast.ClassDef] = {}
        self.docs: dict[str, str] = {}
        self.bound: dict[str, ast.stmt] = {}
        """Imports and constants, by module and name."""
        for module, tree in self.trees.items():
            for node in tree.body:
                if isinstance(node, ast.ClassDef):
                    self.classes[f"{module}:{node.name}"] = node
                    self.docs[f"{module}:{node.name}"] = ast.get_docstring(node) or ""
                    self._fold(f"{module}:{node.name}.", node.body)
                self._fold(f"{module}:", [node])
                self.bound.update({f"{module}:{name}": node for name in _bound(node)})
        for name, function in self.functions.items():  # the module's own constants, as far as names are left of them
            names = loaded(function) - stored(function) - {one.arg for one in parameters(function)}
            own = {one: self.bound.get(f"{name.partition(':')[0]}:{one}") for one in names}
            put({one: node.value for one, node in own.items() if isinstance(node, ast.Assign)}, function)

    def _fold(self, prefix: str, body: list[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef) and self.fact(node):
                self.docs[prefix + node.name] = ast.get_docstring(node) or ""
                self.functions[prefix + node.name] = fold(node, self.observed.facts)

    def fact(self, node: ast.AST | None) -> Fact | None:
        """What was observed of a piece of code."""
        return self.observed.facts.get(key_of(node)) if node else None

    def bases(self, kind: str) -> list[str]:
        """A class and what it inherits from, so far as that is printed too."""
        if kind not in self.classes:
            return []
        found, module = [kind], kind.partition(":")[0]
        for base in filter(is_name, self.classes[kind].bases):
            imported = self.bound.get(f"{module}:{base.id}")
            found += self.bases(f"{imported.module if isinstance(imported, ast.ImportFrom) else module}:{base.id}")
        return found

    def method(self, kind: str, name: str) -> str:
        """The qualified name of a class's method, its own or an inherited one; "" where none ran."""
        return next((f"{base}.{name}" for base in self.bases(kind) if f"{base}.{name}" in self.functions), "")

    def methods(self, kind: str) -> list[str]:
        """A class's own methods."""
        return [name for name in self.functions if name.rpartition(".")[0] == kind]

    def fields(self, kind: str) -> list[ast.AnnAssign]:
        """The fields of a NamedTuple."""
        node = self.classes[kind]
        is_tuple = any(is_name(base) and base.id == "NamedTuple" for base in node.bases)
        return [part for part in node.body if isinstance(part, ast.AnnAssign)] if is_tuple else []

    def targets(self, call: ast.Call) -> set[str]:
        """The functions that a call reaches; a NamedTuple stands for itself, "" for what isn't printed."""
        fact = self.fact(call)
        names = fact.targets if fact else {""}
        return {self.method(name, "__init__") or name if name in self.classes else name for name in names}

    def calls(self, name: str = "") -> list[ast.Call]:
        """The calls that may reach a function, or all."""
        every = [call for function in self.functions.values() for call in find(function, ast.Call)]
        return [call for call in every if name in self.targets(call)] if name else every

    @property
    def made(self) -> set[str]:
        """The classes that something is made of."""
        facts = filter(None, map(self.fact, self.calls()))
        return {self.observed.root}.union(*(fact.targets for fact in facts))

    def drop(self) -> None:
        """Leaves out once what nothing needs, as far as it shows."""
        self._drop_unreached()
        read = self._read()
        self._drop_fields(read)
        for name, function in self.functions.items():
            self._drop_dead(name, function, read | self.observed.stateful)
            tidy(function, self.observed)
            self._drop_parameters(name, function)
            self._drop_answers(name, function)

    def _drop_unreached(self) -> None:
        root = self.observed.root
        reached, asked = set(self.bases(root)), [self.method(root, "__init__"), *self.observed.entries]
        while asked:
            name = asked.pop()
            if name in reached or name not in self.functions:
                continue
            reached.add(name)
            for fact in filter(None, map(self.fact, find(self.functions[name], ast.Call))):
                for target in fact.targets:
                    asked += [target, *(self.method(target, hook) for hook in self.observed.hooks)]
                    reached.update(self.bases(target))
        self.functions = {name: node for name, node in self.functions.items() if name in reached}
        self.classes = {name: node for name, node in self.classes.items() if name in reached}

    def _drop_fields(self, read: set[tuple[str, str]]) -> None:
        """Fields of NamedTuples that nothing reads, here or of what the file's methods return."""
        answers = [part.value for name in self.observed.entries for part in find(self.functions[name], ast.Return)]
        returned = {target for part in answers if isinstance(part, ast.Call) for target in self.targets(part)}
        for name in self.classes.keys() - returned:
            names = [ast.unparse(part.target) for part in self.fields(name)]
            for part, field in zip(self.fields(name), list(names), strict=True):
                if (name, field) not in read:
                    for call in self.calls(name):
                        drop_argument(call, field, names)
                    names.remove(field)
                    self.classes[name].body.remove(part)

    def _drop_dead(self, name: str, function: ast.FunctionDef, kept: set[tuple[str, str]]) -> None:
        """Assignments to what nothing reads; a checkpoint reads weights, and torch's own classes any attribute."""
        names, kind = loaded(function), name.rpartition(".")[0]
        bases = [ast.unparse(base) for one in self.bases(kind) for base in self.classes[one].bases if not is_name(base)]

        def dead(target: ast.expr) -> bool:
            if isinstance(target, ast.Tuple):
                return all(map(dead, target.elts))
            if isinstance(target, ast.Attribute):
                return (kind, target.attr) not in kept and set(bases) <= {"nn.Module"}
            return is_name(target) and target.id not in names

        function.body = without_dead(function.body, dead)

    def _drop_parameters(self, name: str, function: ast.FunctionDef) -> None:
        """Parameters that nothing reads, their arguments in every call, and defaults that no call needs."""
        names, calls = loaded(function), self.calls(name)
        if name in self.observed.entries or any(self.targets(call) != {name} for call in calls):
            return
        for unused in [one.arg for one in parameters(function) if one.arg not in names]:
            for call in calls:
                drop_argument(call, unused, [one.arg for one in parameters(function)])
            drop_parameter(function, unused)
        drop_defaults(function, calls)
        if function.args.kwarg and function.args.kwarg.arg not in names:
            function.args.kwarg = None
            for call in calls:
                call.keywords = [word for word in call.keywords if word.arg]

    def _drop_answers(self, name: str, function: ast.FunctionDef) -> None:
        """An entry of a returned tuple that no caller reads."""
        answers = list(find(function, ast.Return))
        if not any(isinstance(answer.value, ast.Tuple) for answer in answers):
            return
        unpacked = [
            (part, target.elts, loaded(caller))
            for caller in self.functions.values()
            for part in find(caller, ast.Assign)
            if isinstance(part.value, ast.Call) and self.targets(part.value) == {name}
            if isinstance(target := part.targets[0], ast.Tuple)
        ]
        if not unpacked or len(unpacked) != len(self.calls(name)):
            return
        width = len(unpacked[0][1])
        if not all(isinstance(one.value, ast.Tuple) and len(one.value.elts) == width for one in answers):
            return
        for at in range(width):
            if all(is_name(one := names[at]) and one.id not in read for _, names, read in unpacked):
                for part, _, _ in unpacked:
                    part.targets[0] = without(part.targets[0], at)
                for answer in answers:
                    answer.value = without(answer.value, at)
                if isinstance(function.returns, ast.Subscript):
                    rest = without(function.returns.slice, at)
                    function.returns = None if isinstance(rest, ast.Tuple) else rest
                return

    def _read(self) -> set[tuple[str, str]]:
        """Classes and those of their attributes that anything reads."""
        read = set()
        for function in self.functions.values():
            for node in find(function, ast.Attribute):
                fact = self.fact(node.value)
                if fact and isinstance(node.ctx, ast.Load):
                    read |= {(qualified(base), node.attr) for kind in fact.kinds for base in kind.__mro__}
        return read


def _bound(node: ast.stmt) -> list[str]:
    """Names that a module's statement binds."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name for alias in node.names]
    return [part.id for target in getattr(node, "targets", []) for part in find(target, ast.Name)]
