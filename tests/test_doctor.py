"""What `wren doctor` says about machines that are not here."""

from wren import doctor

CU130 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
CU126 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]


def test_a_p100_needs_the_cuda_12_6_build():
    line = doctor.gpu_support((6, 0), CU130)
    assert line.mark == "bad"
    assert "cu126" in line.advice
    assert doctor.gpu_support((6, 0), CU126).mark == "note"
    assert "no Triton" in doctor.gpu_support((6, 0), CU126).found


def test_a_t4_runs_fp16():
    line = doctor.gpu_support((7, 5), CU130)
    assert line.mark == "note"
    assert "fp16" in line.found


def test_newer_gpus_run_bf16():
    for capability in ((8, 0), (8, 6), (8, 9), (9, 0), (12, 0)):
        assert doctor.gpu_support(capability, CU130).mark == "ok", capability


def test_a_gpu_newer_than_the_build_is_told_to_update():
    line = doctor.gpu_support((12, 0), CU126)
    assert line.mark == "bad"
    assert "newer CUDA" in line.advice


def test_this_machine_is_described_for_people_and_programs(capsys):
    lines = doctor.examine()
    result = doctor.as_json(lines)
    assert result["ok"] is True
    assert {"Python", "PyTorch", "CPU", "Wren will use"} <= {line["what"] for line in result["lines"]}
    doctor.show(lines)
    printed = capsys.readouterr().out
    assert "Wren will use" in printed
