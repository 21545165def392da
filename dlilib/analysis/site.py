"""The study in a browser: a static site of the executed notebooks, the verdicts in front."""

import re
import shutil
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_notebook
from traitlets.config import Config

from dlilib.analysis import report, tables
from dlilib.analysis.records import records, select
from dlilib.study import experiments

HERE = Path(__file__).parent
FIGURES = {  # of the front page: pattern of the file -> alternative text, caption
    "figure_8.png": (
        "A grid of images: a row for each defect class, with the defect-free image, the donor, its "
        "mask and both composites",
        "One injection for each defect class, by Poisson blending and by cut-paste (Figure 8 of "
        "the paper).",
    ),
    "claims_*.png": (
        "Points with intervals around a line at zero: a row for each claim, a colour for each "
        "protocol, {encoder}",
        "Every claim as a difference, by protocol, {encoder}: right of the line speaks for "
        "Dynamic Label Injection.",
    ),
    "figure_3_*.png": (
        "Bars of IoU: a group for each defect class, a bar for each method, {encoder}",
        "IoU of each defect class and method, {encoder} (Figure 3 of the paper).",
    ),
}
FRONT = """# Dynamic Label Injection, reproduced

**Dynamic Label Injection** (DLI; Caruso, Pelosin, Simoni and Boschetti, ECCV Workshops 2024)
balances every training batch of a defect segmenter: each defect-free image receives an augmented
defect of the class that is rarest so far. Here are the paper's tables and figures again, beside its
own numbers and with intervals, and a look at what is left of each claim once no part is on both
sides of the split.

**Preset `{preset}`.** {about}. {found} of {planned} planned runs are finished. {meaning}

## What survives

{note}
{verdicts}

{figures}

## The notebooks

{notebooks}

## Run it again

In a clone of the project, with Python 3.11 or 3.12 and make:

```bash
# set up, then the whole study in small, on toy tiles
make study
source .venv/bin/activate
# train what is pending; it can be stopped at any moment and goes on there
dli run --preset {preset}
# the same, then all notebooks and this site
dli study --preset {preset}
```

One notebook with other parameters, in the folder `notebooks`:

```bash
papermill 03_main_comparison.ipynb my_03.ipynb -p preset {preset} -y "seeds: [0]"
```
"""
MEANING = "A verdict is about this preset, and never stronger than its interval."
MEANING_OF_TOY = (
    "**Toy tiles show that everything runs; these numbers say nothing about the paper.**"
)
HEADING = re.compile(r"^#+ (.+)", re.MULTILINE)
HEADING_OR_BOLD_LINE = re.compile(r"^(?:#+ .+|\*\*[^*\n]+\*\*)$", re.MULTILINE)
ALTERNATIVE_TEXT = re.compile(r"#\| fig-alt: (.+)")  # as in Quarto
UNBROKEN = re.compile(r"\[\S+, \S+\]|\S+ ± \S+|\(n = \d+\)")  # "[0.1, 0.2]", "0.1 ± 0.2", "(n = 2)"


def build(preset: str, results: str | Path) -> Path:
    """Write the site of a preset anew, into `site` in the folder of its results.

    Each executed notebook becomes a page; so does `results`/README.md. Notebooks are taken from the
    preset's folder, and from `results`/notebooks where the preset has none of that name.

    Args:
        preset: A key of `PRESETS`.
        results: Folder of all results.

    Returns:
        The path of the site's index.html.

    Raises:
        ValueError: The preset is unknown, or none of its notebooks was executed.

    Example:
        >>> build("smoke", "results")
        PosixPath('results/smoke/site/index.html')
    """
    folder = experiments.results_folder(preset, results)
    paths = _executed(preset, folder, Path(results))
    notebooks = {f"{name}.html": nbformat.read(path, 4) for name, path in paths.items()}
    site = folder / "site"
    shutil.rmtree(site, ignore_errors=True)
    (site / "images").mkdir(parents=True)
    shutil.copy(HERE / "page.css", site)
    pages = {"index.html": _front(preset, folder, _titles(notebooks)), **notebooks}
    all_numbers = Path(results, "README.md")
    if all_numbers.is_file():
        pages["all_numbers.html"] = _page(all_numbers.read_text())
    titles = _titles(pages)
    for name, notebook in pages.items():
        _write(site, name, notebook, titles)
    return site / "index.html"


def _executed(preset: str, folder: Path, results: Path) -> dict[str, Path]:
    """Name -> executed notebook, in order: the preset's own, and what else all presets share."""
    own = _notebooks(folder / "notebooks")
    if not own:
        raise ValueError(
            f"no executed notebooks in {folder / 'notebooks'}: run dli study --preset {preset} "
            "first"
        )
    shared = _notebooks(results / "notebooks")
    return dict(sorted({**shared, **own}.items()))


def _notebooks(folder: Path) -> dict[str, Path]:
    """Name -> notebook in the folder, without those that failed."""
    paths = folder.glob("[0-9]*.ipynb")
    return {path.stem: path for path in paths if ".failed" not in path.name}


def _page(text: str) -> NotebookNode:
    return new_notebook(cells=[new_markdown_cell(text)])


def _titles(pages: dict[str, NotebookNode]) -> dict[str, str]:
    """Name of the page -> its first heading."""
    titles = {}
    for name, page in pages.items():
        text = "\n".join(cell.source for cell in page.cells if cell.cell_type == "markdown")
        heading = HEADING.search(text)
        titles[name] = heading[1] if heading else Path(name).stem
    return titles


def _front(preset: str, folder: Path, titles: dict[str, str]) -> NotebookNode:
    """The front page; titles: of the notebooks' pages."""
    chosen = experiments.preset_named(preset)
    planned = experiments.all_runs(preset)
    frame = select(records(folder / "records"), planned)
    encoders = tables.finished_encoders(preset, frame)
    text = FRONT.format(
        preset=preset,
        about=chosen.about[0].upper() + chosen.about[1:],
        found=len(frame),
        planned=len(planned),
        meaning=MEANING_OF_TOY if chosen.base.data == "toy" else MEANING,
        note=report.VERDICTS,
        verdicts=tables.markdown(tables.verdict_table(preset, folder, encoders)),
        figures="\n\n".join(_figures(folder)),
        notebooks="\n".join(f"- [{title}]({name})" for name, title in titles.items()),
    )
    return _page(text)


def _figures(folder: Path) -> list[str]:
    """The front page's figures that exist, as HTML; each is copied into the site."""
    blocks = []
    for pattern, texts in FIGURES.items():
        before_encoder = pattern.partition("*")[0]
        for path in sorted((folder / "figures").glob(pattern)):
            shutil.copy(path, folder / "site" / "images")
            encoder = path.stem.removeprefix(before_encoder)
            alt, caption = (text.format(encoder=encoder) for text in texts)
            file = f"images/{path.name}"
            image = f'<a href="{file}"><img src="{file}" alt="{alt}"></a>'
            blocks.append(f"<figure>{image}<figcaption>{caption}</figcaption></figure>")
    return blocks


def _write(site: Path, name: str, notebook: NotebookNode, titles: dict[str, str]) -> None:
    """Write a page and its images; titles: of all pages, for the navigation."""
    _describe_images(notebook)
    exporter = HTMLExporter(
        template_name="basic",
        template_file=str(HERE / "page.html.j2"),
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        preprocessors=[CoalesceStreamsPreprocessor],
        config=Config({"ExtractOutputPreprocessor": {"enabled": True}}),
    )
    resources = {
        "unique_key": Path(name).stem,
        "output_files_dir": "images",
        "page": name,
        "titles": titles,
    }
    html, resources = exporter.from_notebook_node(notebook, resources)
    (site / name).write_text(_restyled(html), encoding="utf-8")
    for file, content in resources["outputs"].items():
        (site / file).write_bytes(content)


def _restyled(html: str) -> str:
    """The page with tables in the site's style, which scroll and do not break within intervals."""
    # pandas brings a style of its own, which goes against the site's.
    html = re.sub("<style scoped.*?</style>", "", html, flags=re.DOTALL)
    html = re.sub("<td>.*?</td>", _whole_intervals, html)
    html = html.replace("<table", '<div class="scroll" tabindex="0"><table')
    return html.replace("</table>", "</table></div>")


def _whole_intervals(cell: re.Match) -> str:
    """The table cell, whose lines break around intervals and not within them."""
    return UNBROKEN.sub(lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), cell[0])


def _describe_images(notebook: NotebookNode) -> None:
    """Give every image an alternative text: that of its own cell, else of the closest one above.

    From the second image on that one text describes, it is numbered.
    """
    text, count = "", 0
    for cell in notebook.cells:
        description = _description(cell)
        if description is not None:
            text, count = description, 0
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                count += 1
                alt = text if count == 1 else f"{text}, {count}"
                output.metadata["image/png"] = {"alt": alt}


def _description(cell: NotebookNode) -> str | None:
    """A code cell's first line "#| fig-alt: …", or a text's last heading or bold line, if any."""
    if cell.cell_type == "markdown":
        titles = HEADING_OR_BOLD_LINE.findall(cell.source)
        return titles[-1].strip("#* .") if titles else None
    found = ALTERNATIVE_TEXT.match(cell.source)
    return found[1] if found else None
