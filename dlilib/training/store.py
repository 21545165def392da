"""Records and checkpoints on disk: written whole or not at all, read without running code."""

import io
import json
import platform
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from dlilib.data.files import WriteError, write_whole
from dlilib.training import precision
from dlilib.training.run import Run
from dlilib.version import __version__

# what a record must have, beside its id and run
KEYS = {"best", "last", "data", "machine", "seconds", "val_images", "val_tiles"}


class Store:
    """A folder of results.

    It holds records/<id>.json of finished runs, checkpoints/<id>.pt of unfinished ones and
    models/<id>.safetensors.

    Args:
        folder: The folder; it is made when something is first kept.

    Example:
        >>> store = Store("results/lite")
        >>> record = store.record(Run())  # None: the run is not finished
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def record_path(self, run: Run) -> Path:
        """Return where the record of a finished run lies."""
        return self.folder / "records" / f"{run.id}.json"

    def checkpoint_path(self, run: Run) -> Path:
        """Return where the checkpoint of an unfinished run lies."""
        return self.folder / "checkpoints" / f"{run.id}.pt"

    def model_path(self, run: Run) -> Path:
        """Return where the weights of a finished run lie, if they are kept."""
        return self.folder / "models" / f"{run.id}.safetensors"

    def record(self, run: Run) -> dict[str, Any] | None:
        """Read the record of a run.

        Returns:
            The record, or None if the run is not finished.

        Raises:
            ValueError: The file is not the run's record; the message names it.
        """
        path = self.record_path(run)
        return read_record(path) if path.exists() else None

    def finish(self, run: Run, record: dict[str, Any]) -> None:
        """Write the record of a run and delete its checkpoint, which is no longer needed.

        Raises:
            WriteError: The record cannot be written.
        """
        text = json.dumps(record, separators=(",", ":")) + "\n"
        write_whole(self.record_path(run), text.encode())
        self.checkpoint_path(run).unlink(missing_ok=True)

    def save(self, run: Run, state: dict[str, Any]) -> None:
        """Write an unfinished run's state, tensors and plain values, to its checkpoint.

        Raises:
            WriteError: The checkpoint cannot be written.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_whole(self.checkpoint_path(run), buffer.getvalue())

    @contextmanager
    def claim(self, run: Run) -> Iterator[bool]:
        """Hold a run against other processes that work on this folder.

        The system releases the run when this process ends, however it ends. What a killed process
        was writing is deleted here.

        Yields:
            Whether the run is held; False if another process has it.

        Raises:
            WriteError: The folder cannot be written.
        """
        path = self.folder / "checkpoints" / f"{run.id}.lock"
        lock = FileLock(path, timeout=0)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            for part in self.folder.glob(f"*/.{run.id}.*"):
                if part.suffix[1:].isdigit():  # as `write_whole` calls it; rsync has other endings
                    part.unlink()
        except Timeout:
            yield False
            return
        except OSError as error:
            raise WriteError.of(path, error) from None
        try:
            yield True
        finally:
            with suppress(OSError):
                path.unlink()
            lock.release()

    def load(self, run: Run) -> dict[str, Any] | None:
        """Read the checkpoint of a run, without running code that it may hold.

        Returns:
            The state that was saved, on the CPU, or None if there is none.

        Raises:
            ValueError: The file is not a readable checkpoint; the message names it.
        """
        path = self.checkpoint_path(run)
        if not path.exists():
            return None
        try:
            with zipfile.ZipFile(path) as archive:
                if archive.testzip():  # torch checks no checksums
                    raise ValueError
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception:
            raise ValueError(
                f"{path}: unreadable checkpoint; delete it to start the run again"
            ) from None


def read_record(path: Path) -> dict[str, Any]:
    """Read and check one record.

    Raises:
        ValueError: The file is not a record, or one of another run; the message names it.

    Example:
        >>> path = Store("results/lite").record_path(Run())
        >>> read_record(path)["last"]["iou"]
    """
    try:
        record = json.loads(path.read_text("utf-8"))
        _check_record(record, path.stem)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: not a record ({error}); delete it to run it again") from None
    return record


def _check_record(record: dict[str, Any], stem: str) -> None:
    """Raise ValueError, TypeError, KeyError or AttributeError unless it is a whole record.

    stem: of its file, which must be its id.
    """
    if Run(**record["run"]).id != record["id"]:
        raise ValueError("its id does not fit its run")
    if stem != record["id"]:
        raise ValueError(f"it is a copy of {record['id']}")
    missing = KEYS - record.keys()
    if missing:
        raise ValueError(f"it has no {min(missing)}")
    for moment in ("best", "last"):
        counted = len(record[moment]["classes"]), len(record[moment]["images"])
        if counted != (len(record["data"]["classes"]), len(record["val_images"])):
            raise ValueError(f"its {moment} epoch counts other classes or images than its data")


def machine(device: torch.device) -> dict[str, str]:
    """Describe this machine for a record: device and versions, nothing that names a host."""
    if device.type == "cuda":
        kind = torch.cuda.get_device_name(device)
    elif device.type != "cpu":
        kind = f"{device.type} {platform.machine()}"
    else:
        units = torch.backends.cpu.get_cpu_capability()
        if precision.cpu_has("amx_tile"):  # a run takes half as long with them
            units += " AMX"
        kind = f"CPU {platform.machine()} {units}, {torch.get_num_threads()} threads"
    return {
        "device": kind,
        "dlilib": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "segmentation-models-pytorch": version("segmentation-models-pytorch"),
        "timm": version("timm"),
    }
