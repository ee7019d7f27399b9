"""The number format for every row of the table of machines."""

from typing import Any

import pytest
import torch

from wren.errors import ConfigError
from wren.precision import choose_device, choose_precision, is_out_of_memory, missing_kernels

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.mark.parametrize(
    ("gpu", "capability", "name"),
    [
        ("GTX 980", (5, 2), "fp32"),
        ("P100", (6, 0), "fp16"),
        ("GTX 1080", (6, 1), "fp32"),
        ("V100", (7, 0), "fp16"),
        ("T4", (7, 5), "fp16"),
        ("A100", (8, 0), "bf16"),
        ("RTX 4090", (8, 9), "bf16"),
        ("H100", (9, 0), "bf16"),
        ("B200", (10, 0), "bf16"),
    ],
)
def test_the_compute_capability_decides(gpu: str, capability: tuple[int, int], name: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)  # as it says on a T4, by emulation
    precision = choose_precision(CUDA, capability=capability)
    assert precision.name == name
    assert precision.scaler == (name == "fp16")
    assert f"{capability[0]}.{capability[1]}" in precision.why
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_precision(CUDA) == precision


@pytest.mark.parametrize(("has_bf16", "name"), [(True, "bf16"), (False, "fp32")])
def test_a_cpu_uses_bf16_where_it_has_units_for_it(has_bf16: bool, name: str) -> None:
    precision = choose_precision(CPU, cpu_bf16=has_bf16)
    assert (precision.name, precision.scaler) == (name, False)


def test_the_format_asked_for_is_used_where_it_exists() -> None:
    for name in ("fp32", "bf16", "fp16"):
        assert choose_precision(CPU, name).name == name  # type: ignore[arg-type]
        assert choose_precision(CUDA, name, capability=(8, 0)).name == name  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"bf16 needs .*8.0 or newer; this one is 7.5. Use fp16 or auto."):
        choose_precision(CUDA, "bf16", capability=(7, 5))


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.half)])
def test_matrix_products_run_in_the_format(name: Any, dtype: torch.dtype) -> None:
    x = torch.ones(2, 2)
    with choose_precision(CPU, name).context():
        assert (x @ x).dtype == dtype


def test_devices(monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device() == choose_device("cpu") == CPU
    for name, sentence in (
        ("cuda", "No CUDA GPU"),
        ("mps", "No Apple GPU"),
        ("gpu", "'gpu' is unknown; use auto, cpu"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            choose_device(name)
    with pytest.raises(ConfigError, match="'meta' is unknown"):
        choose_device("meta")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device() == choose_device("cuda") == CUDA
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ConfigError, match="'cuda:2' is not there; the GPUs here are cuda:0 to cuda:1"):
        choose_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device() == torch.device("mps")


CU130 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
CU126 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90a"]


@pytest.mark.parametrize(
    ("capability", "architectures", "mend"),
    [
        ((6, 0), CU130, "the CUDA 12.6 build of PyTorch (cu126), version 2.14 or older"),
        ((6, 0), CU126, None),
        ((6, 1), CU126, None),  # the same major number
        ((7, 0), CU130, "the CUDA 12.6 build of PyTorch (cu126), version 2.14 or older"),
        ((8, 9), CU130, None),
        ((9, 0), CU126, None),
        ((12, 0), CU126, "a build for a newer CUDA"),
        ((12, 1), CU130, None),
        ((13, 0), CU130, None),  # translated
    ],
)
def test_kernels_that_a_build_lacks(capability: tuple[int, int], architectures: list[str], mend: str | None) -> None:
    assert missing_kernels(capability, architectures) == mend


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:0"])
def test_a_gpu_that_the_build_has_no_kernels_for_is_a_sentence(name: str, monkeypatch: Any) -> None:
    fakes = {"is_available": True, "device_count": 1, "get_arch_list": CU130, "get_device_capability": (6, 0)}
    for function, answer in {**fakes, "get_device_name": "Tesla P100-PCIE-16GB"}.items():
        monkeypatch.setattr(torch.cuda, function, lambda *_, answer=answer: answer)
    sentence = r"no kernels for the Tesla P100-PCIE-16GB \(compute capability 6.0\); install .*cu126.* --device cpu\.$"
    with pytest.raises(ConfigError, match=sentence):
        choose_device(name)
    assert choose_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: CU126)
    assert choose_device(name).type == "cuda"


def test_what_counts_as_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as cpu:
        torch.empty(1 << 60)
    assert is_out_of_memory(cpu.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))
