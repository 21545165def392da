"""What the tests share: data, weights and a browser that may not be at hand, and a local server."""

import http.server
import os
import shutil
import threading
import warnings
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; what the tests start inherits it

import numpy as np
import pytest
import torch
from builders import TINY, TINY_PRESET, few_of_each_class, kept

import dlilib
from dlilib.study import experiments, presets, sweep
from dlilib.training.trainer import fit

try:
    from hypothesis import settings
except ImportError:  # on a bare GPU machine, for tests/test_gpu.py
    pass
else:
    settings.register_profile("full", deadline=None)
    settings.register_profile("fast", deadline=None, max_examples=10)
    settings.load_profile("full")

torch.set_num_threads(1)


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def magnetic_root() -> Path:
    if not os.environ.get("DLILIB_DATA"):
        pytest.skip("REAL DATA NOT TESTED: real Magnetic Tiles not at hand: set DLILIB_DATA")
    path = Path(os.environ["DLILIB_DATA"])
    return path / "magnetic_tiles.zip" if (path / "magnetic_tiles.zip").exists() else path


@pytest.fixture(scope="session")
def weights_root() -> Path:
    if not os.environ.get("DLILIB_WEIGHTS"):
        pytest.skip("REAL WEIGHTS NOT TESTED: ImageNet weights not at hand: set DLILIB_WEIGHTS")
    return Path(os.environ["DLILIB_WEIGHTS"])


@pytest.fixture(scope="session")
def real_tiles(magnetic_root) -> dlilib.TileSet:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the released files load without a word
        return dlilib.magnetic_tiles(magnetic_root, size=128)


@pytest.fixture(scope="session")
def toy() -> dlilib.TileSet:
    return dlilib.toy_tiles()


@pytest.fixture(scope="session")
def small_toy() -> dlilib.TileSet:
    """All toy tiles, 32 px."""
    return dlilib.toy_tiles(size=32)


@pytest.fixture(scope="session")
def few_tiles() -> dlilib.TileSet:
    """72 toy tiles, 16 px: an epoch takes a fraction of a second."""
    return few_of_each_class(dlilib.toy_tiles(size=16))


@pytest.fixture(scope="session")
def tiny_record(few_tiles) -> dict:
    """The record of TINY on the few tiles; not to be changed."""
    return fit(TINY, few_tiles)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """undisturbed(match): what the matching runs of TINY_PRESET give if nothing disturbs them."""
    folder = tmp_path_factory.mktemp("undisturbed")

    def records(match=""):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(presets.PRESETS, "tiny", TINY_PRESET)
            runs = experiments.all_runs("tiny", match)
        sweep.execute(runs, folder, device="cpu", progress=False)
        found = kept(folder)
        return {run.id: found[run.id] for run in runs}

    return records


@pytest.fixture(scope="session")
def real_groups(real_tiles) -> np.ndarray:
    """The rule for file numbers, written again.

    Gaps of at most 400, no exposure twice, within a class.
    """
    shots = defaultdict(list)
    for i, name in enumerate(real_tiles.names):
        folder, stem = name.split("/")
        exposure, number = stem.removeprefix("exp").split("_num_")
        shots[folder].append((int(number), int(exposure), i))
    group = np.full(len(real_tiles), -1)
    for photographs in shots.values():
        met, last = set(), None
        for number, exposure, i in sorted(photographs):
            if last is None or number - last > 400 or exposure in met:
                current, met = i, set()
            met.add(exposure)
            last = number
            group[i] = current
    return group


@pytest.fixture(scope="session")
def browser():
    """A headless chromium of this machine."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="BROWSER NOT TESTED: playwright is not installed"
    )
    if not (chromium := shutil.which("chromium")):
        pytest.skip("BROWSER NOT TESTED: chromium is not installed")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()


@contextmanager
def _serving(handler: type[http.server.BaseHTTPRequestHandler]):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def serve(monkeypatch):
    """serve(answer) -> (URL, requested paths).

    answer(handler) writes the response to a HEAD or GET.
    """
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ExitStack() as stack:

        def start(answer):
            requests = []

            class Handler(http.server.BaseHTTPRequestHandler):
                def do_GET(self):
                    requests.append(f"{self.command} {self.path}")
                    answer(self)

                do_HEAD = do_GET

                def log_message(self, *args):
                    pass

            return stack.enter_context(_serving(Handler)), requests

        yield start
