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

import safetensors.torch
import torch
from filelock import FileLock, Timeout
from torch import nn

from dlilib.data.files import WriteError, write_whole
from dlilib.training.run import Run
from dlilib.version import __version__


class Store:
    """One folder of results: records/<id>.json of finished runs, checkpoints/<id>.pt of unfinished ones, and models."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def record_path(self, run: Run) -> Path:
        """Where the record of a finished run lies."""
        return self.folder / "records" / f"{run.id}.json"

    def checkpoint_path(self, run: Run) -> Path:
        """Where the checkpoint of an unfinished run lies."""
        return self.folder / "checkpoints" / f"{run.id}.pt"

    def model_path(self, run: Run) -> Path:
        """Where the weights of a finished run lie, if they were to be kept."""
        return self.folder / "models" / f"{run.id}.safetensors"

    def record(self, run: Run) -> dict[str, Any] | None:
        """The run's record, or None if it is not finished."""
        return read_record(path) if (path := self.record_path(run)).exists() else None

    def finish(self, run: Run, record: dict[str, Any]) -> None:
        """Keep the record; its checkpoint is no longer needed."""
        write_whole(
            self.record_path(run), (json.dumps(record, separators=(",", ":")) + "\n").encode()
        )
        self.checkpoint_path(run).unlink(missing_ok=True)

    def save(self, run: Run, state: dict[str, Any]) -> None:
        """Keep an unfinished run's state (tensors and plain values)."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_whole(self.checkpoint_path(run), buffer.getvalue())

    @contextmanager
    def claim(self, run: Run) -> Iterator[bool]:
        """Hold the run against other processes on this store; False where one of them has it.

        The system lets go of it when its process ends, however it ends; what that was writing is cleared away here.
        """
        path = self.folder / "checkpoints" / f"{run.id}.lock"
        lock = FileLock(path, timeout=0)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            for part in self.folder.glob(
                f"*/.{run.id}.*"
            ):  # of a process that was killed while it wrote
                part.unlink()
        except Timeout:
            yield False
            return
        except OSError as error:
            raise WriteError(path, error) from None
        try:
            yield True
        finally:
            with suppress(OSError):
                path.unlink()
            lock.release()

    def save_model(self, run: Run, model: nn.Module) -> None:
        """Keep a model's weights, as `models.load` reads them."""
        weights = {
            name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
        }
        write_whole(self.model_path(run), safetensors.torch.save(weights))

    def load(self, run: Run) -> dict[str, Any] | None:
        """An unfinished run's state, on the CPU, or None."""
        if not (path := self.checkpoint_path(run)).exists():
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
    """One record; ValueError naming the file if it is not one."""
    try:
        record = json.loads(path.read_text())
        if Run(**record["run"]).id != record["id"]:
            raise ValueError("its id does not fit its run")
        if path.stem != record["id"]:
            raise ValueError(f"it is a copy of {record['id']}")
        if (
            missing := {"best", "last", "data", "machine", "seconds", "val_images", "val_tiles"}
            - record.keys()
        ):
            raise ValueError(f"it has no {min(missing)}")
        for moment in ("best", "last"):
            counts = [len(record[moment][name]) for name in ("classes", "images")]
            if counts != [len(record["data"]["classes"]), len(record["val_images"])]:
                raise ValueError(f"its {moment} epoch counts other classes or images than its data")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: not a record ({error}); delete it to run it again") from None
    return record


def machine(device: torch.device) -> dict[str, str]:
    """What a record says of where it was made: kind of device and versions, nothing that names a host."""
    threads, capability = torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
    cpu = f"CPU {platform.machine()} {capability}, {threads} threads"
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        "dlilib": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: version(name) for name in ("segmentation-models-pytorch", "timm")},
    }
