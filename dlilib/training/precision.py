"""Which number format a run's convolutions are computed in."""

import torch

PRECISIONS = ("fp32", "bf16", "auto")
# A CPU without either emulates bfloat16, which takes ten times as long as float32.
BF16_CPU = ("amx_bf16", "avx512_bf16")
BF16_CUDA = (8, 0)  # least compute capability


def resolve(precision: str, device: torch.device) -> str:
    """Resolve a run's precision to "fp32" or "bf16".

    Args:
        precision: One of `PRECISIONS`; "auto" is bf16 where the device has units for it, else fp32.
        device: Where the run is trained.
    """
    if precision != "auto":
        return precision
    return "bf16" if has_bf16_units(device) else "fp32"


def has_bf16_units(device: torch.device) -> bool:
    """Tell whether a device multiplies in bfloat16.

    GPUs do from CUDA's compute capability 8.0 on, CPUs with AMX or AVX-512 BF16.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= BF16_CUDA
    return device.type == "cpu" and cpu_has(*BF16_CPU)


def cpu_has(*names: str) -> bool:
    """Tell whether the CPU has any of some instructions, by torch's names for them."""
    # older versions of torch do not tell
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(found.get(name, False) for name in names)
