"""The files around the code agree with each other and with what the README says."""

import re
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def names(requirements):
    return {re.match(r"[\w-]+", r)[0].lower() for r in requirements}


def test_lock_pins_every_dependency_with_a_hash():
    lock = (ROOT / "requirements.lock").read_text()
    entries = re.findall(r"^([\w.-]+)==\S+(?: ; .*)? \\\n    --hash=sha256:", lock, re.MULTILINE)
    pinned = {entry.lower() for entry in entries}
    assert len(re.findall(r"^\S+==", lock, re.MULTILINE)) == len(entries)
    wanted = names(PROJECT["project"]["dependencies"]) | names(PROJECT["project"]["optional-dependencies"]["test"])
    assert wanted <= pinned
    assert "://" not in lock


def test_conda_environment_installs_the_lock_on_a_supported_python():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(d for d in environment["dependencies"] if isinstance(d, str) and d.startswith("python="))
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["project"]["requires-python"]).groups()
    assert int(low) <= int(python.removeprefix("python=3.")) < int(high)
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert pip == ["-r requirements.lock"]
    assert environment["name"] == PROJECT["project"]["name"]
    assert "pip install --no-deps -e ." in (ROOT / "README.md").read_text()


def test_customer_packages_are_dependencies():
    wanted = "jupyterlab papermill torch segmentation-models-pytorch timm opencv-python seaborn pandas"
    assert set(wanted.split()) <= names(PROJECT["project"]["dependencies"])
    assert {"pytest", "nbval"} <= names(PROJECT["project"]["optional-dependencies"]["test"])


STUDY = {  # around the library
    "claims", "cli", "cluster", "explorer", "few_shot", "figures", "notebooks", "peers", "presets", "report", "speed",
    "stats", "study",
}


def test_library_stays_thin_and_knows_nothing_of_the_study():
    texts = {path.stem: path.read_text() for path in (ROOT / "dlilib").glob("*.py")}
    assert max(len(text.splitlines()) for text in texts.values()) <= 250
    library = {name: text for name, text in texts.items() if name not in STUDY | {"__init__", "__main__"}}
    assert sum(bool(line.strip()) for text in library.values() for line in text.splitlines()) < 2000
    for name, text in library.items():
        imported = set(re.findall(r"^from dlilib(?:\.(\w+))? import", text, re.MULTILINE))
        assert not imported & STUDY, name


def test_readme_links_and_commands_exist():
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text()
    for word in set(re.findall(r"`?make (\w+)`?", text)) - {"is", "and"}:
        assert re.search(rf"^{word}:", makefile, re.MULTILINE), word


def test_readme_transform_runs(tmp_path, toy, monkeypatch):
    """The README's drop-in example, word for word, on a folder of a few images."""
    from PIL import Image

    for sub in ("images", "masks"):
        (tmp_path / "my_parts" / sub).mkdir(parents=True)
    (tmp_path / "my_parts" / "classes.txt").write_text("\n".join(toy.classes))
    for i in range(0, len(toy), 3):
        stem = toy.names[i].replace("/", "_")
        Image.fromarray(toy.images[i, 0].numpy()).save(tmp_path / "my_parts" / "images" / f"{stem}.png")
        Image.fromarray(toy.masks[i].numpy()).save(tmp_path / "my_parts" / "masks" / f"{stem}.png")
    code = re.search(r"## The drop-in transform\n\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec(code, scope)
    assert int((scope["labels"] == 0).sum()) == 0


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_keeps_the_house_rules(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.metadata.get("tags", []) for cell in code] == [["parameters"], *[[]] * (len(code) - 1)]
    assert any("# NBVAL_CHECK_OUTPUT" in cell.source for cell in code)
    assert not any(re.search(r"^\s*(def|class) ", cell.source, re.MULTILINE) for cell in code)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    assert "papermill" not in notebook.metadata
    shown = nbformat.writes(notebook)
    assert not re.search(rf"{ROOT}|site-packages|/(home|root|Users|tmp)/", shown)
