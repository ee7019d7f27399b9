"""Which global names a piece of Python reads, and what its functions, classes and comprehensions bind themselves."""

import ast
from collections.abc import Iterable, Iterator, Set
from typing import NamedTuple

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_NONE: frozenset[str] = frozenset()


class Use(NamedTuple):
    """A global name read somewhere: the node, the dotted name it spells, and the local names that surround it."""

    node: ast.expr
    name: str
    hidden: frozenset[str]


def uses_in(statement: ast.stmt, left_out: Set[ast.AST]) -> Iterator[Use]:
    """Every read of a global name, a dotted one as one, outside the nodes left out; annotations in quotes count."""
    return _Reads(left_out).of(statement, _NONE, _NONE)


class _Reads:
    """hidden: names that surrounding functions bind. in_class: those of the class body a node stands in, which the
    functions inside it do not see."""

    def __init__(self, left_out: Set[ast.AST]):
        self.left_out = left_out

    def of(self, node: ast.AST, hidden: frozenset[str], in_class: frozenset[str]) -> Iterator[Use]:
        if node in self.left_out:
            return
        dotted = _dotted(node)
        if dotted is not None:
            if dotted.split(".")[0] not in hidden | in_class:
                yield Use(node, dotted, hidden)  # type: ignore[arg-type]
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, str) and node.value.isidentifier() and getattr(node, "is_annotation", False):
                yield Use(node, node.value, _NONE)
        elif isinstance(node, FUNCTIONS):
            yield from self._of_function(node, hidden, in_class)
        elif isinstance(node, ast.ClassDef):
            yield from self._of_all([*node.bases, *node.keywords, *node.decorator_list], hidden, in_class)
            yield from self._of_all(node.body, hidden, frozenset(n for child in node.body for n in _stored(child)))
        else:
            if isinstance(node, _COMPREHENSIONS):
                targets = [n for generator in node.generators for n in ast.walk(generator.target)]
                hidden = hidden | {n.id for n in targets if isinstance(n, ast.Name)}
            if isinstance(node, ast.AnnAssign):
                _mark(node.annotation)
            yield from self._of_all(ast.iter_child_nodes(node), hidden, in_class)

    def _of_all(self, nodes: Iterable[ast.AST], hidden: frozenset[str], in_class: frozenset[str]) -> Iterator[Use]:
        for node in nodes:
            yield from self.of(node, hidden, in_class)

    def _of_function(
        self,
        node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda,
        hidden: frozenset[str],
        in_class: frozenset[str],
    ) -> Iterator[Use]:
        arguments = _arguments(node.args)
        annotations = [a.annotation for a in arguments if a.annotation is not None]
        around: list[ast.expr] = [*node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)]
        body: list[ast.AST] = [node.body] if isinstance(node, ast.Lambda) else [*node.body]
        if not isinstance(node, ast.Lambda):
            around += node.decorator_list
            annotations += [] if node.returns is None else [node.returns]
        for annotation in annotations:
            _mark(annotation)
        yield from self._of_all([*around, *annotations], hidden, in_class)
        bound = {a.arg for a in arguments}.union(*(_stored(child) for child in body))
        yield from self._of_all(body, hidden | bound, _NONE)


def imports_wren(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "wren"


def _arguments(given: ast.arguments) -> list[ast.arg]:
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return [argument for argument in every if argument is not None]


def _mark(annotation: ast.expr) -> None:
    """Texts inside an annotation stand for names."""
    for node in ast.walk(annotation):
        if isinstance(node, ast.Constant):
            node.is_annotation = True  # type: ignore[attr-defined]


def _dotted(node: ast.AST) -> str | None:
    """ "a.b" for the reading of an attribute of a plain name, "a" for that of a name, else None."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and isinstance(node.value.ctx, ast.Load):
        return f"{node.value.id}.{node.attr}"
    return None


def _stored(node: ast.AST) -> set[str]:
    """What a node binds in the scope it stands in."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.Lambda, *_COMPREHENSIONS)):
        return set()
    if isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del)):
        return {node.id}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        names = {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        return set() if imports_wren(node) else names
    own = {node.name} if isinstance(node, ast.ExceptHandler) and node.name else set()
    return own.union(*(_stored(child) for child in ast.iter_child_nodes(node)))
