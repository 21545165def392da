"""The files around the code agree with each other and with what the README says."""

import importlib.util
import itertools
import re
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

from dlilib.study.presets import PRESETS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


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
    told = (ROOT / "docs" / "start.md").read_text()
    assert "conda run -n dlilib pip install --no-deps -e ." in told


def test_customer_packages_are_dependencies():
    wanted = (
        "jupyterlab papermill torch segmentation-models-pytorch timm opencv-python seaborn pandas"
    )
    assert set(wanted.split()) <= names(PROJECT["project"]["dependencies"]) | EXTRAS["study"]
    assert {"pytest", "nbval"} <= EXTRAS["test"]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "results/README.md"])
def test_links_and_commands_of_pages_outside_the_documentation_exist(name):
    path = ROOT / name
    text = path.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target
    makefile = (ROOT / "Makefile").read_text()
    for word in re.findall(r"(?:`|^)make (\w+)", text, re.MULTILINE):
        assert re.search(rf"^{word}:", makefile, re.MULTILINE), word


@pytest.mark.parametrize("path", sorted((ROOT / "docs").rglob("*.md")), ids=lambda p: p.stem)
def test_links_of_the_documentation_exist_in_the_project_too(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if not target.startswith("http") and target != "results.md":  # made with the pages
            assert (path.parent / target).exists(), target


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120 and max(map(len, lines)) <= 100


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


SECTIONS = [
    "At a glance",
    "Theory",
    "Practical",
    "Discussion",
    "Questions to try",
    "References",
]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_teaches(path):
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert re.findall(r"^## (.+)", text, re.MULTILINE) == SECTIONS
    assert re.search(r"^# \d\. .+\n\n\*\*Aim\.\*\* ", text) and "**Contents.** " in text
    for before, cell in itertools.pairwise(cells):  # each code cell after its sentence
        assert cell.cell_type == "markdown" or before.cell_type == "markdown", cell.source
    parts = dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n?)*)", text, re.MULTILINE))
    assert re.findall(r"^(\d)\. ", parts["Questions to try"], re.MULTILINE) == ["1", "2", "3"]
    assert len(re.findall(r"^- .+\d{4}", parts["References"], re.MULTILINE)) >= 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_links_of_notebooks_exist(path):
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (path.parent / target).exists(), target
    for page in re.findall(r"`(docs/\S+\.md)`", text):
        assert (ROOT / page).exists(), page


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
