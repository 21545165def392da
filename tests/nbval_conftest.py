"""For the notebooks' own tests, copied beside them: kernels that start at once cannot clash."""

import os
import tempfile

import nbval.kernel
from jupyter_client.manager import KernelManager


class KernelApart(KernelManager):
    """A kernel on sockets in a folder of its own: two that start at once may be given one port,
    and the one that comes second to it never answers."""

    def __init__(self, **traits) -> None:
        self.sockets = tempfile.TemporaryDirectory(dir="/tmp")  # a socket's name must be short
        super().__init__(transport="ipc", ip=f"{self.sockets.name}/kernel", **traits)


if os.name == "posix":
    nbval.kernel.KernelManager = KernelApart
