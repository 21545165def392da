"""What README and docs tell works word for word, and their table is the transform's signature."""

import inspect
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import dlilib
from dlilib import DynamicLabelInjection
from dlilib.data.convert import SOURCES, convert, to_folder

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
HOW_TO = ROOT / "docs" / "how_to"
TRANSFORM = (HOW_TO / "transform.md").read_text()
OWN_DATA = (HOW_TO / "own_data.md").read_text()
TRAIN = (HOW_TO / "train_and_deploy.md").read_text()


def python(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.fixture(scope="module")
def parts(toy, tmp_path_factory):
    """A folder that holds `my_parts`: the toy tiles."""
    folder = tmp_path_factory.mktemp("documentation")
    to_folder(toy, folder / "my_parts")
    return folder


@pytest.fixture(scope="module")
def scope(parts):
    """The names that the examples on the transform leave, all but the distributed one."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(parts)
        for code in python(TRANSFORM):
            if "distributed" not in code:
                exec(code, found)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_front_pages_example_balances(parts, monkeypatch, page):
    monkeypatch.chdir(parts)
    torch.manual_seed(0)
    (code,) = python((ROOT / page).read_text())
    found = {}
    exec(code, found)
    assert balanced(found["labels"])
    assert found["images"].dtype == torch.uint8 and len(found["labels"]) == len(found["masks"])


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_from_a_folder_to_an_onnx_file(toy, tmp_path, monkeypatch, channels):
    few = toy.subset(range(0, 336, 5))  # it trains a model
    tint = torch.tensor([255, 220, 180])[:channels, None, None]
    photographs = (few.images.int() * tint // 255).byte()
    to_folder(replace(few, images=photographs), tmp_path / "my_parts")
    monkeypatch.chdir(tmp_path)
    found = {}
    for code in python(TRAIN):
        fragment = "free_patches" in code  # of a folder of large photographs
        if not fragment and "to_folder(" not in code:
            exec(code, found)
    assert found["found"].shape == (len(found["val"]), 64, 64)
    assert (found["found"] != found["expected"].numpy()).mean() < 1e-3
    assert (tmp_path / "model.onnx").exists()


def test_every_format_has_a_row_that_names_its_command():
    told = re.findall(r"^\|.*`dli convert ([\w-]+) \S+ my_parts`", OWN_DATA, re.MULTILINE)
    assert set(told) == set(SOURCES)
    words = set(re.findall(r"--([a-z]+)", OWN_DATA))
    assert words <= set(inspect.signature(convert).parameters)


def test_the_table_names_every_argument_with_its_default():
    rows = re.findall(r"^\| `(\w+)` \|([^|]*)\|[^|]*\|[^|]*\|$", TRANSFORM, re.MULTILINE)
    told = {name: default.strip(" `") for name, default in rows}
    signature = inspect.signature(DynamicLabelInjection).parameters
    assert list(told) == list(signature)
    for name, parameter in signature.items():
        required = parameter.default is parameter.empty
        assert told[name] == ("" if required else repr(parameter.default)), name


def balanced(labels):
    return int((labels == 0).sum()) == 0 and len(labels.bincount()) == 6


@pytest.mark.slow
def test_the_plain_and_the_torchvision_loader_balance(scope):
    for name in ("loader", "vision_loader"):
        assert balanced(next(iter(scope[name]))[2]), name


@pytest.mark.slow
def test_torchvision_augments_each_image_by_its_own_draw(scope):
    tiles, flips = scope["tiles"], scope["v2"].RandomHorizontalFlip()
    scope["augment"].transforms = [flips]
    defective = tiles.subset((tiles.labels > 0).nonzero()[:40, 0])  # nothing is injected there
    images = scope["augment_each"](defective.images, defective.masks, defective.labels)[0]
    flipped = [
        torch.equal(a, b.flip(-1).float() / 255)
        for a, b in zip(images, defective.images, strict=True)
    ]
    assert 0 < sum(flipped) < len(defective)


@pytest.mark.slow
def test_kornias_warp_and_the_compiled_step_leave_what_they_should(parts, scope):
    assert scope["masks"].dtype == torch.uint8 and scope["masks"].max() == 5
    assert scope["loss"].isfinite()
    assert next(scope["model"].parameters()).grad is not None
    kept = dlilib.models.load(parts / "model.safetensors")
    assert kept.trained_on == dlilib.models.TrainedOn.of(scope["tiles"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning:lightning")
def test_lightning_injects_in_training_alone(scope):
    lightning, tiles = scope["lightning"], scope["tiles"]
    seen = {"training": [], "validation": []}

    class Model(scope["Balanced"]):
        def training_step(self, batch):
            seen["training"].append(batch[2])
            return (self.weight * batch[0].mean()).sum()

        def validation_step(self, batch):
            seen["validation"].append(batch[2])

        def configure_optimizers(self):
            self.weight = torch.nn.Parameter(torch.ones(1))
            return torch.optim.SGD([self.weight], 0.1)

    loader = scope["DataLoader"](tiles, 32)
    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    lightning.Trainer(max_epochs=1, accelerator="cpu", **quiet).fit(Model(), loader, loader)
    assert not any((labels == 0).any() for labels in seen["training"])
    assert torch.equal(torch.cat(seen["validation"])[-len(tiles) :], tiles.labels)


@pytest.mark.slow
def test_the_distributed_example_balances_on_every_rank(parts):
    (code,) = (code for code in python(TRANSFORM) if "distributed" in code)
    (parts / "distributed.py").write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, "distributed.py"], cwd=parts, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    # the two may print at the same time, one line into the other
    told = dict(re.findall(r"rank (\d): \[0((?:, \d+)*)\]", done.stdout))
    assert {rank: counts.count(",") for rank, counts in told.items()} == {"0": 5, "1": 5}
