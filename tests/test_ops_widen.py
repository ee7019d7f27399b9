"""How wide numbers are where sums are long."""

import pytest
import torch

from wren.ops.widen import wide_dtype, widest, widest_dtype


def test_wide_is_fp32_at_least():
    wanted = {torch.bfloat16: torch.float32, torch.float16: torch.float32, torch.float64: torch.float64}
    assert {dtype: wide_dtype(dtype) for dtype in wanted} == wanted


@pytest.mark.parametrize(("kind", "dtype"), [("cpu", torch.float64), ("cuda", torch.float64), ("mps", torch.float32)])
def test_widest_is_what_the_device_has(kind: str, dtype: torch.dtype):
    assert widest_dtype(kind) == dtype


def test_widest_keeps_the_value():
    x = torch.tensor([0.1, -3.0], requires_grad=True)
    assert torch.equal(widest(x).float(), x)
    assert widest(x).dtype == torch.float64
