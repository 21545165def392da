"""A pretended GPU for machines without one: pytest -p pretended_gpu tests/test_gpu.py.

The CPU computes, but what was moved to "cuda" says that it is there, does not mix with the CPU's
tensors, and fails, where it is asked to, when the host would have to wait for it. It shows neither
the GPU's rounding, be it autocast's, nor its kernels' faults, its random state, or what is read
before a copy has arrived.
"""

import functools

import pytest
import torch
from torch import Tensor
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

CUDA, CPU = torch.device("cuda:0"), torch.device("cpu")
MIXED = "Expected all tensors to be on the same device, but found at least two devices"
NO_GENERATOR = "Expected a 'cuda' device type for generator but found 'cpu'"
WAITS = (
    "_local_scalar_dense",
    "_unique2",
    "allclose",
    "bincount",
    "equal",
    "masked_select",
    "nonzero",
    "repeat_interleave",
    "unique_consecutive",
    "unique_dim",
)
COPIES = ("_to_copy", "copy_")
INDEXING = ("index", "index_put_", "_index_put_impl_")
ANSWERS = {  # of functions in torch.cuda
    "is_available": True,
    "device_count": 1,
    "is_bf16_supported": True,
    "get_device_capability": (9, 0),
    "get_device_name": "a pretended GPU",
    "get_rng_state": torch.zeros(16, dtype=torch.uint8),
    "set_rng_state": None,
    "manual_seed_all": None,
    "synchronize": None,
}
strict = False  # whether waiting is an error


class OnGpu(Tensor):
    """A tensor that says it is on the GPU, around the CPU's that holds its values.

    Autograd sees a tensor on "meta", the one device without memory that it needs no driver for.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)

    @staticmethod
    def __new__(cls, held):
        with torch.inference_mode(False), _disable_current_modes():
            shape = (held.size(), held.stride())
            shell = torch.empty_strided(*shape, dtype=held.dtype, device="meta")
            kinds = {"dispatch_device": True, "device_for_backend_keys": CUDA}  # as FakeTensor's
            return Tensor._make_subclass(cls, shell, False, **kinds)

    def __init__(self, held):
        self.held = held

    def __repr__(self):
        return f"OnGpu({self.held})"

    def __reduce_ex__(self, protocol):
        return self.held.__reduce_ex__(protocol)

    def tolist(self):
        return self.cpu().tolist()

    def numpy(self, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


class Dispatch(TorchDispatchMode):
    """Hands `compute` also what autograd makes on a device without a tensor that is there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


def compute(func, args, kwargs):
    """Do an operation on the values that are held; what comes of it is where a GPU had it."""
    if func is torch.ops.prim.device.default:
        return torch.device("meta")
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    there = {id(x.held): x for x in tensors if isinstance(x, OnGpu)}
    here = {id(x): x for x in tensors if not isinstance(x, OnGpu)}
    to_gpu = bool(there)
    if kwargs.get("device") is not None:
        to_gpu = torch.device(kwargs["device"]).type in ("cuda", "meta")
        kwargs = {**kwargs, "device": CPU}
    if not there and not to_gpu:
        return func(*args, **kwargs)
    check(func, args, kwargs, there, here, to_gpu)

    def held(x):
        return x.held if isinstance(x, OnGpu) else x

    def wrapped(x):
        if not isinstance(x, Tensor) or id(x) in here:  # the latter: changed in place
            return x
        if id(x) in there:
            return there[id(x)]
        return OnGpu(x) if to_gpu else x

    return tree_map(wrapped, func(*tree_map(held, args), **tree_map(held, kwargs)))


def check(func, args, kwargs, there, here, to_gpu):
    """Refuse what a GPU refuses, and count as waiting what waits."""
    name = func.overloadpacket.__name__
    if kwargs.get("generator") is not None:
        raise RuntimeError(NO_GENERATOR)
    if name in COPIES:
        if (here or bool(there) != to_gpu) and not non_blocking(name, args, kwargs):
            wait(str(func))
        return
    if name in WAITS and kwargs.get("output_size") is None:
        wait(str(func))
    scalars = torch.Tag.pointwise in func.tags  # whether numbers of the CPU may be among its inputs
    if name in INDEXING:
        scalars = True
        here = check_indices(func, args, here)
    if func._schema.is_mutable and isinstance(args[0], Tensor):
        scalars &= isinstance(args[0], OnGpu)
    if there and any(x.ndim or not scalars for x in here.values()):
        raise RuntimeError(f"{MIXED}, cuda:0 and cpu, in {func}")


def check_indices(func, args, here):
    """The same for x[indices] and x[indices] = values; returns what is here beside the indices."""
    indices = [x for x in args[1] if x is not None]
    if not isinstance(args[0], OnGpu):
        raise RuntimeError("indices should be either on cpu or on the indexed tensor's device")
    if any(not isinstance(x, OnGpu) for x in indices):
        wait(f"{func} by indices of the CPU")
    # one number of the CPU's fills, without counting pixels
    one_value = len(args) > 2 and args[2].numel() == 1 and not isinstance(args[2], OnGpu)
    if not one_value and any(x.dtype in (torch.bool, torch.uint8) for x in indices):
        wait(f"{func} by a mask")
    return {key: x for key, x in here.items() if all(x is not index for index in indices)}


def non_blocking(name, args, kwargs):
    return kwargs.get("non_blocking", False) or (name == "copy_" and len(args) > 2 and args[2])


def wait(what):
    if strict:
        raise RuntimeError(f"called a synchronizing CUDA operation: {what}")


def is_gpu(device):
    return device is not None and torch.device(device).type == "cuda"


def made(make):
    """torch.zeros and the like, which initialise CUDA before they are dispatched."""

    @functools.wraps(make)
    def make_there(*args, **kwargs):
        if not is_gpu(kwargs.get("device")):
            return make(*args, **kwargs)
        if make.__name__ in ("tensor", "as_tensor"):
            wait(make.__name__)
        grad = kwargs.pop("requires_grad", False)
        if kwargs.get("generator") is not None:
            raise RuntimeError(NO_GENERATOR)
        return OnGpu(make(*args, **{**kwargs, "device": CPU})).requires_grad_(grad)

    return make_there


def to(x, *args, _to=Tensor.to, **kwargs):
    """Tensor.to."""
    args = list(args)
    if args and isinstance(args[0], Tensor):  # of another one, its device and type
        args[:1] = [args[0].device, args[0].dtype]
    copy = {"copy": kwargs.pop("copy", False)}
    device, dtype, quick, layout = torch._C._nn._parse_to(*args, **kwargs)
    kwargs = {**copy, "dtype": dtype or x.dtype}
    if layout is not None:
        kwargs["memory_format"] = layout
    if device is None or is_gpu(device) == isinstance(x, OnGpu):
        return _to(x, **kwargs)
    if not quick:
        wait("to")
    if isinstance(x, OnGpu):
        return _to(x.held.detach().clone(), **kwargs)
    return OnGpu(_to(x.detach().clone(), **kwargs))


def set_sync_debug_mode(mode):
    global strict
    strict = mode == "error"


def pytest_configure(config):
    """Pretend, in this process and those it forks."""
    for make in _device_constructors():
        if getattr(torch, make.__name__, None) is make:
            setattr(torch, make.__name__, made(make))
    Tensor.to = to
    Tensor.cuda = lambda x, device=None, **kwargs: x.to(CUDA, **kwargs)
    Tensor.cpu = lambda x: x.to(CPU)
    Tensor.new_tensor = lambda x, *args, **kwargs: torch.tensor(
        *args, **{"dtype": x.dtype, "device": x.device, **kwargs}
    )
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # Module.to shares no memory
    torch.backends.cudnn.enabled = False
    for name, answer in ANSWERS.items():
        setattr(torch.cuda, name, lambda *args, answer=answer: answer)
    torch.cuda.set_sync_debug_mode = set_sync_debug_mode
    torch.optim.Optimizer._accelerator_graph_capture_health_check = lambda optimizer: None


@pytest.fixture(autouse=True, scope="session")
def pretended_gpu():
    with Dispatch():
        yield
