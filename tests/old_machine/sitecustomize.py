"""Makes a machine old: no Triton, no bf16 in hardware, no torch.compile; a GPU says that it is a P100.

Python imports a module of this name when it starts, so that a process with this folder in PYTHONPATH is such a machine
from its first line, without torch being imported before its time. tests/conftest.py calls `mask` for pytest's own.
What a P100 computes slowly it computes all the same: tensors in bf16 stay possible.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from types import ModuleType
from typing import Any, NoReturn

MISSING = ("triton", "fla", "flash_attn")


def mask(torch: Any) -> None:
    """Masks a torch that is imported."""

    def compile(*arguments: Any, **options: Any) -> NoReturn:
        raise RuntimeError("torch.compile is masked away: this machine is old")

    torch.compile = compile
    torch.cuda.is_bf16_supported = lambda *arguments, **options: False
    torch.cuda.get_device_capability = lambda device=None: (6, 0)
    torch.cpu._is_amx_tile_supported = torch.cpu._is_avx512_bf16_supported = lambda: False


def hide() -> None:
    """Lets no process import what is missing; find_spec does not find it either."""
    for name in MISSING:
        sys.modules[name] = None  # type: ignore[assignment]


class _WhenImported(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Masks torch right after it is imported, by standing in for its loader."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != "torch":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            self._execute, spec.loader.exec_module = spec.loader.exec_module, self._masked  # type: ignore[method-assign]
        return spec

    def _masked(self, module: ModuleType) -> None:
        self._execute(module)
        mask(module)


hide()
sys.meta_path.insert(0, _WhenImported())
