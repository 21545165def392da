"""A sweep over many workers: dask.distributed takes the runs to them and the records back."""

import functools
import logging
import os
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dlilib.run import Run
from dlilib.store import Store, write_whole
from dlilib.study import device_named, load_tiles, pending
from dlilib.train import fit

LOSSES = 100  # of workers, that a run outlives
RETRIES = 2  # of a run that fails on a worker: another one may have the data
CONNECT = 10  # seconds


def execute(
    runs: Sequence[Run], folder: str | Path, root: str | Path | None = None, device: str | None = None,
    budget: float | None = None, scheduler: str = "", workers: int = 0, progress: bool = True,
) -> int:
    """`study.execute` on Dask workers: finish what is pending of `runs` and return how many are still pending.

    scheduler: address of a running one, as tcp://host:8786; else `workers` processes are started here, which share its
        cores. device "cuda" takes workers that offer the resource GPU, one GPU a run; root is a path on the workers.
    A worker that sees `folder`, as on one machine or a shared file system, keeps its checkpoints and records there, so
    that another one goes on where it was lost; records from elsewhere are written here, as each arrives. At the end of
    the budget (seconds) waiting runs are dropped, those under way go on where the cluster outlives this call.
    Raises ValueError saying what to do where there is no scheduler or it is lost, or a run fails on its workers.
    """
    store, todo = Store(folder), pending(runs, folder)
    token = store.folder.resolve() / f".sweep-{uuid.uuid4().hex}"
    write_whole(token, b"")
    try:
        with _client(scheduler, workers) as (client, threads):
            print(f"Dask dashboard: {client.dashboard_link}", file=sys.stderr)
            wanted = {"GPU": 1} if (device or "").startswith("cuda") else {}
            offered = [worker["resources"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()]
            if not any(wanted.keys() <= resources.keys() for resources in offered):
                what = "offers a GPU: start them with --resources GPU=1" if wanted else "is there: start some"
                print(f"no worker {what}. Waiting.", file=sys.stderr)
            submit = functools.partial(
                client.submit, _train, token=str(token), root=None if root is None else str(Path(root).resolve()),
                device=device, threads=threads, resources=wanted, retries=RETRIES, pure=False,
            )
            _collect(todo, submit, store, budget, progress)
    finally:
        token.unlink(missing_ok=True)
    return len(pending(runs, folder))


def _collect(todo: Sequence[Run], submit: Any, store: Store, budget: float | None, progress: bool) -> None:
    """Submit every run, again where its worker is lost, and keep the records as they come."""
    from distributed import KilledWorker, as_completed

    futures = {submit(run): run for run in todo}
    lost, failed = dict.fromkeys(todo, 0), {}
    arriving = as_completed(futures, timeout=budget)
    with tqdm(total=len(todo), desc="runs", unit="run", disable=not progress or not todo) as bar:
        try:
            for future in arriving:
                run = futures.pop(future)
                if future.status == "finished":
                    if store.record(run) is None:
                        store.finish(run, future.result())
                    bar.update()
                elif future.status != "error":
                    raise ValueError("the scheduler is lost; what is finished is kept: start it and the sweep again")
                elif isinstance(error := future.exception(), KilledWorker) and lost[run] < LOSSES:
                    lost[run] += 1
                    futures[again := submit(run)] = run
                    arriving.add(again)
                else:
                    failed[run] = error
        except TimeoutError:
            for future in futures:
                future.cancel()
    if failed:
        run, error = next(iter(failed.items()))
        raise ValueError(f"{len(failed)} runs failed, the others are kept. {run.id}: {type(error).__name__}: {error}")


def _train(run: Run, token: str, root: str | None, device: str | None, threads: int) -> dict[str, Any]:
    """On a worker: the run's record."""
    if threads:
        torch.set_num_threads(threads)
    shared, device = Path(token).exists(), device_named(device)
    tiles = _tiles(run.data, run.size, run.threshold, run.resize, root)
    if not shared:
        return fit(run, tiles, device)
    store = Store(Path(token).parent)
    with store.claim(run, wait=True):  # a worker that the scheduler has given up may still be at it
        return fit(run, tiles, device, store.folder)


@functools.lru_cache(maxsize=2)
def _tiles(data: str, size: int, threshold: int, resize: str, root: str | None):
    return load_tiles(Run(data=data, size=size, threshold=threshold, resize=resize), root)


@contextmanager
def _client(scheduler: str, workers: int) -> Iterator[tuple[Any, int]]:
    """A client, and how many threads a run may take (0: as the worker has it)."""
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError:
        raise ValueError("many workers need Dask: pip install 'dlilib[dask]'") from None
    for name in ("distributed", "distributed.client"):  # a lost connection is told in one line, not in tracebacks
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if scheduler:
        try:
            client = Client(scheduler, timeout=CONNECT)
        except (OSError, ValueError) as error:
            raise ValueError(f"no Dask scheduler at {scheduler} ({type(error).__name__}): start one there") from None
        with client:
            yield client, 0
        return
    settings = {"distributed.scheduler.allowed-failures": LOSSES, "distributed.deploy.lost-worker-timeout": "5s"}
    with dask.config.set(settings):
        try:
            cluster = LocalCluster(workers, threads_per_worker=1, dashboard_address=":0", memory_limit=0)
        except RuntimeError as error:
            raise ValueError(f"the {workers} workers could not be started: {error}") from None
        cluster.adapt(minimum=workers, maximum=workers)  # replaces those that even their nanny cannot start again
        with cluster, Client(cluster) as client:
            yield client, max(1, (os.cpu_count() or 1) // workers)
