"""A sweep in the background, which leaves the machine to its user.

Each core has one run with one thread, at the lowest priority.
"""

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
TOLD = 10  # lines of a failed process's output that its error shows
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    # glibc gives memory back and asks for it again at every step without these
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
}


def execute_in_background(
    runs: Sequence[Run], folder: str | Path, options: Sequence[str], *, processes: int = 0
) -> int:
    """Finish what is pending of `runs` in processes of the lowest priority.

    When this process ends, so do they, even if it is killed; one that is paused then ends when it
    is woken. An unfinished run continues at its last epoch the next time.

    Args:
        runs: What to train.
        folder: Where records and checkpoints are kept.
        options: Those of `dli run` that choose the runs, their data and the budget. Each process is
            such a `dli run` on the CPU, with one thread.
        processes: How many; 0: one for each core.

    Returns:
        How many runs are still pending.

    Raises:
        ValueError: A process failed; the message has its last lines.
    """
    todo, store = pending(runs, folder), Store(folder)
    if not todo:
        return 0
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        before = signal.signal(signal.SIGTERM, _terminated)
        stack.callback(signal.signal, signal.SIGTERM, before)
        bar = stack.enter_context(tqdm(total=len(todo), desc="runs", unit="run"))
        paths = [logs / str(k) for k in range(min(processes or cores(), len(todo)))]
        started = [stack.enter_context(_process(options, path)) for path in paths]
        ids = " ".join(str(process.pid) for process in started)
        bar.write(f"processes {ids}: kill -STOP pauses, kill -CONT goes on", sys.stderr)
        running = True
        while running:
            time.sleep(POLL)
            finished = sum(store.record_path(run).exists() for run in todo)
            bar.update(finished - bar.n)
            codes = [process.poll() for process in started]
            _check_codes(codes, paths)
            running = None in codes
    return len(pending(runs, folder))


@contextmanager
def _process(options: Sequence[str], log: Path) -> Iterator[subprocess.Popen]:
    """A `dli run` of the lowest priority, which ends with its context, and with this process."""
    words = ["run", "--device", "cpu", "--end-with-input", *options]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "dlilib", *words],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=os.environ | ENVIRONMENT,
            start_new_session=True,
        )
    try:
        _lowest_priority(process.pid)
        yield process
    finally:
        process.terminate()
        if hasattr(signal, "SIGCONT"):
            process.send_signal(signal.SIGCONT)  # a paused process does not see that it is to end
        process.wait()


def _lowest_priority(pid: int) -> None:
    """Give a process the lowest priority; `pid` leads a session of its own."""
    if hasattr(os, "setpriority"):
        with suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, pid, LOWEST)
    # Linux may group processes by session. It then shares cores between the sessions first,
    # whatever the niceness of the processes in them.
    group = Path(f"/proc/{pid}/autogroup")
    for _ in range(20):
        try:
            group.write_text(str(LOWEST))
            return
        except BlockingIOError:  # it takes one such change in a tenth of a second
            time.sleep(0.1)
        except OSError:  # it does not group
            return


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _terminated(number: int, frame: object) -> None:
    sys.exit(128 + number)


def _check_codes(codes: Sequence[int | None], logs: Sequence[Path]) -> None:
    """Raise ValueError if a process failed; codes: None for those that run."""
    for code, log in zip(codes, logs, strict=True):
        if code:
            raise ValueError(f"a process of the sweep {_end(code)}: {_last_words(log)}")


def _end(code: int) -> str:
    if code > 0:
        return f"failed with exit code {code}"
    return f"was ended by signal {-code} (9: perhaps out of memory)"


def _last_words(log: Path) -> str:
    said = []
    for line in log.read_text(errors="replace").replace("\r", "\n").splitlines():
        progress_bar = line.startswith("runs:")
        if line.strip() and not progress_bar:
            said.append(line)
    return "\n".join(said[-TOLD:]) or "it said nothing"


def end_with_input() -> None:
    """Let this process end when its standard input closes, as the process that started it ends."""
    threading.Thread(target=_wait_for_end_of_input, daemon=True).start()


def _wait_for_end_of_input() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(128 + signal.SIGTERM)
