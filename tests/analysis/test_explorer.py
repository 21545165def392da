"""The explorer of single injections: its picture is the library's.

Its controls are live, in JupyterLab too.
"""

import base64
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import torch

import dlilib
from dlilib.analysis.explorer import explore, inject_one
from dlilib.balance import Plan

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "02_injection_visualization.ipynb"
FREE, BLOWHOLE, BREAK = 5, 240, 270
IDENTITY = torch.eye(2, 3)[None]


@pytest.mark.parametrize("poisson", [False, True])
@pytest.mark.parametrize("options", [{}, {"region": "mask", "guidance": "donor", "label": "tight"}])
def test_unturned_it_is_the_transforms_own_injection(toy, poisson, options):
    plan = Plan(
        torch.tensor([0]),
        torch.tensor([2]),
        torch.tensor([BREAK]),
        IDENTITY,
        torch.tensor([poisson]),
    )
    before = toy.images[[FREE]].float() / 255
    transform = dlilib.DynamicLabelInjection(toy, **options)
    images, masks, _ = transform.apply_plan(plan, before, toy.masks[[FREE]], toy.labels[[FREE]])
    image, label, change = inject_one(toy, FREE, BREAK, poisson=poisson, **options)
    assert torch.equal(image, images[0])
    assert torch.equal(label, masks[0])
    assert torch.equal(change, (image - before[0]).abs())


def test_cut_paste_takes_the_donors_pixels_and_leaves_the_rest(toy):
    image, label, change = inject_one(toy, FREE, BLOWHOLE, poisson=False)
    inside = toy.masks[BLOWHOLE] == 1
    assert torch.equal(label, inside.to(label))
    assert torch.equal((255 * image[0])[inside].round(), toy.images[BLOWHOLE, 0][inside].float())
    assert change[0][~inside].max() == 0 < change[0][inside].min()


def test_donor_turns_clockwise(toy):
    _, upright, _ = inject_one(toy, FREE, BREAK, poisson=False)
    _, turned, _ = inject_one(toy, FREE, BREAK, rotation=90, poisson=False)
    assert torch.equal(turned, torch.rot90(upright, -1))
    assert not torch.equal(turned, upright)


def test_scale_makes_the_defect_so_much_larger(toy):
    tiles = replace(toy, masks=toy.masks.clone())
    tiles.masks[BREAK] = 0
    tiles.masks[BREAK, 24:40, 24:40] = 2  # around the centre
    for scale in (0.75, 1.5):
        _, label, _ = inject_one(tiles, FREE, BREAK, scale=scale, poisson=False)
        assert (label > 0).sum() == (16 * scale) ** 2


def test_rotation_does_not_shear_an_oblong_tile(toy):
    tiles = replace(
        toy, images=toy.images[..., :63, :41], masks=torch.zeros_like(toy.masks[:, :63, :41])
    )
    tiles.masks[BREAK, 26:37, 16:25] = 2  # around the centre
    _, label, _ = inject_one(tiles, FREE, BREAK, rotation=90, poisson=False)
    across, down = (label.amax(dim=axis).sum() // 2 for axis in (0, 1))
    assert (across, down) == (11, 9)


def controls(explorer):
    """Description -> control."""
    return {w.description: w for column in explorer.children[0].children for w in column.children}


MOVES = {
    "class": 2,
    "target image": 7,
    "rotation, degrees": 30,
    "scale, factor": 1.5,
    "p_poisson": 0.0,
    "guidance": "donor",
    "region": "mask",
    "blend label": "tight",
}


@pytest.mark.parametrize("name", MOVES)
def test_every_control_changes_the_picture_and_back(toy, name):
    explorer = explore(toy)
    picture, control = explorer.children[-1], controls(explorer)[name]
    first, start = bytes(picture.value), control.value
    assert first.startswith(b"\x89PNG")
    control.value = MOVES[name]
    assert picture.value != first
    control.value = start
    assert picture.value == first


BLENDS = [(0, 0.5, True), (1, 0.5, False), (1, 0.8, True), (0, 0.0, False)]


@pytest.mark.parametrize(("seed", "p_poisson", "poisson"), BLENDS)
def test_seeds_draw_decides_on_the_blend(toy, seed, p_poisson, poisson):
    drawn = torch.rand(1, generator=torch.Generator().manual_seed(seed)).item()
    assert (drawn < p_poisson) == poisson
    explorer = explore(toy)
    found = controls(explorer)
    found["seed"].value, found["p_poisson"].value = seed, p_poisson
    before = bytes(explorer.children[-1].value)
    found["region"].value = "mask"
    assert (explorer.children[-1].value != before) == poisson  # cut-paste knows no region


def test_donors_follow_the_class(toy):
    explorer = explore(toy, donors=torch.arange(0, len(toy), 2))
    found = controls(explorer)
    for k, name in enumerate(toy.classes):
        found["class"].value = k
        own = [i for i in range(0, len(toy), 2) if toy.labels[i] == k + 1]
        assert found["donor"].options == tuple((toy.names[i], i) for i in own), name
        assert found["donor"].value == own[0]
    before = bytes(explorer.children[-1].value)
    found["donor"].value = own[-1]
    assert explorer.children[-1].value != before


def test_tiles_without_a_free_one_are_refused(toy):
    with pytest.raises(ValueError, match="toy has no defect-free image"):
        explore(replace(toy, labels=toy.labels.clamp(min=1)))


def test_where_no_widget_lives_its_picture_is_shown(toy):
    explorer = explore(toy)
    controls(explorer)["scale, factor"].value = 1.5
    shown = explorer._repr_mimebundle_()
    assert base64.b64decode(shown["image/png"]) == explorer.children[-1].value
    assert shown["application/vnd.jupyter.widget-view+json"]["model_id"] == explorer.model_id


def test_stored_notebook_keeps_the_first_picture_without_a_kernel():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    output = next(cell for cell in notebook.cells if "explore(" in cell.source).outputs[0]
    assert {"application/vnd.jupyter.widget-view+json", "image/png"} <= output.data.keys()
    assert (
        "widgets" not in notebook.metadata
    )  # a page would ask the network for them and not show the picture


@contextmanager
def jupyterlab(folder, home):
    """The URL of a JupyterLab on `folder` that knows nothing of this user; its token is `open`."""
    places = {
        f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")
    }
    options = [
        "--no-browser",
        "--allow-root",
        f"--ServerApp.root_dir={folder}",
        "--IdentityProvider.token=open",
        "--KernelManager.transport=ipc",  # kernels that start at once may be given one port
    ]
    with (
        (home / "log.txt").open("w") as log,
        tempfile.TemporaryDirectory(dir="/tmp") as sockets,  # a socket's name must be short
    ):
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options, f"--KernelManager.ip={sockets}/kernel"],
            stdout=log,
            stderr=log,
            env={**os.environ, **places, "HOME": str(home)},
        )
        try:
            yield _address(process, home)
        finally:
            process.terminate()
            process.wait(30)


def _address(process, home, seconds=120):
    """Where the server says that it listens, once it does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        for path in (home / "runtime").glob("jpserver-*.json"):
            if text := path.read_text():
                return json.loads(text)["url"]
        time.sleep(0.2)
    raise AssertionError((home / "log.txt").read_text())


@pytest.fixture
def lab(tmp_path):
    """A JupyterLab on explorer.ipynb: notebook 2's parameters, imports and explorer alone."""
    pytest.importorskip("jupyterlab", reason="JUPYTERLAB NOT TESTED: it is not installed")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    notebook.cells = [*code[:2], *(cell for cell in code if "explore(" in cell.source)]
    for folder in ("notebooks", "home"):
        (tmp_path / folder).mkdir()
    nbformat.write(notebook, tmp_path / "notebooks" / "explorer.ipynb")
    with jupyterlab(tmp_path / "notebooks", tmp_path / "home") as url:
        yield f"{url}lab/tree/explorer.ipynb?token=open"


@pytest.mark.slow
def test_arrow_key_on_a_slider_changes_the_picture_in_jupyterlab(browser, lab):
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.set_default_timeout(120_000)
    page.goto(lab)
    stored = page.locator(".jp-OutputArea-output img")
    stored.wait_for()  # before any cell has run
    page.get_by_text("| Idle").wait_for()
    page.get_by_text("Run", exact=True).first.click()
    page.get_by_text("Run All Cells", exact=True).click()
    picture = page.locator("img.widget-image")
    picture.wait_for()
    first = picture.get_attribute("src")
    page.locator(".widget-slider", has_text="rotation").locator("[role=slider]").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "first => document.querySelector('img.widget-image').src != first", arg=first
    )
    assert (
        page.locator(".widget-slider", has_text="rotation").locator(".widget-readout").inner_text()
        == "1"
    )
    assert picture.evaluate("image => image.naturalWidth") > 500
    page.close()
