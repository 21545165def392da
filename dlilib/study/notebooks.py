"""Execute the notebooks, each in its own process: one that fails does not stop the others."""

import os
import shutil
import tempfile
from ast import literal_eval
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nbformat
import papermill
from tqdm import tqdm
from traitlets.config import Config

PASSING = ("papermill", "execution", "widgets")  # metadata of one execution on one machine


def execute_notebooks(
    paths: Sequence[Path], folder: Path, values: dict[str, Any], *, jobs: int = 1
) -> dict[str, str]:
    """Execute notebooks.

    An existing output is replaced only when its notebook succeeds. Until then, and if it fails, the
    cells that were executed are in <name>.failed.ipynb.

    Args:
        paths: The notebooks.
        folder: Where their outputs are written.
        values: Parameters, for the notebooks that have them.
        jobs: Notebooks that are executed at once.

    Returns:
        What failed: name -> its error in one line.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        # if the batch is stopped, this marks the notebooks that are to be redone
        shutil.copyfile(path, _failed(folder / path.name))  # writable, whatever the notebook is
    failed = {}
    with ThreadPoolExecutor(jobs) as pool:
        ends = {}
        for path in paths:
            ends[path.name] = pool.submit(_execute_apart, path, folder / path.name, values)
        for name, end in tqdm(ends.items(), desc="notebooks", unit="notebook"):
            try:
                end.result()
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            except Exception as error:  # whatever a notebook or its kernel's death raises
                lines = str(error).strip().splitlines() or [""]
                failed[name] = f"{type(error).__name__}: {lines[-1]}"
    return failed


def to_redo(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Select the notebooks that failed the last time or have no output in `folder`."""
    found = []
    for path in paths:
        output = folder / path.name
        if _failed(output).exists() or not output.exists():
            found.append(path)
    return found


def _execute_apart(source: Path, target: Path, values: dict[str, Any]) -> None:
    """Execute a notebook in a process of its own: if it dies, only this notebook fails."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(_execute, source, target, values).result()


def _execute(source: Path, target: Path, values: dict[str, Any]) -> None:
    unfinished = _failed(target)
    posix = os.name == "posix"
    # the names of sockets must be short, as those below /tmp are
    with tempfile.TemporaryDirectory(dir="/tmp" if posix else None) as sockets:
        # Kernels that start at once may be given one port twice. Sockets in a folder of their own
        # cannot clash.
        apart = {"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}} if posix else {}
        papermill.execute_notebook(
            source,
            unfinished,
            _changed_parameters(source, values),
            cwd=source.parent,
            progress_bar=False,
            extra_arguments=["--log-level=ERROR"],
            config=Config(apart),
        )
    notebook = nbformat.read(unfinished, as_version=4)
    for part in (notebook, *notebook.cells):
        for key in PASSING:
            part.metadata.pop(key, None)
    nbformat.write(notebook, unfinished)
    unfinished.replace(target)


def _changed_parameters(source: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Those of the values that are a parameter of the notebook and not its default."""
    changed = {}
    for name, parameter in papermill.inspect_notebook(source).items():
        default = literal_eval(parameter["default"])
        if name in values and values[name] != default:
            changed[name] = values[name]
    return changed


def _failed(target: Path) -> Path:
    return target.with_suffix(".failed.ipynb")
