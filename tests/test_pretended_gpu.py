"""The tests for a GPU, on a pretended one."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FAULTS = """
import pytest
import torch


@pytest.fixture(autouse=True)
def never_waiting():
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    "mix",
    [
        lambda there: there + torch.ones(3),
        lambda there: torch.cat([there, torch.ones(3)]),
        lambda there: torch.zeros(()).add_(there[0]),
        lambda there: torch.ones(3)[there.long()],
        lambda there: torch.ones(3).index_select(0, there.long()),
        lambda there: torch.rand(3, device="cuda", generator=torch.Generator()),
        lambda there: there.normal_(generator=torch.Generator()),
    ],
)
def test_mixes(mix):
    there = torch.zeros(3, device="cuda")
    with pytest.raises(RuntimeError, match="same device|indexed tensor's device|generator"):
        mix(there)


@pytest.mark.parametrize(
    "waits",
    [
        lambda there: bool(there.any()),
        lambda there: there.cpu(),
        lambda there: there.copy_(torch.ones(3)),
        lambda there: there[torch.tensor([0, 2])],
        lambda there: there[there > 0],
        lambda there: there.index_put_((there > 0,), there.sum()),
        lambda there: torch.allclose(there, there),
        lambda there: there.unique_consecutive(),
        lambda there: there.repeat_interleave(there.long()),
        lambda there: there.nonzero(),
        lambda there: there.new_tensor([1.0]),
        lambda there: torch.ones(3).to(there),
        lambda there: torch.tensor([1.0], device=there.device),
    ],
)
def test_waits(waits):
    there = torch.zeros(3, device="cuda")
    with pytest.raises(RuntimeError, match="synchronizing"):
        waits(there)


def test_what_a_gpu_does_without_waiting():
    there = torch.ones(3).to("cuda", non_blocking=True)
    there[there > 0] = 2
    there = there * torch.tensor(3.0)
    torch.cuda.set_sync_debug_mode("default")
    assert there.tolist() == [6, 6, 6] and there.device.type == "cuda"
"""


@pytest.mark.slow
def test_it_passes_the_gpus_tests():
    told = _pytest(HERE / "test_gpu.py")
    assert " passed" in told and "skipped" not in told


def test_it_notices_what_a_gpu_would(tmp_path):
    (tmp_path / "test_faults.py").write_text(FAULTS)
    assert "21 passed" in _pytest(tmp_path / "test_faults.py")


def _pytest(path):
    command = [sys.executable, "-m", "pytest", "-p", "pretended_gpu", "-n", "0", "-q", str(path)]
    options = ["-c", str(HERE.parent / "pyproject.toml"), "--rootdir", str(HERE.parent)]
    done = subprocess.run([*command, *options], cwd=HERE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout
