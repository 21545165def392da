from dataclasses import replace

import pytest
import torch
from builders import TINY

from dlilib.training.precision import resolve
from dlilib.training.run import Run
from dlilib.training.trainer import Trainer

CPUS = {
    "AMX": ({"avx512_f": True, "amx_tile": True, "amx_bf16": True}, "bf16"),
    "AVX-512 with BF16": ({"avx512_f": True, "avx512_bf16": True}, "bf16"),
    "AVX-512 without": ({"avx512_f": True, "avx512_bf16": False}, "fp32"),
    "AMX for integers alone": ({"amx_tile": True, "amx_int8": True, "amx_bf16": False}, "fp32"),
    "AVX2": ({"avx2": True}, "fp32"),
    "ARM": ({"neon": True, "bf16": True}, "fp32"),
}


@pytest.mark.parametrize("kind", CPUS)
def test_auto_on_a_cpu_is_what_its_units_multiply(kind, monkeypatch):
    capabilities, expected = CPUS[kind]
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert resolve("auto", torch.device("cpu")) == expected


def test_auto_is_float32_where_torch_does_not_tell(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert resolve("auto", torch.device("cpu")) == "fp32"


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")]
)
def test_auto_on_cuda_goes_by_the_compute_capability(capability, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve("auto", torch.device("cuda", 0)) == expected


@pytest.mark.parametrize("named", ["fp32", "bf16"])
def test_a_named_precision_is_kept_everywhere(named, monkeypatch):
    for capabilities, _ in CPUS.values():
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert resolve(named, torch.device("cpu")) == named


@pytest.mark.parametrize("kind", ["AMX", "AVX2"])
def test_the_record_says_which_precision_it_was(kind, few_tiles, monkeypatch):
    capabilities, expected = CPUS[kind]
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    trainer = Trainer(replace(TINY, precision="auto"), few_tiles, torch.device("cpu"))
    trainer.last = trainer.best = {"classes": [[0, 0, 0]] * 5}
    assert trainer.record()["machine"]["precision"] == expected
    assert trainer.record()["run"]["precision"] == "auto"


def test_a_run_that_goes_on_on_another_kind_of_machine_names_both(few_tiles, monkeypatch):
    run = replace(TINY, precision="auto")
    started = Trainer(run, few_tiles, torch.device("cpu"))
    started.precision, started.precisions = "bf16", ["bf16"]
    state = started.state()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    continued = Trainer(run, few_tiles, torch.device("cpu"))
    continued.restore(state)
    assert (continued.precision, continued.precisions) == ("fp32", ["bf16", "fp32"])
    continued.last = continued.best = {"classes": [[0, 0, 0]] * 5}
    assert continued.record()["machine"]["precision"] == "bf16, fp32"


def test_precision_is_part_of_a_runs_id_only_where_it_is_not_float32():
    assert "precision" not in Run().changed
    assert len({replace(Run(), precision=name).id for name in ("fp32", "bf16", "auto")}) == 3
