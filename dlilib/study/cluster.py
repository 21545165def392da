"""A sweep over many workers: dask.distributed takes the runs to them and the records back."""

import functools
import logging
import os
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
from dlilib.study.sweep import device_named, load_tiles, pending
from dlilib.training.run import Run
from dlilib.training.store import Store
from dlilib.training.trainer import fit

LOSSES = 10  # of workers in a row, that a run outlives without getting on
RETRIES = 2  # of a run that fails on a worker: another one may have the data
CONNECT = 10  # seconds
POLL = 1  # second, between looks at how many workers there are
HELD = 1  # second, before a run that another process holds is asked for again
START = 120  # seconds, for the first local worker
NO_SCHEDULER = "the scheduler is lost; what is finished is kept: start it and the sweep again"


def execute_on_workers(
    runs: Sequence[Run],
    folder: str | Path,
    root: str | Path | None = None,
    device: str | None = None,
    budget: float | None = None,
    scheduler: str = "",
    workers: int = 0,
    progress: bool = True,
) -> int:
    """`sweep.execute` on Dask workers: finish what is pending of `runs` and return how many are still pending.

    scheduler: address of a running one, as tcp://host:8786; with device "cuda" its workers that offer the resource GPU
        take the runs, one GPU a run. Else `workers` processes are started here, which share its cores or GPUs.
        root: a path on the workers.
    A worker that sees `folder`, as on one machine or a shared file system, keeps its checkpoints and records there, so
    that another one goes on where it was lost; records from elsewhere are written here, as each arrives. At the end of
    the budget (seconds, the start of the workers included) waiting runs are dropped; those under way are left to a
    cluster that outlives this call, and stop with workers that do not, at their last checkpoint.
    Raises ValueError saying what to do where there is no scheduler or it is lost, or a run fails on its workers.
    """
    if scheduler and workers:
        raise ValueError("either a scheduler's workers or so many here, not both")
    device = device if scheduler else device_named(device)
    deadline = time.monotonic() + (float("inf") if budget is None else budget)
    store, todo = Store(folder), pending(runs, folder)
    token = store.folder.resolve() / f".sweep-{uuid.uuid4().hex}"
    write_whole(token, b"")
    try:
        with _client(scheduler, workers) as (client, threads):
            print(f"Dask dashboard: {client.dashboard_link}", file=sys.stderr)
            gpus = bool(scheduler) and (device or "").startswith("cuda")
            slots = functools.partial(_slots, client, gpus)
            if not slots():
                what = (
                    "offers a GPU: start them with --resources GPU=1"
                    if gpus
                    else "is there: start some"
                )
                print(f"no worker {what}. Waiting.", file=sys.stderr)
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
            with tqdm(total=len(todo), desc="runs", unit="run", disable=not progress) as bar:
                collector = _Collector(todo, store, bar)
                while (collector.waiting or collector.futures) and time.monotonic() < deadline:
                    collector.submit(submit, slots())
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
        self.lost = dict.fromkeys(todo, (0, 0))  # how often in a row, and its checkpoint's time
        self.failed: dict[Run, Exception] = {}

    def submit(self, submit: Callable[[Run], Any], slots: int) -> None:
        """Send out as many runs as there are slots: what waits on a worker is lost with it."""
        for _ in range(min(len(self.waiting), slots - len(self.futures))):
            run = self.waiting.popleft()
            self.futures[submit(run)] = run

    def collect(self) -> None:
        """Take back what is done."""
        for future in [future for future in self.futures if future.done()]:
            self._take(self.futures.pop(future), _result(future))

    def _take(self, run: Run, found: dict[str, Any] | Exception | None) -> None:
        from distributed import KilledWorker

        if isinstance(found, WriteError):
            raise found
        if found is None:  # another sweep is at it
            self.waiting.append(run)
        elif isinstance(found, KilledWorker) and self._try_again(run):
            self.waiting.appendleft(run)
        elif isinstance(found, Exception):
            self.failed[run] = found
        else:
            if self.store.record(run) is None:
                self.store.finish(run, found)
            self.bar.update()

    def _try_again(self, run: Run) -> bool:
        """Whether a run whose worker was lost is started again."""
        self.lost[run] = _losses(run, self.store, *self.lost[run])
        times = self.lost[run][0]
        if times < LOSSES:
            told = f"{run.id}: its worker was lost ({times} of {LOSSES}); started again"
            self.bar.write(told, sys.stderr)
        return times < LOSSES

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
    """What `_train` gave back, or the error that it ended with; ValueError where the scheduler is lost."""
    from distributed import CancelledError

    try:
        return future.result()
    except CancelledError:
        raise ValueError(NO_SCHEDULER) from None
    except Exception as error:  # whatever a run or its worker's death raises
        return error


def _slots(client: Any, gpus: bool) -> int:
    """How many runs its workers can take at once: the threads of all, or the GPUs that they offer."""
    if client.status == "closed":
        raise ValueError(NO_SCHEDULER)
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return int(
        sum(worker["resources"].get("GPU", 0) if gpus else worker["nthreads"] for worker in workers)
    )


def _losses(run: Run, store: Store, before: int, stamp: int) -> tuple[int, int]:
    """How often in a row the run was lost, which starts anew where it got on in between, and its checkpoint's time."""
    path = store.checkpoint_path(run)
    now = path.stat().st_mtime_ns if path.exists() else 0
    return (before if now == stamp else 0) + 1, now


def _train(
    run: Run, token: str, root: str | None, device: str | None, threads: int
) -> dict[str, Any] | WriteError | None:
    """On a worker: the run's record; None where another process holds the run; what stands in the way of all runs."""
    if threads:  # a worker of this machine, one of several
        torch.set_num_threads(threads)
        device = _share(device)
    shared, device = Path(token).exists(), device_named(device)
    tiles = functools.partial(_tiles, run.data, run.size, run.threshold, run.resize, root)
    if not shared:
        return fit(run, tiles(), device)
    store = Store(Path(token).parent)
    try:
        with store.claim(run) as mine:
            if mine:
                return fit(run, tiles(), device, store.folder)
    except WriteError as error:
        return error
    time.sleep(HELD)
    return None


def _share(device: str) -> str:
    """This worker's among the machine's GPUs, which are dealt in turn."""
    from distributed import get_worker

    return (
        f"cuda:{int(get_worker().name) % torch.cuda.device_count()}" if device == "cuda" else device
    )


@functools.lru_cache(maxsize=2)
def _tiles(data: str, size: int, threshold: int, resize: str, root: str | None):
    return load_tiles(Run(data=data, size=size, threshold=threshold, resize=resize), root)


def _replacing() -> type:
    """What keeps a cluster's number of workers, those included that were lost before they had begun."""
    from distributed import Adaptive, Status

    class Replacing(Adaptive):
        async def recommendations(self, target: int) -> dict[str, Any]:
            workers = self.cluster.workers
            for name in [
                name
                for name, nanny in workers.items()
                if nanny.status in (Status.failed, Status.closed)
            ]:
                del workers[name]  # Dask would count on it for ever
            return await super().recommendations(target)

    return Replacing


@contextmanager
def _client(scheduler: str, workers: int) -> Iterator[tuple[Any, int]]:
    """A client, and how many threads a run may take (0: as the worker has it)."""
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError:
        raise ValueError("many workers need Dask: pip install 'dlilib[dask]'") from None
    for name in (
        "distributed",
        "distributed.client",
    ):  # a lost connection is told in one line, not in tracebacks
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if scheduler:
        try:
            client = Client(scheduler, timeout=CONNECT)
        except (OSError, ValueError, TypeError) as error:  # TypeError: tls without its certificates
            raise ValueError(
                f"no Dask scheduler at {scheduler} ({type(error).__name__}): start one there"
            ) from None
        with client:
            yield client, 0
        return
    settings = {
        "distributed.scheduler.allowed-failures": 0,  # each loss is told, and counted, here
        "distributed.deploy.lost-worker-timeout": "5s",
        "logging.distributed": "critical",
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,  # Dask's makes training a quarter slower
        "distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "critical",  # what fails is told here
        "distributed.worker.profile.enabled": False,
    }
    with dask.config.set(settings):
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
            yield client, max(1, (os.cpu_count() or 1) // workers)
