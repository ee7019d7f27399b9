"""What holds for every test: one thread of torch, since small tensors lose more to waking threads than they gain.

With `pytest --old-machine` the tests, and the processes that they start, run on a machine without Triton, bf16 and
torch.compile (old_machine/sitecustomize.py).
"""

import os
import signal
import sys
from pathlib import Path

import pytest
import torch

OLD = Path(__file__).with_name("old_machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    what = "mask Triton, bf16 and torch.compile away, here and in every process that a test starts"
    parser.addoption("--old-machine", action="store_true", help=what)


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # begun behind a shell's &: children would ignore it as well
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not config.getoption("--old-machine"):
        return
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(OLD), os.environ.get("PYTHONPATH"))))
    sys.path.insert(0, str(OLD))
    sys.modules.pop("sitecustomize", None)  # the system may have one of its own
    import sitecustomize

    sitecustomize.mask(torch)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--old-machine"):
        for item in items:
            if item.get_closest_marker("compiles") is not None:
                item.add_marker(pytest.mark.skip(reason="torch.compile is masked away"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)
