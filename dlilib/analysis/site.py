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
FIGURES = {  # of the front page: file -> what it shows, caption
    "figure_8.png": (
        "A grid of images: a row for each defect class, with the free image, the donor, its mask and both composites",
        "One injection for each defect class, by Poisson blending and by cut-paste (Figure 8 of the paper).",
    ),
    "claims_*.png": (
        "Points with intervals around a line at zero: a row for each claim, a colour for each protocol, {encoder}",
        "Every claim as a difference, by protocol, {encoder}: right of the line speaks for Dynamic Label Injection.",
    ),
    "figure_3_*.png": (
        "Bars of IoU: a group for each defect class, a bar for each method, {encoder}",
        "IoU of each defect class and method, {encoder} (Figure 3 of the paper).",
    ),
}
FRONT = """# Dynamic Label Injection, reproduced

**Dynamic Label Injection** (DLI; Caruso, Pelosin, Simoni and Boschetti, ECCV Workshops 2024) balances every training
batch of a defect segmenter: each defect-free image receives an augmented defect of the class that is rarest so far.
Here are the paper's tables and figures again, beside its own numbers and with intervals, and a look at what is left of
each claim once no part is on both sides of the split.

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


def build(preset: str, results: str | Path) -> Path:
    """Write the site of a preset anew, into `site` in the folder of its results; the path of its index.html.

    Each executed notebook becomes a page, those of `results`/notebooks where the preset has none of that name; so does
    `results`/README.md.  Raises ValueError where no notebook of the preset was executed.
    """
    folder = experiments.results_folder(preset, results)
    pages = {
        f"{name}.html": nbformat.read(path, 4)
        for name, path in _executed(preset, folder, Path(results)).items()
    }
    site = folder / "site"
    shutil.rmtree(site, ignore_errors=True)
    (site / "images").mkdir(parents=True)
    shutil.copy(HERE / "page.css", site)
    pages = {"index.html": _front(preset, folder, _titles(pages)), **pages}
    if (numbers := Path(results, "README.md")).is_file():
        pages["all_numbers.html"] = _page(numbers.read_text())
    for name, notebook in pages.items():
        _write(site, name, notebook, _titles(pages))
    return site / "index.html"


def _executed(preset: str, folder: Path, results: Path) -> dict[str, Path]:
    """Name -> executed notebook, in order."""
    found = [
        [p for p in (f / "notebooks").glob("[0-9]*.ipynb") if ".failed" not in p.name]
        for f in (folder, results)
    ]
    own, common = ({path.stem: path for path in paths} for paths in found)
    if not own:
        raise ValueError(
            f"no executed notebooks in {folder / 'notebooks'}: run dli study --preset {preset} first"
        )
    return dict(sorted((common | own).items()))


def _page(text: str) -> NotebookNode:
    return new_notebook(cells=[new_markdown_cell(text)])


def _titles(pages: dict[str, NotebookNode]) -> dict[str, str]:
    """Page -> its first heading."""
    texts = {
        name: "\n".join(c.source for c in page.cells if c.cell_type == "markdown")
        for name, page in pages.items()
    }
    headings = {name: re.search("^#+ (.+)", text, re.MULTILINE) for name, text in texts.items()}
    return {name: heading[1] if heading else Path(name).stem for name, heading in headings.items()}


def _front(preset: str, folder: Path, titles: dict[str, str]) -> NotebookNode:
    p, planned = experiments.preset_named(preset), experiments.all_runs(preset)
    frame = select(records(folder / "records"), planned)
    encoders = [encoder for encoder in p.encoders if encoder in set(frame["encoder"])]
    meaning = "A verdict is about this preset, and never stronger than its interval."
    if p.base.data == "toy":
        meaning = (
            "**Toy tiles show that everything runs; these numbers say nothing about the paper.**"
        )
    text = FRONT.format(
        preset=preset,
        about=p.about[0].upper() + p.about[1:],
        found=len(frame),
        planned=len(planned),
        meaning=meaning,
        note=report.VERDICTS,
        verdicts=tables.markdown(tables.verdict_table(preset, folder, encoders)),
        figures="\n\n".join(_figures(folder)),
        notebooks="\n".join(f"- [{title}]({name})" for name, title in titles.items()),
    )
    return _page(text)


def _figures(folder: Path) -> list[str]:
    """The front page's figures that are there, as HTML; they are copied into the site."""
    parts = []
    for pattern, (alt, caption) in FIGURES.items():
        for path in sorted((folder / "figures").glob(pattern)):
            shutil.copy(path, folder / "site" / "images")
            file, encoder = f"images/{path.name}", path.stem.removeprefix(pattern.partition("*")[0])
            image = f'<a href="{file}"><img src="{file}" alt="{alt}"></a>'
            parts.append(
                f"<figure>{image}<figcaption>{caption}</figcaption></figure>".format(
                    encoder=encoder
                )
            )
    return parts


def _write(site: Path, name: str, notebook: NotebookNode, titles: dict[str, str]) -> None:
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
    html = re.sub(
        "<style scoped.*?</style>", "", html, flags=re.DOTALL
    )  # pandas' own, against the page's
    html = re.sub("<td>.*?</td>", _whole_intervals, html)
    html = html.replace("<table", '<div class="scroll" tabindex="0"><table').replace(
        "</table>", "</table></div>"
    )
    (site / name).write_text(html, encoding="utf-8")
    for file, content in resources["outputs"].items():
        (site / file).write_bytes(content)


def _whole_intervals(cell: re.Match) -> str:
    """The table cell, whose lines break around "[0.1, 0.2]", "0.1 ± 0.2" and "(n = 2)", not within them."""
    kept = r"\[\S+, \S+\]|\S+ ± \S+|\(n = \d+\)"
    return re.sub(kept, lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), cell[0])


def _describe_images(notebook: NotebookNode) -> None:
    """Alternative texts: a cell's first line "#| fig-alt: …" (as in Quarto), else the heading or bold line above it.

    From the second image on that one text describes, it is numbered.
    """
    text, count = "", 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for found in re.findall(r"^(?:#+ .+|\*\*[^*\n]+\*\*)$", cell.source, re.MULTILINE):
                text, count = found.strip("#* ."), 0
        elif found := re.match(r"#\| fig-alt: (.+)", cell.source):
            text, count = found[1], 0
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                count += 1
                output.metadata["image/png"] = {"alt": text if count == 1 else f"{text}, {count}"}
