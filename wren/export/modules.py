"""A module of wren as text: what it defines at its top, and what its names stand for that it imports."""

import ast
import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from wren.export.scopes import imports_wren


class Item(NamedTuple):
    """A definition at the top of a module."""

    module: str
    name: str


@dataclass
class Module:
    name: str
    lines: list[str]
    items: dict[str, ast.stmt] = field(default_factory=dict)
    order: list[ast.stmt] = field(default_factory=list)
    ours: dict[str, str | Item] = field(default_factory=dict)  # local name -> module of wren, or a definition in one
    theirs: dict[str, str] = field(default_factory=dict)  # local name -> the import line of another library
    docstring: str = ""


def read_module(name: str) -> Module:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise LookupError(f"there is no module {name}")
    text = Path(spec.origin).read_text(encoding="utf-8")
    tree = ast.parse(text)
    module = Module(name, text.split("\n"), docstring=(ast.get_docstring(tree) or "").split("\n")[0])
    for node in ast.walk(tree):  # inside functions too
        if isinstance(node, (ast.Import, ast.ImportFrom)) and (node in tree.body or imports_wren(node)):
            _note_import(module, node)
    for statement in tree.body:
        for target in _defined(statement):
            module.items[target] = statement
        module.order.append(statement)
    return module


def _note_import(module: Module, node: ast.Import | ast.ImportFrom) -> None:
    for alias in node.names:
        local = alias.asname or alias.name
        renamed = f" as {alias.asname}" if alias.asname else ""
        if isinstance(node, ast.Import):
            module.theirs[local.split(".")[0]] = f"import {alias.name}{renamed}"
        elif not imports_wren(node):
            module.theirs[local] = f"from {node.module} import {alias.name}{renamed}"
        elif importlib.util.find_spec(str(node.module)) is not None:
            inner = f"{node.module}.{alias.name}"
            is_module = _is_module(inner)
            module.ours[local] = inner if is_module else Item(str(node.module), alias.name)


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # what stands before the last dot is no package
        return False


def _defined(statement: ast.stmt) -> list[str]:
    match statement:
        case ast.FunctionDef() | ast.ClassDef():
            return [statement.name]
        case ast.Assign():
            return [n.id for target in statement.targets for n in ast.walk(target) if isinstance(n, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return []
