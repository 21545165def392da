"""In which number format a run's convolutions are computed: what it names, or what the hardware multiplies."""

import torch

PRECISIONS = ("fp32", "bf16", "auto")
BF16_CPU = (
    "amx_bf16",
    "avx512_bf16",
)  # a CPU without either emulates bfloat16, ten times slower than float32
BF16_CUDA = (8, 0)  # compute capability


def resolve(precision: str, device: torch.device) -> str:
    """The precision, "fp32" or "bf16"; "auto": bf16 where `device` has units for it, else fp32."""
    if precision != "auto":
        return precision
    return "bf16" if has_bf16_units(device) else "fp32"


def has_bf16_units(device: torch.device) -> bool:
    """Whether `device` multiplies in bfloat16: CUDA from compute capability 8.0 on, CPUs with AMX or AVX-512 BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= BF16_CUDA
    if device.type == "cpu" and hasattr(
        torch.cpu, "get_capabilities"
    ):  # older versions of torch do not tell
        found = torch.cpu.get_capabilities()
        return any(found.get(name, False) for name in BF16_CPU)
    return False
