"""Which module imports which: down the house's floors, never up, and no more than is declared."""

import ast
import dataclasses
import graphlib
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import dlilib
from dlilib.data.convert import to_folder

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dlilib"
# A room is a folder or a module at the top; what is further down is listed first.
FLOORS = (
    {"version", "extras", "checks", "wording", "multigrid"},
    {"tiles", "augment", "blend", "patches"},
    {"metrics", "donors", "unet"},
    {"balance", "losses", "data"},
    {"models", "composite"},
    {"export", "inject"},
    {"training"},
    {"study", "benchmark"},
    {"analysis"},
    {"cli"},
    {"__main__"},
)
STUDY = ("study", "benchmark", "analysis", "cli", "__main__")  # rooms that need the extra "study"
HINT = 'in the project\'s folder, pip install -e ".[study]"'
BASELINES = {"pietorch", "kornia", "core", "dsets"}  # timed where somebody has installed them

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = {
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}


def room(module: str) -> str:
    return module.split(".")[1]


def floor(module: str) -> int:
    floors = [k for k, rooms in enumerate(FLOORS) if room(module) in rooms]
    assert floors, f"{module} is on no floor"
    return floors[0]


def imported(path: Path) -> list[tuple[str, bool]]:
    """Each imported module of a file, and whether that happens as soon as the file is."""
    found = []

    def visit(node: ast.AST, at_once: bool) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            found.extend((alias.name, at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            ours = [name for name in submodules if name in MODULES]
            found.extend((name, at_once) for name in ours or [node.module])
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, at_once and not inside)

    visit(ast.parse(path.read_text()), True)
    return found


def distributions(names: list[str]) -> set[str]:
    return {re.match(r"[\w.-]+", name)[0].lower().replace("_", "-") for name in names}


BASE = distributions(PROJECT["dependencies"])
EXTRAS = {name: distributions(d) for name, d in PROJECT["optional-dependencies"].items()}
DISTRIBUTIONS = packages_distributions()


def foreign(module: str) -> bool:
    top = module.split(".")[0]
    return top not in sys.stdlib_module_names and top not in {"dlilib", *BASELINES}


def declared(module: str, allowed: set[str]) -> bool:
    found = DISTRIBUTIONS.get(module.split(".")[0], [module])
    return any(name.lower().replace("_", "-") in allowed for name in found)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    for other, _ in imported(MODULES[module]):
        if other.startswith("dlilib.") and room(other) != room(module):
            assert floor(other) < floor(module), f"{module} imports {other}"


def test_there_is_no_circle():
    graph = {m: {o for o, _ in imported(path) if o in MODULES} for m, path in MODULES.items()}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize("module", MODULES)
def test_each_room_imports_only_what_its_extra_declares(module):
    at_import = BASE | EXTRAS["study"] if room(module) in STUDY else BASE
    anywhere = at_import | set().union(*EXTRAS.values())
    for other, at_once in imported(MODULES[module]):
        if foreign(other):
            assert declared(other, at_import if at_once else anywhere), f"{module} imports {other}"


@pytest.mark.parametrize("module", MODULES)
def test_each_missing_package_is_told_with_the_extra_that_has_it(module):
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "require":
            other, extra = (argument.value for argument in node.args)
            assert not foreign(other) or declared(other, EXTRAS[extra]), (
                f"{extra} does not install {other}"
            )


@pytest.mark.parametrize("module", [m for m in MODULES if room(m) not in STUDY])
def test_the_library_imports_extras_only_by_require(module):
    for other, _ in imported(MODULES[module]):
        assert not foreign(other) or declared(other, BASE), f"{module} imports {other}"


def loaded(code: str) -> set[str]:
    """The top-level modules that `code` loads beyond those of torch, of which tqdm is one."""
    code += "\nimport sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    both = ("import torch" + code[code.index("\nimport sys") :], code)
    torchs, all_ = (set(printed(part).split()) for part in both)
    return all_ - torchs


def printed(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_the_transform_loads_neither_the_study_nor_a_model_zoo():
    heavy = {"pandas", "matplotlib", "seaborn", "sklearn", "scipy", "typer", "tqdm", "distributed"}
    heavy |= {"IPython", "jupyter_core", "papermill", "nbformat", "ipywidgets", "pooch"}
    heavy |= {"segmentation_models_pytorch", "timm", "torchvision", "onnx"}
    assert not loaded("import dlilib; dlilib.DynamicLabelInjection") & heavy


@pytest.mark.slow
def test_training_needs_no_tables_no_jupyter_no_dask_and_no_plots():
    """A bare GPU machine has torch, the models and an image decoder, and not more."""
    needless = {"pandas", "matplotlib", "seaborn", "distributed", "papermill", "nbformat", "scipy"}
    assert not loaded("import dlilib.study.sweep, dlilib.cli") & needless


@pytest.mark.slow
def test_public_names_are_there_and_no_others():
    found = printed("import dlilib; print(*[n for n in dir(dlilib) if getattr(dlilib, n)])")
    assert "poisson_blend" in found.split() and "experiment" not in found.split()
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run([sys.executable, "-c", "import dlilib; dlilib.nothing"], check=True)


def test_editors_see_the_public_names():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    homes = {}
    for line in block.body:
        name = line.names[0].name
        homes[name] = None if line.module == "dlilib" else line.module.removeprefix("dlilib.")
    assert homes == dlilib._HOME


@pytest.mark.slow
def test_exporting_works_after_importing_the_package():
    assert "onnx" not in loaded("import dlilib; dlilib.export.to_onnx")


WITHOUT_EXTRAS = """
import inspect, sys
sys.modules.update(dict.fromkeys(sys.argv[2:]))  # as if they were not installed
import torch, dlilib
tiles = dlilib.from_folder(sys.argv[1], size=16)
train, val = dlilib.split(tiles, "image")
inject = dlilib.DynamicLabelInjection(tiles, donors=train)
images, masks, labels = inject(tiles.images[:64], tiles.masks[:64], tiles.labels[:64])
run = dlilib.Run.for_tiles(tiles, weights=None, epochs=1, batch=16, free_share=0.1)
record = dlilib.fit(run, tiles)
for use in (lambda: dlilib.split(tiles, "tile"), lambda: dlilib.records(".")):
    try:
        use()
    except ImportError as error:
        print(error)
print(int((labels == 0).sum()), record["last"]["epoch"], len(inspect.getmembers(dlilib)) > 10)
from dlilib.__main__ import main
main()
"""


@pytest.mark.slow
def test_a_folder_trains_without_the_extras_and_a_missing_one_is_named(toy, tmp_path):
    to_folder(toy, tmp_path / "parts")
    absent = ["pandas", "matplotlib", "seaborn", "sklearn", "scipy", "typer", "pooch", "onnx"]
    command = [sys.executable, "-c", WITHOUT_EXTRAS, str(tmp_path / "parts"), *absent]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        f"sklearn.model_selection is missing: {HINT}",
        f"pandas is missing: {HINT}",
        "0 1 True",
    ]
    assert done.returncode == 1
    assert done.stderr.endswith(f"dli: typer is missing: {HINT}\n")


@pytest.mark.parametrize(
    ("command", "module"),
    [("report", "pandas"), ("report", "scipy.special"), ("study", "nbformat")],
)
def test_a_command_without_its_packages_names_one(command, module, tmp_path):
    script = "import sys; from dlilib.cli import main; sys.modules[sys.argv.pop()] = None; main()"
    words = [command, "--results", str(tmp_path), module]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)
    assert done.stderr == f"dli: {module} is missing: {HINT}\n"


def public_functions(module):
    """The module's own public functions and constructors, and public methods of its classes."""
    for name, value in vars(importlib.import_module(module)).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module:
            continue
        if inspect.isfunction(value):
            yield value
        elif inspect.isclass(value) and not dataclasses.is_dataclass(value):
            yield from (
                method
                for method_name, method in vars(value).items()
                if inspect.isfunction(method) and not method_name.startswith("_")
            )
            if "__init__" in vars(value):
                yield value.__init__


@pytest.mark.parametrize("module", [m for m in MODULES if room(m) not in ("cli", "__main__")])
def test_options_beyond_the_third_argument_are_given_by_name(module):
    for function in public_functions(module):
        parameters = [p for n, p in inspect.signature(function).parameters.items() if n != "self"]
        positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        for parameter in positional[3:]:
            assert parameter.default is parameter.empty, f"{function.__qualname__}: {parameter}"
