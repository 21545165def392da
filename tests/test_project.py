"""The files around the code agree with each other and with what the README says."""

import importlib.util
import re
import tomllib
from pathlib import Path

import nbformat
import pytest
import torch
import yaml

from dlilib.data.convert import to_folder
from dlilib.study.presets import PRESETS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def names(requirements):
    return {re.match(r"[\w-]+", r)[0].lower() for r in requirements}


EXTRAS = {name: names(found) for name, found in PROJECT["project"]["optional-dependencies"].items()}


def test_lock_pins_every_dependency_with_a_hash():
    lock = (ROOT / "requirements.lock").read_text()
    entries = re.findall(r"^([\w.-]+)==\S+(?: ; .*)? \\\n    --hash=sha256:", lock, re.MULTILINE)
    pinned = {entry.lower() for entry in entries}
    assert len(re.findall(r"^\S+==", lock, re.MULTILINE)) == len(entries)
    wanted = names(PROJECT["project"]["dependencies"]).union(*EXTRAS.values()) - {"dlilib"}
    assert wanted <= pinned
    assert "://" not in lock


def test_conda_environment_installs_the_lock_on_a_supported_python():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(
        d for d in environment["dependencies"] if isinstance(d, str) and d.startswith("python=")
    )
    low, high = re.fullmatch(
        r">=3\.(\d+),<3\.(\d+)", PROJECT["project"]["requires-python"]
    ).groups()
    assert int(low) <= int(python.removeprefix("python=3.")) < int(high)
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert pip == ["-r requirements.lock"]
    assert environment["name"] == PROJECT["project"]["name"]
    assert "pip install --no-deps -e ." in (ROOT / "README.md").read_text()


def test_customer_packages_are_dependencies():
    wanted = (
        "jupyterlab papermill torch segmentation-models-pytorch timm opencv-python seaborn pandas"
    )
    assert set(wanted.split()) <= names(PROJECT["project"]["dependencies"]) | EXTRAS["study"]
    assert {"pytest", "nbval"} <= EXTRAS["test"]


def test_readme_links_and_commands_exist():
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text()
    for word in set(re.findall(r"`?make (\w+)`?", text)) - {"is", "and"}:
        assert re.search(rf"^{word}:", makefile, re.MULTILINE), word


@pytest.fixture
def examples(tmp_path, toy, monkeypatch):
    """The README's Python in the section on the transform, word for word, on toy tiles."""
    to_folder(toy, tmp_path / "my_parts")
    monkeypatch.chdir(tmp_path)
    section = re.search(
        r"## The drop-in transform\n(.*?)\n## ", (ROOT / "README.md").read_text(), re.DOTALL
    )[1]
    scope = {}
    for code in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        exec(code, scope)
    return scope


def test_readme_transform_runs(examples):
    assert int((examples["labels"] == 0).sum()) == 0 and len(examples["labels"]) > 1


def test_readme_collate_fn_balances_in_every_process_by_its_own_draws(examples):
    """Twice the same batch, each by another process."""
    batch = [examples["data"][i] for i in range(64)]
    options = {
        "collate_fn": examples["collate"],
        "worker_init_fn": examples["reseed"],
        "num_workers": 2,
    }
    first, second = examples["DataLoader"]([*batch, *batch], 64, **options)
    assert int((first[2] == 0).sum()) == 0 and first[0].shape == (64, 1, 256, 256)
    assert torch.equal(first[2], second[2]) and not torch.equal(first[0], second[0])


def test_readme_augmentation_is_drawn_for_each_image(examples):
    tiles, flips = examples["tiles"], examples["v2"].RandomHorizontalFlip()
    examples["augment"].transforms = [flips]
    rows = (tiles.labels > 0).nonzero()[:40, 0]  # nothing is injected into these
    images = examples["collate"](
        [(tiles.images[i], tiles.masks[i], tiles.labels[i]) for i in rows]
    )[0]
    flipped = [
        torch.equal(a, b.flip(-1).float() / 255)
        for a, b in zip(images, tiles.images[rows], strict=True)
    ]
    assert 0 < sum(flipped) < len(rows)


def test_readme_loader_balances(examples):
    labels = next(iter(examples["loader"]))[2]
    assert int((labels == 0).sum()) == 0 and len(torch.bincount(labels)) == 6


def test_readme_lightning_hook_injects_in_training_alone(examples):
    lightning, data = pytest.importorskip("lightning"), examples["data"]
    seen = {"training": [], "validation": []}

    class Model(examples["Balanced"]):
        def training_step(self, batch):
            seen["training"].append(batch[2])
            return (self.weight * batch[0].mean()).sum()

        def validation_step(self, batch):
            seen["validation"].append(batch[2])

        def configure_optimizers(self):
            self.weight = torch.nn.Parameter(torch.ones(1))
            return torch.optim.SGD([self.weight], 0.1)

    loader = examples["DataLoader"](data, 32)
    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    lightning.Trainer(max_epochs=1, accelerator="cpu", **quiet).fit(Model(), loader, loader)
    assert not any((labels == 0).any() for labels in seen["training"])
    assert torch.equal(torch.cat(seen["validation"])[-len(data) :], data.tensors[2])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_keeps_the_house_rules(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.metadata.get("tags", []) for cell in code] == [
        ["parameters"],
        *[[]] * (len(code) - 1),
    ]
    assert any("# NBVAL_CHECK_OUTPUT" in cell.source for cell in code)
    assert not any(re.search(r"^\s*(def|class) ", cell.source, re.MULTILINE) for cell in code)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    assert "papermill" not in notebook.metadata
    shown = nbformat.writes(notebook)
    assert not re.search(rf"{ROOT}|site-packages|/(home|root|Users|tmp)/", shown)


@pytest.mark.parametrize("number", ["03", "04", "05", "06", "07"])
def test_stored_notebooks_of_lite_are_of_the_preset_as_it_is(number):
    """`dli study --preset lite --no-compute` brings them up to date."""
    (path,) = (ROOT / "results" / "lite" / "notebooks").glob(f"{number}_*.ipynb")
    outputs = [
        o
        for c in nbformat.read(path, as_version=4).cells
        if c.cell_type == "code"
        for o in c.outputs
    ]
    assert PRESETS["lite"].about in "".join(o.get("text", "") for o in outputs)


def test_what_stored_notebooks_import_is_there():
    folders = [ROOT / "results" / preset / "notebooks" for preset in ("lite", "short", "paper")]
    for path in sorted(path for folder in folders for path in folder.glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
        for module, names in re.findall(r"^from (dlilib\S*) import (.+)$", code, re.MULTILINE):
            for name in names.split(", "):
                found = hasattr(importlib.import_module(module), name)
                assert found or importlib.util.find_spec(f"{module}.{name}"), f"{path}: {name}"
