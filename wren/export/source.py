"""One Python file cut out of wren's own modules: what a class needs to run, and nothing else.

An export that no class of transformers can hold carries its own modelling file. It is not written a second time: it is
cut from the source that trained the model, so that the two cannot differ. From the roots on, every definition that is
mentioned comes along, methods that nothing mentions stay behind, and names that two modules share are told apart.
"""

import ast
import builtins
from collections.abc import Iterable, Iterator, Sequence

from torch import nn

from wren.export.modules import Item, Module, read_module
from wren.export.scopes import FUNCTIONS, Use, uses_in

_KEPT_METHODS = frozenset(dir(nn.Module)) | {"forward", "backward", "setup_context"}  # others call these


class Bundle:
    """Roots and all they need. `text` is the file, `flat` a definition's name in it.

    caller: the text of what will call them, so that the methods it mentions come along.
    """

    def __init__(self, roots: Iterable[Item], caller: str = ""):
        self._modules: dict[str, Module] = {}
        self._order: list[str] = []
        self._items: list[Item] = []
        self._uses: dict[Item, list[Use]] = {}
        self._mentioned = {n.attr for n in ast.walk(ast.parse(caller)) if isinstance(n, ast.Attribute)}
        for root in roots:
            self._reach(self._resolved(root))
        self._grow()
        self.flat = self._names()

    def _module(self, name: str) -> Module:
        if name not in self._modules:
            self._modules[name] = read_module(name)
        return self._modules[name]

    def _resolved(self, item: Item) -> Item:
        """Where a name is defined, behind re-exports."""
        target = self._module(item.module).ours.get(item.name)
        return self._resolved(target) if isinstance(target, Item) else item

    def _target(self, module: Module, name: str) -> Item | None:
        """The definition of wren that a global (dotted) name of a module stands for, None for any other."""
        first, _, rest = name.partition(".")
        if first in module.items:
            return Item(module.name, first)
        known = module.ours.get(first)
        if isinstance(known, str) and rest:
            return self._resolved(Item(known, rest.split(".")[0]))
        return self._resolved(known) if isinstance(known, Item) else None

    def _reach(self, item: Item) -> None:
        if item in self._uses:
            return
        statement = self._module(item.module).items.get(item.name)
        if statement is None:
            raise LookupError(f"{item.module} defines no {item.name}")
        self._uses[item] = []
        self._items.append(item)

    def _grow(self) -> None:
        """Follows mentions until nothing new turns up: a method mentioned later brings its own mentions."""
        done: dict[Item, set[ast.AST]] = {}
        while True:
            pending = [item for item in self._items if done.get(item) != self._left_out(item)]
            if not pending:
                return
            for item in pending:
                done[item] = self._left_out(item)
                module = self._module(item.module)
                uses = list(uses_in(module.items[item.name], done[item]))
                self._uses[item] = uses
                self._mentioned |= {n.attr for n in self._kept_nodes(item) if isinstance(n, ast.Attribute)}
                for use in uses:
                    target = self._target(module, use.name)
                    if target is not None:
                        self._reach(target)

    def _kept_nodes(self, item: Item) -> Iterator[ast.AST]:
        left_out = self._left_out(item)
        waiting: list[ast.AST] = [self._module(item.module).items[item.name]]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += [child for child in ast.iter_child_nodes(node) if child not in left_out]

    def _left_out(self, item: Item) -> set[ast.AST]:
        """The methods of a class that nothing mentions."""
        statement = self._module(item.module).items[item.name]
        if not isinstance(statement, ast.ClassDef):
            return set()
        methods = [node for node in statement.body if isinstance(node, FUNCTIONS)]
        return {node for node in methods if not self._is_kept(node.name)}  # type: ignore[union-attr]

    def _is_kept(self, method: str) -> bool:
        return (method.startswith("__") and method.endswith("__")) or method in _KEPT_METHODS | self._mentioned

    def _names(self) -> dict[Item, str]:
        """A name of its own for every definition: as it is where no other has it and no local one would hide it."""
        wanted: dict[str, list[Item]] = {}
        for item in self._items:
            wanted.setdefault(item.name, []).append(item)
        taken = set(dir(builtins)) | {name for m in self._modules.values() for name in m.theirs}
        hidden: dict[Item, set[str]] = {}
        for item, uses in self._uses.items():
            for use in uses:
                target = self._target(self._module(item.module), use.name)
                if target is not None:
                    hidden.setdefault(target, set()).update(use.hidden)
        flat: dict[Item, str] = {}
        for item in self._items:
            alone = len(wanted[item.name]) == 1 and item.name not in taken | hidden.get(item, set())
            names = [item.name] if alone else []
            names += [_qualified(item, parts) for parts in range(1, 1 + item.module.count(".") + 1)]
            used = taken | hidden.get(item, set()) | set(flat.values()) | (set(wanted) - {item.name})
            flat[item] = next(name for name in names if name not in used)
        return flat

    def text(self) -> tuple[str, str]:
        """The import lines, and the definitions: each only from those above it."""
        kept: dict[str, list[Item]] = {}
        for item in self._items:
            kept.setdefault(item.module, []).append(item)
        imports = {"import importlib"}
        parts = []
        for name in _dependency_order(kept, self._depends):
            module = self._module(name)
            parts.append(f"# {'-' * 8} {name}: {module.docstring}")
            chosen = {item.name for item in kept[name]}
            for statement in module.order:
                names = [n for n, node in module.items.items() if node is statement and n in chosen]
                if names:
                    parts.append(self._piece(Item(name, names[0])))
            for item in kept[name]:
                imports |= {module.theirs[u.name.split(".")[0]] for u in self._uses[item] if _is_theirs(module, u)}
        return "\n".join(_sorted_imports(imports)), "\n\n\n".join(parts) + "\n"

    def _depends(self, name: str) -> set[str]:
        module = self._module(name)
        return {(known if isinstance(known, str) else self._resolved(known).module) for known in module.ours.values()}

    def _piece(self, item: Item) -> str:
        """The source of a definition with its names as they are in the file."""
        module = self._module(item.module)
        statement = module.items[item.name]
        edits = []
        for use in self._uses[item]:
            target = self._target(module, use.name)
            if target is not None:
                whole = isinstance(module.ours.get(use.name.split(".")[0]), str)  # "module.name", not "name.attribute"
                node = use.node.value if isinstance(use.node, ast.Attribute) and not whole else use.node
                edits.append((node, self.flat[target]))
        lines = _edited(module.lines, edits, statement, self.flat[item], item.name)
        for node in sorted(self._left_out(item), key=lambda n: -n.lineno):  # type: ignore[attr-defined]
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])  # type: ignore[attr-defined]
            while lines[first - 2].strip().startswith("#"):
                first -= 1
            while not lines[first - 2].strip() and not lines[first - 3].strip().startswith("class "):
                first -= 1
            for i in range(first - 1, node.end_lineno):  # type: ignore[attr-defined]
                lines[i] = None  # type: ignore[call-overload]
        first = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", []))])
        while first > 1 and module.lines[first - 2].startswith("#"):
            first -= 1
        kept = [line for line in lines[first - 1 : statement.end_lineno] if line is not None]
        return "\n".join(_external_imports(kept)).rstrip()


def _edited(
    lines: Sequence[str], edits: list[tuple[ast.expr, str]], statement: ast.stmt, flat: str, name: str
) -> list[str]:
    """The module's lines with the given nodes replaced, and the definition's own name."""
    result = list(lines)
    places = [(n.lineno, n.col_offset, n.end_col_offset or 0, _quoted(n, text)) for n, text in edits]
    if flat != name:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            start = result[statement.lineno - 1].index(name, 4)
            places.append((statement.lineno, start, start + len(name), flat))
        else:
            for node in ast.walk(statement):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == name:
                    places.append((node.lineno, node.col_offset, node.end_col_offset or 0, flat))
    for line, start, end, text in sorted(set(places), reverse=True):
        data = result[line - 1].encode()  # columns count bytes
        result[line - 1] = (data[:start] + text.encode() + data[end:]).decode()
    return result


def _quoted(node: ast.expr, text: str) -> str:
    return f'"{text}"' if isinstance(node, ast.Constant) else text


def _external_imports(lines: list[str]) -> list[str]:
    """Imports inside functions in a form that a reader of the file's imports does not take for a requirement."""
    result = []
    for line in lines:
        stripped = line.strip()
        if stripped.startswith("from wren"):
            continue
        if stripped.startswith("from ") and " import " in stripped and line[:1] == " ":
            source, _, names = stripped.removeprefix("from ").split("#")[0].strip().partition(" import ")
            indent = line[: len(line) - len(line.lstrip())]
            for name in names.split(","):
                result.append(f'{indent}{name.strip()} = importlib.import_module("{source}").{name.strip()}')
            continue
        result.append(line)
    return result


def _is_theirs(module: Module, use: Use) -> bool:
    return use.name.split(".")[0] in module.theirs


def _qualified(item: Item, parts: int) -> str:
    """ "AttentionConfig" for Config of wren.mixers.attention, "positions_in_cache" for positions of wren.cache; with
    as many of the module's names as asked for."""
    names = item.module.split(".")[-parts:]
    if item.name[:1].isupper() and not item.name.isupper():
        return "".join(word.capitalize() for name in names for word in name.split("_")) + item.name
    return f"{item.name}_in_{'_'.join(names)}"


def _dependency_order(kept: dict[str, list[Item]], depends: object) -> list[str]:
    order: list[str] = []
    seen: set[str] = set()

    def visit(name: str) -> None:
        if name in seen:
            return
        seen.add(name)
        for other in sorted(depends(name)):  # type: ignore[operator]
            visit(other)
        if name in kept:
            order.append(name)

    for name in sorted(kept):
        visit(name)
    return order


def _sorted_imports(lines: set[str]) -> list[str]:
    """Plain imports, then the others with the names of one module on one line."""
    plain = sorted(line for line in lines if line.startswith("import "))
    grouped: dict[str, set[str]] = {}
    for line in lines - set(plain):
        source, _, name = line.removeprefix("from ").partition(" import ")
        grouped.setdefault(source, set()).add(name)
    return [*plain, *(f"from {source} import {', '.join(sorted(names))}" for source, names in sorted(grouped.items()))]
