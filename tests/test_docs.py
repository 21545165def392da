"""The documentation is built without a warning, and its pages hold what they should."""

import html
import importlib.util
import inspect
import re
import shutil
from dataclasses import fields
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from sphinx.util.inventory import InventoryFile
from typer.main import get_command

import dlilib
from dlilib import cli
from dlilib.analysis import claims, report
from dlilib.losses import METHODS

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
VIEW = "application/vnd.jupyter.widget-view+json"
OWN_PAGES = ("search.html", "genindex.html")  # that Sphinx writes itself


@pytest.fixture(scope="module")
def build():
    """The module docs/build.py."""
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(path, title, outputs=()):
    cells = [
        new_markdown_cell(f"# {title}"),
        new_code_cell("1 < 2", execution_count=1, outputs=list(outputs)),
    ]
    metadata = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
    nbformat.write(new_notebook(cells=cells, metadata=metadata), path)


@pytest.fixture(scope="module")
def site(build, tmp_path_factory):
    """The pages of the stored smoke study, with a widget, and without a notebook that failed."""
    folder = tmp_path_factory.mktemp("docs")
    results = folder / "results"
    shutil.copytree(ROOT / "tests" / "smoke", results / "smoke")
    shutil.copytree(ROOT / "notebooks", results / "smoke" / "notebooks")
    (results / "smoke" / "notebooks" / NOTEBOOKS[8].name).unlink()  # not executed
    (results / "smoke" / "figures").mkdir()
    any_figure = ROOT / "results" / "lite" / "figures" / "figure_1.png"
    for name in ("figure_1", "claims_resnet18"):
        shutil.copy(any_figure, results / "smoke" / "figures" / f"{name}.png")
    shutil.copy(ROOT / "results" / "README.md", results)
    slider = new_output(
        "display_data", {VIEW: {"model_id": "a1b2"}, "text/plain": "FloatSlider(value=0.5)"}
    )
    write(results / "smoke" / "notebooks" / "09a_widget.ipynb", "A widget", [slider])
    write(results / "smoke" / "notebooks" / "09b_broken.failed.ipynb", "It failed")
    return build.build("smoke", results, folder / "out").parent


@pytest.fixture(scope="module")
def pages(site):
    """Path below the site -> text, of each page."""
    found = sorted(site.rglob("*.html"))
    paths = [path.relative_to(site).as_posix() for path in found]
    return {path: (site / path).read_text() for path in paths if not path.startswith("_static")}


def visible(text):
    """The text of a page, with plain quotes and spaces."""
    shown = html.unescape(re.sub("<[^>]+>", "", text))
    return " ".join(shown.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").split())


def test_every_page_is_reached_from_the_front_page(pages):
    tutorials = [f"tutorials/{path.stem}.html" for path in NOTEBOOKS]
    assert {*tutorials, "tutorials/09a_widget.html"} <= set(pages)
    written = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    assert {path.with_suffix(".html").as_posix() for path in written} <= set(pages)
    assert not any("broken" in page for page in pages)
    linked = set(re.findall(r'href="([^"#]+\.html)', pages["index.html"]))
    assert set(pages) - linked <= {*OWN_PAGES, "index.html"}


def test_every_link_anchor_and_image_is_there(site, pages):
    ids = {page: set(re.findall(r'\bid="([^"]+)"', text)) for page, text in pages.items()}
    for page, text in pages.items():
        for target in re.findall(r'(?:href|src)="([^"]+)"', text):
            if re.match("https?:|data:|mailto:", target):
                continue
            file, _, anchor = html.unescape(target).partition("#")
            path = (site / page).parent / unquote(file.partition("?")[0]) if file else site / page
            assert path.resolve().is_file(), (page, target)
            other = path.resolve().relative_to(site.resolve()).as_posix()
            assert not anchor or other not in ids or unquote(anchor) in ids[other], (page, target)


def test_every_image_opens_alone_at_a_click(pages):
    for name, page in pages.items():
        for file in re.findall(r'<img [^>]*src="([^"]+\.png)"', page):
            assert re.search(rf'<a [^>]*href="{re.escape(file)}"[^>]*><img ', page), (name, file)


def test_every_image_of_a_page_is_described(pages):
    for page, text in pages.items():
        (article,) = re.findall("<article.*?</article>", text, re.DOTALL)
        for image in re.findall("<img[^>]*>", article):
            described = re.search(r'alt="([^"]*)"', image)
            assert described and len(described[1].split()) > 3, (page, image)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_figure_of_a_notebook_is_described_in_its_cell(path):
    cells = nbformat.read(path, 4).cells
    drawn = [
        cell
        for cell in cells
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))
    ]
    assert drawn and all(cell.source.startswith("#| fig-alt: ") for cell in drawn)


def test_tables_scroll_and_break_around_intervals_not_within(pages):
    text = "".join(text for page, text in pages.items() if page.startswith("tutorials"))
    assert text.count("<table") == text.count('class="table-wrapper') > 20
    assert "<style scoped" not in text
    shown = "".join(pages.values())
    assert "0.746_±_0.018".replace("_", "\N{NO-BREAK SPACE}") in shown and "0.746 ±" not in shown


def test_a_widget_gives_way_to_a_line(pages):
    text = pages["tutorials/09a_widget.html"]
    assert "live in JupyterLab" in text and "a1b2" not in text and "FloatSlider" not in text


def test_a_notebook_says_whose_outputs_it_shows(pages):
    assert "Executed with the preset smoke" in visible(pages[f"tutorials/{NOTEBOOKS[2].stem}.html"])
    assert "Not executed with this preset" in visible(pages[f"tutorials/{NOTEBOOKS[8].stem}.html"])


def test_the_front_page_tells_the_verdicts(pages):
    text = visible(pages["index.html"])
    assert "these numbers say nothing about the paper" in text
    found = claims.verdicts(claims.claims("smoke", ROOT / "tests" / "smoke"))
    assert all(claim in text for claim in found["claim"])
    assert all(method in text for method in METHODS)


def test_every_public_name_is_in_the_reference(site, pages):
    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="")
    # private API of Sphinx, whose form may change: the names are all that counts here
    names = {name for group in inventory.data.values() for name in group}
    public = {f"dlilib.{name}" for name in dlilib.__all__ if not name.startswith("_")}
    assert public <= names
    assert {f"dlilib.Run.{field.name}" for field in fields(dlilib.Run)} <= names
    # a colon in an attribute's comment makes a type of what stands before it
    assert not [page for page in pages if ">Type<" in pages[page]]
    methods = ("plan", "apply_plan", "as_released")
    assert {f"dlilib.DynamicLabelInjection.{method}" for method in methods} <= names


def test_every_command_and_option_is_in_the_reference(pages):
    text = visible(pages["reference/cli.html"])
    for name, command in get_command(cli.app).commands.items():
        assert f"dli {name}" in text and inspect.cleandoc(command.help).split(".")[0] in text
        for option in command.params:
            assert option.hidden or all(word in text for word in option.opts if "-" in word)


def test_without_executed_notebooks_it_says_what_to_run(build, tmp_path):
    with pytest.raises(ValueError, match="run dli study --preset lite first"):
        build.build("lite", tmp_path, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_warnings_are_errors_that_name_the_page(build, tmp_path, monkeypatch, capfd):
    copy = tmp_path / "docs"
    shutil.copytree(ROOT / "docs", copy)
    broken = ["[nowhere](no_such_page.md)", r"$\frac{1}{2$", r"$\begin{cases} a$", r"$\unknown$"]
    (copy / "start.md").write_text("# Start\n\n" + "\n\n".join(broken))
    monkeypatch.setattr(build, "DOCS", copy)
    with pytest.raises(ValueError, match="Sphinx reported the warnings above"):
        build.build("lite", ROOT / "results", tmp_path / "out")
    told = [line for line in capfd.readouterr().err.splitlines() if "start.md" in line]
    assert len(told) == len(broken)
    for words in broken:
        assert any(words.strip("$")[-12:].strip(")") in line for line in told), words


def test_what_cannot_be_built_is_refused_by_name(build, tmp_path):
    with pytest.raises(ValueError, match="choose a folder outside"):
        build.build("lite", ROOT / "results", ROOT / "docs" / "out")
    folder = tmp_path / "lite" / "notebooks"
    folder.mkdir(parents=True)
    (folder / "01_half.ipynb").write_text('{"cells": [')
    with pytest.raises(ValueError, match=r"01_half\.ipynb: no notebook that can be read"):
        build.build("lite", tmp_path, tmp_path / "out")


def test_the_readmes_result_is_what_the_records_say():
    """`dli report` brings it up to date."""
    text = (ROOT / "README.md").read_text()
    assert report.BEGIN in text and report.END in text
    assert text == report.renewed(text, ROOT / "results")


def test_a_page_without_marks_stays_as_it_is():
    assert report.renewed("# Mine\n", ROOT / "results") == "# Mine\n"


@pytest.fixture
def opened(browser):
    """opened(scheme, width) -> a tab, and what it complains of and asks for."""
    tabs = []

    def tab(scheme, width):
        page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 844})
        trouble = []
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("request", lambda r: r.url.startswith(("file:", "data:")) or trouble.append(r.url))
        tabs.append(page)
        return page, trouble

    yield tab
    for page in tabs:
        page.close()


@pytest.mark.parametrize("width", [390, 1200])
def test_every_page_opens_from_a_file_and_fits(opened, site, pages, width):
    page, trouble = opened("light", width)
    for name in pages:
        page.goto((site / name).as_uri())
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)"), name
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert not trouble, name


def test_equations_are_drawn_without_a_script(opened, site, pages):
    page, _ = opened("light", 390)
    page.goto((site / "tutorials" / f"{NOTEBOOKS[1].stem}.html").as_uri())
    fraction = page.locator("math mfrac").first.bounding_box()
    assert fraction["height"] > 20  # numerator over denominator: more than a line of text


def test_dark_scheme_darkens_the_page_and_leaves_figures_on_white(opened, site):
    style = "node => getComputedStyle(document.querySelector(node)).backgroundColor"
    colours = {}
    for scheme in ("light", "dark"):
        page, _ = opened(scheme, 390)
        page.goto((site / "tutorials" / "01_dataset_analysis.html").as_uri())
        colours[scheme] = page.evaluate(style, "body"), page.evaluate(style, "article img")
    assert colours["light"][0] == colours["dark"][1] == "rgb(255, 255, 255)"
    assert colours["dark"][0] != colours["light"][0]


@pytest.mark.parametrize("width", [390, 1200])
def test_search_finds_a_function_from_a_file(opened, site, width):
    page, trouble = opened("light", width)
    page.goto((site / "index.html").as_uri())
    if width < 1000:
        page.locator("label.nav-overlay-icon:visible").first.click()
    page.locator("input[name=q]").first.fill("poisson_blend")
    page.locator("input[name=q]").first.press("Enter")
    page.wait_for_selector("ul.search li")
    targets = page.locator("ul.search li a").evaluate_all("links => links.map(a => a.href)")
    assert any("reference/injection.html#dlilib.poisson_blend" in target for target in targets)
    assert not trouble
