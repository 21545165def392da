"""Build the documentation: the pages of docs/, and the results and executed notebooks of a preset.

`make docs` calls it. What is not in docs/ is put together from the records and notebooks.
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import typer
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell
from typer.cli import get_docs_for_click

from dlilib import cli
from dlilib.analysis import report
from dlilib.study import experiments

DOCS = Path(__file__).parent
STORED = DOCS.parent / "notebooks"
STORED_OUTPUT = "Not executed with this preset: these outputs are of `smoke`, on toy tiles"
LONGEST_SHOWN = 14  # lines; longer code unfolds on a click
ALTERNATIVE_TEXT = re.compile(r"#\| fig-alt: (.+)\n")  # as in Quarto
GLANCE = "## At a glance"  # what stands below is the finding, and its code folded
COMPARED = "# NBVAL_CHECK_OUTPUT\n"  # a mark for nbval
DOCS_PAGE = re.compile(r"`docs/([\w/]+\.md)`")
CODE_OR_SPECIAL = re.compile(r"(`[^`]*`)|<|--[a-z][\w-]*")
UNBROKEN = re.compile(r"\[\S+, \S+\]|\S+ ± \S+|\(n = \d+\)")  # "[0.1, 0.2]", "0.1 ± 0.2", "(n = 2)"
OVERVIEW = """![A batch of mostly defect-free images, the warped defects that are injected, and the
balanced batch, each with its counts by class](generated/figure_1.png)

*What happens to a batch (after Figure 1 of the paper).*
"""
WIDGET = "application/vnd.jupyter.widget-view+json"
LIVE = "<p><em>Controls stand here: they are live in JupyterLab (<code>make lab</code>).</em></p>"


def build(preset: str, results: str | Path, out: str | Path) -> Path:
    """Build the documentation anew, with warnings as errors.

    Args:
        preset: A key of `PRESETS`: whose results and executed notebooks are shown.
        results: Folder of all results.
        out: Folder of the sources (`source`) and pages (`html`); both are replaced.

    Returns:
        The path of the front page.

    Raises:
        ValueError: The preset is unknown, none of its notebooks was executed, one cannot be read,
            `out` lies in docs/, or Sphinx warns.
    """
    folder = experiments.results_folder(preset, results)
    executed = _notebooks(folder / "notebooks")
    if not executed:
        raise ValueError(
            f"no executed notebooks in {folder / 'notebooks'}: run dli study --preset {preset} "
            "first"
        )
    if DOCS.resolve() in (Path(out).resolve(), *Path(out).resolve().parents):
        raise ValueError(f"{out}: choose a folder outside {DOCS}, which is copied there")
    source, html = Path(out, "source"), Path(out, "html")
    for old in (source, html):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(DOCS, source, ignore=shutil.ignore_patterns("build.py", "__pycache__"))
    # the pages link to the notebooks where they lie in the project
    for page in source.rglob("*.md"):
        page.write_text(page.read_text("utf-8").replace("../notebooks/", "tutorials/"), "utf-8")
    _write_results(preset, Path(results), folder, source)
    (source / "generated" / "cli.md").write_text(_command_line(), "utf-8")
    for name, path in {**_notebooks(STORED), **executed}.items():
        about = f"Executed with the preset `{preset}`" if name in executed else STORED_OUTPUT
        shutil.copy(path, source / "generated")  # as it is, to be downloaded
        nbformat.write(_as_page(_read(path), name, about), source / "tutorials" / name)
    options = ["--fail-on-warning", "--keep-going", "--quiet", "--builder", "html"]
    doctrees = ["--doctree-dir", str(Path(out, "doctrees")), "--fresh-env"]
    # in a process of its own: autodoc changes the signatures of what it documents
    command = [sys.executable, "-m", "sphinx", *options, *doctrees, str(source), str(html)]
    if subprocess.run(command).returncode:
        raise ValueError(f"Sphinx reported the warnings above; {source} is a copy of {DOCS}")
    return html / "index.html"


def _notebooks(folder: Path) -> dict[str, Path]:
    """Name -> notebook in the folder, in order, without those that failed."""
    paths = sorted(folder.glob("[0-9]*.ipynb"))
    return {path.name: path for path in paths if ".failed" not in path.name}


def _read(path: Path) -> NotebookNode:
    try:
        return nbformat.read(path, 4)
    except (ValueError, nbformat.ValidationError) as error:
        raise ValueError(f"{path}: no notebook that can be read: {error}") from None


def _write_results(preset: str, results: Path, folder: Path, source: Path) -> None:
    """Write the parts of the front page and the page of all numbers; copy figures that exist."""
    generated = source / "generated"
    generated.mkdir()
    overview = folder / "figures" / "figure_1.png"
    (generated / "overview.md").write_text(OVERVIEW if overview.is_file() else "", "utf-8")
    (generated / "summary.md").write_text(_unbroken(report.summary(preset, results)), "utf-8")
    (generated / "verdicts.md").write_text(_unbroken(report.verdicts(preset, results)), "utf-8")
    figures = sorted(folder.glob("figures/claims_*.png"))
    (generated / "figures.md").write_text("\n\n".join(_figure(path) for path in figures), "utf-8")
    for path in [overview, *figures]:
        if path.is_file():
            shutil.copy(path, generated)
    numbers = results / "README.md"
    text = (
        numbers.read_text("utf-8") if numbers.is_file() else f"# Results\n\n{report.NO_NUMBERS}\n"
    )
    (source / "results.md").write_text(_unbroken(text), "utf-8")


def _figure(path: Path) -> str:
    encoder = path.stem.removeprefix("claims_")
    return (
        f"![Points with intervals around zero: a row for each claim, a colour for each protocol, "
        f"{encoder}](generated/{path.name})"
    )


def _command_line() -> str:
    command = typer.main.get_command(cli.app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="dli")
    # what is not code yet would be read as HTML, or as a dash
    text = CODE_OR_SPECIAL.sub(lambda found: found[1] or _as_text(found[0]), text)
    return text.replace("# `dli`\n", "", 1)


def _as_text(found: str) -> str:
    return r"\<" if found == "<" else f"`{found}`"


def _as_page(notebook: NotebookNode, name: str, about: str) -> NotebookNode:
    """An executed notebook as a page: figures described, long code folded, no script needed."""
    title, *rest = notebook.cells
    file = f"{{download}}`{name} <../generated/{name}>`"
    about = f"*{about}; open it with `make lab`, or download it: {file}.*"
    cells = [title, new_markdown_cell(about, id="about")]
    for cell in rest:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "markdown":
            cell.source = DOCS_PAGE.sub(_link, cell.source)
        else:
            _describe_images(cell)
            cell.source = cell.source.removeprefix(COMPARED)
            cell.outputs = [_still(output) for output in cell.outputs]
            if cells[-1].source == GLANCE or cell.source.count("\n") >= LONGEST_SHOWN:
                cell.metadata.tags = [*tags, "hide-input"]
        if "injected-parameters" in tags:
            cells.append(
                new_markdown_cell("For this page some of them were changed:", id="changed")
            )
        cells.append(cell)
    notebook.cells = cells
    return notebook


def _link(page: re.Match) -> str:
    return f"[{page[0]}](../{page[1]})"


def _describe_images(cell: NotebookNode) -> None:
    """Turn the cell's first line "#| fig-alt: …" into the alternative text of its images."""
    found = ALTERNATIVE_TEXT.match(cell.source)
    if found:
        cell.source = cell.source[found.end() :]
        cell.metadata["mystnb"] = {"image": {"alt": found[1]}}


def _still(output: NotebookNode) -> NotebookNode:
    """An output whose tables have the site's style, and whose controls gave way to a line."""
    data = output.get("data", {})
    if data.pop(WIDGET, None) and "image/png" not in data:
        output.data = {"text/html": LIVE}
    if "<table" in data.get("text/html", ""):
        # pandas brings a style of its own, which goes against the site's.
        html = re.sub("<style scoped.*?</style>", "", data["text/html"], flags=re.DOTALL)
        data["text/html"] = f'<div class="table-wrapper" tabindex="0">{_unbroken(html)}</div>'
    return output


def _unbroken(text: str) -> str:
    """The text, whose lines break around intervals and not within them."""
    return UNBROKEN.sub(lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="lite")
    parser.add_argument("--results", default="results", help="folder of all results")
    parser.add_argument("--out", help="default: build/docs/<preset>")
    chosen = parser.parse_args()
    try:
        page = build(
            chosen.preset, chosen.results, chosen.out or Path("build", "docs", chosen.preset)
        )
    except ValueError as error:
        sys.exit(f"docs/build.py: {error}")
    print(f"open {page} in a browser")
