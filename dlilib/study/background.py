"""A sweep that the person at the machine does not notice: one thread a run, a run a core, at the lowest priority."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

from dlilib.study.sweep import pending
from dlilib.training.run import Run
from dlilib.training.store import Store

LOWEST = 19  # niceness
POLL = 1  # second, between looks at how far the processes are
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    # glibc gives memory back and asks for it again at every step without these
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
}


def execute_in_background(
    runs: Sequence[Run], folder: str | Path, options: Sequence[str], processes: int = 0
) -> int:
    """Finish what is pending of `runs` in processes of the lowest priority and return how many are still pending.

    options: those of `dli run` that choose the runs, their data and the budget; each process is such a `dli run` on the
    CPU, with one thread. processes: how many; 0: one a core. When this process ends, so do they, even if it is killed
    (one that is paused then ends when it is woken): an unfinished run goes on at its last epoch. Raises ValueError with
    the last words of a process that failed.
    """
    todo, store = pending(runs, folder), Store(folder)
    if not todo:
        return 0
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, _terminated))
        bar = stack.enter_context(tqdm(total=len(todo), desc="runs", unit="run"))
        paths = [logs / str(k) for k in range(min(processes or _cores(), len(todo)))]
        started = [stack.enter_context(_process(options, path)) for path in paths]
        ids = " ".join(str(process.pid) for process in started)
        bar.write(f"processes {ids}: kill -STOP pauses, kill -CONT goes on", sys.stderr)
        codes: list[int | None] = [None]
        while None in codes:
            time.sleep(POLL)
            bar.update(sum(store.record_path(run).exists() for run in todo) - bar.n)
            codes = [process.poll() for process in started]
            for code, path in zip(codes, paths, strict=True):
                if code:
                    raise ValueError(f"a process of the sweep {_end(code)}: {_last_words(path)}")
    return len(pending(runs, folder))


@contextmanager
def _process(options: Sequence[str], log: Path) -> Iterator[subprocess.Popen]:
    """A `dli run` of the lowest priority, which ends with its context, and with this process."""
    words = ["run", "--device", "cpu", "--end-with-input", *options]
    command = [sys.executable, "-W", "ignore", "-m", "dlilib", *words]
    with log.open("wb") as output:
        streams = {"stdin": subprocess.PIPE, "stdout": output, "stderr": output}
        process = subprocess.Popen(
            command, env=os.environ | ENVIRONMENT, start_new_session=True, **streams
        )
    try:
        _lowest_priority(process.pid)
        yield process
    finally:
        process.terminate()
        if hasattr(signal, "SIGCONT"):
            process.send_signal(signal.SIGCONT)  # one that is paused does not hear of its end
        process.wait()


def _lowest_priority(pid: int) -> None:
    """Make way for everything else; `pid` leads a session of its own."""
    if hasattr(os, "setpriority"):
        with suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, pid, LOWEST)
    # Linux shares cores between sessions first, whatever the niceness of what runs in them, where it groups by session.
    group = Path(f"/proc/{pid}/autogroup")
    for _ in range(20):
        try:
            group.write_text(str(LOWEST))
            return
        except BlockingIOError:  # it takes one such change in a tenth of a second
            time.sleep(0.1)
        except OSError:  # it does not group
            return


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _terminated(number: int, frame: object) -> None:
    sys.exit(128 + number)


def _end(code: int) -> str:
    return (
        f"failed with exit code {code}"
        if code > 0
        else f"was ended by signal {-code} (9: perhaps out of memory)"
    )


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").replace("\r", "\n").splitlines()
    said = [
        line for line in lines if line.strip() and not line.startswith("runs:")
    ]  # not the progress bar
    return "\n".join(said[-10:]) or "it said nothing"


def end_with_input() -> None:
    """Let this process end when its standard input closes: with the one that started it."""
    threading.Thread(target=_wait_for_end_of_input, daemon=True).start()


def _wait_for_end_of_input() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(128 + signal.SIGTERM)
