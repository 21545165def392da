"""The notebooks in batch: each by papermill in its own kernel, so that one that fails does not stop the others."""

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


def execute_notebooks(
    paths: Sequence[Path], folder: Path, values: dict[str, Any], jobs: int = 1
) -> dict[str, str]:
    """Execute notebooks into `folder`, `jobs` at once; what failed: name -> its error in a line.

    values: parameters, for the notebooks that have them. An output that is there is replaced when the notebook ends
    well; until then, and if it fails, what there is of it is in <name>.failed.ipynb.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for (
        path
    ) in paths:  # so that whatever stops the batch, what did not end well is there to be redone
        shutil.copy(path, _part(folder / path.name))
    failed = {}
    with ThreadPoolExecutor(jobs) as pool:
        ends = {path.name: pool.submit(_apart, path, folder / path.name, values) for path in paths}
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
    """Those of the notebooks that failed the last time or have no output in `folder`."""
    return [
        path
        for path in paths
        if _part(folder / path.name).exists() or not (folder / path.name).exists()
    ]


def _apart(source: Path, target: Path, values: dict[str, Any]) -> None:
    """Execute one in a process of its own, whose death is that notebook's alone."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(_execute, source, target, values).result()


def _execute(source: Path, target: Path, values: dict[str, Any]) -> None:
    known = {
        name: literal_eval(p["default"]) for name, p in papermill.inspect_notebook(source).items()
    }
    changed = {name: values[name] for name in known if known[name] != values.get(name, known[name])}
    posix = os.name == "posix"
    with tempfile.TemporaryDirectory(
        dir="/tmp" if posix else None
    ) as sockets:  # their names must be short
        # Kernels that start at once may be given one port twice; sockets in a folder of their own cannot clash.
        apart = {"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}} if posix else {}
        papermill.execute_notebook(
            source,
            _part(target),
            changed,
            cwd=source.parent,
            progress_bar=False,
            extra_arguments=["--log-level=ERROR"],
            config=Config(apart),
        )
    notebook = nbformat.read(_part(target), as_version=4)
    for part in (
        notebook,
        *notebook.cells,
    ):  # paths and times of this machine, and widgets that have lost their kernel
        for key in ("papermill", "execution", "widgets"):
            part.metadata.pop(key, None)
    nbformat.write(notebook, _part(target))
    _part(target).replace(target)


def _part(target: Path) -> Path:
    return target.with_suffix(".failed.ipynb")
