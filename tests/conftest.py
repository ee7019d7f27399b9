"""What holds for every test: one thread of torch, since small tensors lose more to waking threads than they gain."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)
