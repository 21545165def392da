"""A sweep over many workers: dask.distributed sends them the runs and brings the records back."""

import functools
import logging
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dlilib.data.files import WriteError, write_whole
from dlilib.extras import require
from dlilib.study.background import cores
from dlilib.study.sweep import check_data, device_named, load_tiles, pending
from dlilib.tiles import TileSet
from dlilib.training.run import Run
from dlilib.training.store import Store
from dlilib.training.trainer import fit

LOSSES = 10  # workers that a run may lose in a row, without an epoch done in between
RETRIES = 2  # of a run that fails on a worker: another one may have the data
CONNECT = 10  # seconds
POLL = 1  # second, between looks at how many workers there are
HELD = 1  # second, before a run that another process holds is asked for again
START = 120  # seconds, for the first local worker
NO_SCHEDULER = "the scheduler is lost; what is finished is kept: start it and the sweep again"
LOCAL_SETTINGS = {
    "distributed.scheduler.allowed-failures": 0,  # each loss is told, and counted, here
    "distributed.deploy.lost-worker-timeout": "5s",
    "logging.distributed": "critical",
    # Dask's own value makes training a quarter slower
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
    # what fails on a worker is told here
    "distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "critical",
    "distributed.worker.profile.enabled": False,
}


def execute_on_workers(
    runs: Sequence[Run],
    folder: str | Path,
    root: str | Path | None = None,
    *,
    device: str | None = None,
    budget: float | None = None,
    scheduler: str = "",
    workers: int = 0,
    progress: bool = True,
) -> int:
    """Finish what is pending of `runs` on Dask workers, as `sweep.execute` does in a loop.

    A worker that sees `folder`, on this machine or on a shared file system, keeps its checkpoints
    and records there: if it is lost, another worker continues its run at the last epoch. Records of
    the other workers are written here, as each arrives.

    Args:
        runs: What to train.
        folder: Where records and checkpoints are kept.
        root: Of the real data, as in `datasets.load`; a path on the workers.
        device: As in `sweep.execute`. With "cuda" and a scheduler, the workers that offer the
            resource GPU take the runs, one GPU a run.
        budget: Seconds, the start of the workers included. At their end, runs that wait are
            dropped. Runs under way continue on a scheduler's workers; on workers that were started
            here they stop at their last checkpoint. None: no limit.
        scheduler: Address of a running scheduler, such as tcp://host:8786.
        workers: Without a scheduler: how many processes to start here, which share this machine's
            cores or GPUs.
        progress: Show a bar over runs.

    Returns:
        How many runs are still pending.

    Raises:
        ValueError: The scheduler is not there or is lost, a run fails on its workers, or both or
            neither of scheduler and workers are given; the message says what to do.
        MissingExtraError: Dask is not installed.
        WriteError: The folder cannot be written.
    """
    if scheduler and workers:
        raise ValueError("either a scheduler or workers on this machine, not both")
    if not scheduler and workers < 1:
        raise ValueError(f"workers must be 1 or more where there is no scheduler, got {workers!r}")
    device = device if scheduler else device_named(device)
    deadline = time.monotonic() + (float("inf") if budget is None else budget)
    store, todo = Store(folder), pending(runs, folder)
    token = store.folder.resolve() / f".sweep-{uuid.uuid4().hex}"
    write_whole(token, b"")
    try:
        with _client(scheduler, workers) as (client, threads):
            print(f"Dask dashboard: {client.dashboard_link}", file=sys.stderr)
            gpus = bool(scheduler) and (device or "").startswith("cuda")
            _tell_if_no_slots(client, gpus)
            submit = functools.partial(
                client.submit,
                _train,
                token=str(token),
                root=None if root is None else str(Path(root).resolve()),
                device=device,
                threads=threads,
                resources={"GPU": 1} if gpus else {},
                retries=RETRIES,
                pure=False,
            )
            hidden = not progress or not todo
            with tqdm(total=len(todo), desc="runs", unit="run", disable=hidden) as bar:
                collector = _Collector(todo, store, bar)
                while (collector.waiting or collector.futures) and time.monotonic() < deadline:
                    collector.submit(submit, _slots(client, gpus))
                    _pause(collector.futures)
                    collector.collect()
            collector.end()
    finally:
        token.unlink(missing_ok=True)
    return len(pending(runs, folder))


class _Collector:
    """Submits runs in order, again where their worker is lost, and keeps the records."""

    def __init__(self, todo: Sequence[Run], store: Store, bar: tqdm) -> None:
        self.store, self.bar = store, bar
        self.waiting = deque(todo)
        self.futures: dict[Any, Run] = {}
        # how many workers a run lost in a row, and its checkpoint's time at the last loss
        self.lost = dict.fromkeys(todo, (0, 0))
        self.failed: dict[Run, Exception] = {}

    def submit(self, submit: Callable[[Run], Any], slots: int) -> None:
        """Submit as many runs as there are slots: a run that waits on a worker is lost with it."""
        for _ in range(min(len(self.waiting), slots - len(self.futures))):
            run = self.waiting.popleft()
            self.futures[submit(run)] = run

    def collect(self) -> None:
        """Take the results of the runs that are done."""
        done = [future for future in self.futures if future.done()]
        for future in done:
            run = self.futures.pop(future)
            self._take(run, _result(future))

    def _take(self, run: Run, found: dict[str, Any] | Exception | None) -> None:
        from distributed import KilledWorker

        if isinstance(found, WriteError):
            raise found
        if found is None:  # another sweep holds the run
            self.waiting.append(run)
        elif isinstance(found, KilledWorker) and self._try_again(run):
            self.waiting.appendleft(run)
        elif isinstance(found, Exception):
            self.failed[run] = found
        else:
            if self.store.record(run) is None:
                check_data(run, found["data"].get("digest"), self.store.folder)
                self.store.finish(run, found)
            self.bar.update()

    def _try_again(self, run: Run) -> bool:
        """Count the loss of a run's worker and tell whether the run is to be started again."""
        times, stamp = self.lost[run]
        now = _checkpoint_time(self.store, run)
        times = times + 1 if now == stamp else 1  # anew where the run got on in between
        self.lost[run] = times, now
        if times >= LOSSES:
            return False
        message = f"{run.id}: its worker was lost ({times} of {LOSSES}); started again"
        self.bar.write(message, sys.stderr)
        return True

    def end(self) -> None:
        """Drop what is not done; ValueError if runs failed."""
        for future in self.futures:
            future.cancel()
        if self.failed:
            run, error = next(iter(self.failed.items()))
            raise ValueError(
                f"{len(self.failed)} runs failed, the others are kept. {run.id}: "
                f"{type(error).__name__}: {error}"
            )


def _pause(futures: Collection[Any]) -> None:
    """Wait for any future, at most POLL seconds."""
    from distributed import CancelledError, wait

    if not futures:
        time.sleep(POLL)
    with suppress(TimeoutError, CancelledError):
        wait(list(futures), POLL, "FIRST_COMPLETED")


def _result(future: Any) -> dict[str, Any] | Exception | None:
    """What `_train` returned, or the error of the run; ValueError if the scheduler is lost."""
    from distributed import CancelledError

    try:
        return future.result()
    except CancelledError:
        raise ValueError(NO_SCHEDULER) from None
    except Exception as error:  # whatever a run or its worker's death raises
        return error


def _slots(client: Any, gpus: bool) -> int:
    """How many runs the workers can take at once: one a thread, or one a GPU that they offer."""
    # None: the connection is lost, which the client's status may not tell yet
    workers = client.scheduler_info(n_workers=-1).get("workers")
    if workers is None or client.status == "closed":
        raise ValueError(NO_SCHEDULER)
    slots = 0
    for worker in workers.values():
        slots += worker["resources"].get("GPU", 0) if gpus else worker["nthreads"]
    return int(slots)


def _tell_if_no_slots(client: Any, gpus: bool) -> None:
    if _slots(client, gpus):
        return
    what = "offers a GPU: start them with --resources GPU=1" if gpus else "is there: start some"
    print(f"no worker {what}. Waiting.", file=sys.stderr)


def _checkpoint_time(store: Store, run: Run) -> int:
    """When the run's checkpoint was written, nanoseconds; 0 if there is none."""
    path = store.checkpoint_path(run)
    return path.stat().st_mtime_ns if path.exists() else 0


def _train(
    run: Run, token: str, root: str | None, device: str | None, threads: int
) -> dict[str, Any] | WriteError | None:
    """Train a run, on a worker.

    token: a file in the sweep's folder, by which the worker knows whether it sees the folder.
    Returns the record, None if another process holds the run, or an error that stops all runs.
    """
    if threads:  # a worker of this machine, one of several
        torch.set_num_threads(threads)
        device = _share(device)
    shared = Path(token).exists()
    device = device_named(device)
    tiles = functools.partial(_tiles, run.data, run.size, run.threshold, run.resize, root)
    if not shared:
        return fit(run, tiles(), device)
    store = Store(Path(token).parent)
    try:
        with store.claim(run) as mine:
            if mine:
                return fit(run, tiles(), device, folder=store.folder)
    except WriteError as error:
        return error
    time.sleep(HELD)
    return None


def _share(device: str) -> str:
    """This worker's device: the machine's GPUs are dealt to its workers in turn."""
    from distributed import get_worker

    if device != "cuda":
        return device
    return f"cuda:{int(get_worker().name) % torch.cuda.device_count()}"


@functools.lru_cache(maxsize=2)
def _tiles(data: str, size: int, threshold: int, resize: str, root: str | None) -> TileSet:
    return load_tiles(Run(data=data, size=size, threshold=threshold, resize=resize), root)


@contextmanager
def _client(scheduler: str, workers: int) -> Iterator[tuple[Any, int]]:
    """A client, and how many threads a run may take (0: as the worker has it)."""
    require("distributed", "dask")
    # a lost connection is told in one line, not in tracebacks
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if scheduler:
        with _connected(scheduler) as client:
            yield client, 0
    else:
        with _local_workers(workers) as client:
            yield client, max(1, cores() // workers)


def _connected(scheduler: str) -> Any:
    """A client of a running scheduler."""
    from distributed import Client

    try:
        return Client(scheduler, timeout=CONNECT)
    except (OSError, ValueError, TypeError) as error:  # TypeError: tls without its certificates
        raise ValueError(
            f"no Dask scheduler at {scheduler} ({type(error).__name__}): start one there"
        ) from None


@contextmanager
def _local_workers(workers: int) -> Iterator[Any]:
    """A client of workers that are started on this machine, and end with the context."""
    import dask
    from distributed import Client, LocalCluster

    with dask.config.set(LOCAL_SETTINGS):
        cluster = LocalCluster(
            n_workers=0, threads_per_worker=1, dashboard_address=":0", memory_limit=0
        )
        cluster.adapt(Adaptive=_replacing(), minimum=workers, maximum=workers)
        with cluster, Client(cluster) as client:
            try:
                client.wait_for_workers(1, START)
            except TimeoutError:
                hint = 'a script must call this under if __name__ == "__main__"'
                raise ValueError(
                    f"none of {workers} workers has started within {START} s; {hint}"
                ) from None
            yield client


def _replacing() -> type:
    """A class that keeps a cluster's number of workers, even if some die before they have begun."""
    from distributed import Adaptive, Status

    class Replacing(Adaptive):
        async def recommendations(self, target: int) -> dict[str, Any]:
            workers = self.cluster.workers
            for name, nanny in list(workers.items()):
                if nanny.status in (Status.failed, Status.closed):
                    del workers[name]  # Dask would count on it for ever
            return await super().recommendations(target)

    return Replacing
