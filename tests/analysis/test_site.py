import base64
import html
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from dlilib.analysis import claims, site

ROOT = Path(__file__).parents[2]
FIRST = ROOT / "notebooks" / "01_dataset_analysis.ipynb"
INTERVALS = (
    "\n\n| ours | paper |\n| --- | --- |\n| 0.472 [-0.178, 0.765] (n = 2) | 0.746 ± 0.018 |\n"
)
VIEW = "application/vnd.jupyter.widget-view+json"
PICTURE = base64.b64encode((ROOT / "results" / "pictures" / "explorer.png").read_bytes()).decode()


def write(path, title, outputs=()):
    cells = [
        new_markdown_cell(f"# {title}"),
        new_code_cell("1 < 2", execution_count=1, outputs=list(outputs)),
    ]
    nbformat.write(new_notebook(cells=cells), path)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The stored smoke study, with a widget and a notebook that failed.

    Two more notebooks lie in the folder of all results.
    """
    results = tmp_path_factory.mktemp("site") / "results"
    shutil.copytree(ROOT / "tests" / "smoke", results / "smoke")
    shutil.copytree(ROOT / "notebooks", results / "smoke" / "notebooks")
    (results / "smoke" / "figures").mkdir()
    any_figure = ROOT / "results" / "lite" / "figures" / "figure_8.png"
    for name in ("figure_8", "claims_resnet18", "figure_3_resnet18"):
        shutil.copy(any_figure, results / "smoke" / "figures" / f"{name}.png")
    (results / "README.md").write_text((ROOT / "results" / "README.md").read_text() + INTERVALS)
    (results / "notebooks").mkdir()
    slider = new_output(
        "display_data", {VIEW: {"model_id": "a1b2"}, "text/plain": "FloatSlider(value=0.5)"}
    )
    said = [new_output("stream", name="stdout", text=text) for text in ("in two", " parts\n")]
    write(results / "smoke" / "notebooks" / "20_widget.ipynb", "A <widget>", [slider, *said])
    write(results / "smoke" / "notebooks" / "21_broken.failed.ipynb", "It failed")
    write(results / "notebooks" / "09_speed.ipynb", "Of another preset")
    picture = new_output("display_data", {"image/png": PICTURE})
    write(results / "notebooks" / "22_common.ipynb", "Of all presets", [picture, picture])
    return results


@pytest.fixture(scope="module")
def pages(results):
    """Name -> text of each page."""
    folder = site.build("smoke", results).parent
    return {path.name: path.read_text() for path in sorted(folder.glob("*.html"))}


def visible(text):
    return html.unescape(re.sub("<[^>]+>", "", text))


def test_each_executed_notebook_is_a_page_in_order(pages):
    numbered = [
        *[f"{path.stem}.html" for path in sorted((ROOT / "notebooks").glob("*.ipynb"))],
        "20_widget.html",
    ]
    names = ["index.html", *numbered, "22_common.html", "all_numbers.html"]
    assert sorted(names) == list(pages)
    assert "Of another preset" not in pages["09_speed.html"]
    for here, text in pages.items():
        nav, footer = (
            re.search(f"<{part}.*?</{part}>", text, re.DOTALL)[0] for part in ("nav", "footer")
        )
        assert re.findall('href="(.+?)"', nav) == names
        k = names.index(here)
        assert re.findall('href="(.+?)"', footer) == [
            *names[max(k - 1, 0) : k],
            *names[k + 1 : k + 2],
        ]


def test_every_link_and_image_is_there(results, pages):
    for name, text in pages.items():
        targets = re.findall(r'(?:href|src)="([^"]+)"', text)
        for target in targets:
            file, _, anchor = target.partition("#")
            if not re.match("https?:|data:", target):
                assert (results / "smoke" / "site" / (file or name)).is_file(), (name, target)
            if anchor:
                assert f'id="{html.unescape(anchor)}"' in html.unescape(text), (name, target)
    images = {path.name for path in (results / "smoke" / "site" / "images").iterdir()}
    assert images == set(re.findall(r'src="images/([^"]+)"', "".join(pages.values())))


def test_nothing_is_loaded_from_elsewhere(results, pages):
    for text in (*pages.values(), (results / "smoke" / "site" / "page.css").read_text()):
        assert not re.search(r"<(?!a\b)[^>]+(?:https?:)?//|<script|<iframe|@import|url\(", text)


def test_every_image_is_described(pages):
    for text in pages.values():
        texts = re.findall(r'alt="([^"]*)"', text)
        assert len(texts) == len(set(texts)) == text.count("<img")
        assert all(len(text.split()) > 1 and text.strip("#* .") == text for text in texts)
    (first, *_) = re.findall(
        r"fig-alt: (.+)\n", "\n".join(c.source for c in nbformat.read(FIRST, 4).cells)
    )
    assert f'alt="{first}"' in pages["01_dataset_analysis.html"]
    assert re.findall('alt="(.+?)"', pages["22_common.html"]) == [
        "Of all presets",
        "Of all presets, 2",
    ]  # its heading


@pytest.mark.parametrize(
    "path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem
)
def test_every_figure_of_a_notebook_is_described_in_its_cell(path):
    cells = nbformat.read(path, 4).cells
    drawn = [
        cell
        for cell in cells
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))
    ]
    assert drawn and all(cell.source.startswith("#| fig-alt: ") for cell in drawn)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem
)
def test_code_and_printed_text_are_kept(pages, path):
    text = visible(pages[f"{path.stem}.html"])
    code = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert all(cell.source in text for cell in code)
    assert all(
        output.text in text
        for cell in code
        for output in cell.outputs
        if output.output_type == "stream"
    )
    assert pages[f"{path.stem}.html"].count('<details class="code">') >= len(code)


def test_tables_are_tables_in_boxes_of_their_own_and_not_cut(pages):
    text = "".join(pages.values())
    assert text.count("<table") == text.count('<div class="scroll" tabindex="0"><table') > 20
    assert "...</td>" not in text and "...</th>" not in text and "<style" not in text


def test_table_cells_break_around_intervals_not_within(pages):
    cells = re.findall("<td>.*?</td>", "".join(pages.values()))
    assert "<td>0.472 [-0.178,_0.765] (n_=_2)</td>".replace("_", "\N{NO-BREAK SPACE}") in cells
    assert not [cell for cell in cells if re.search(r" ±|± | = |\d, [\d-]", cell)]


def test_a_widget_gives_way_to_a_line(pages):
    text = pages["20_widget.html"]
    assert "live in JupyterLab" in text and "in two parts" in text
    assert "a1b2" not in text and "FloatSlider" not in text
    assert "<title>A &lt;widget&gt;</title>" in text


def test_front_page_tells_what_it_is_about(results, pages):
    text = visible(pages["index.html"])
    assert (
        "these numbers say nothing about the paper" in text and "toy tiles, 48 px" in text.lower()
    )
    found = claims.verdicts(claims.claims("smoke", results / "smoke"))
    rows = re.findall(r"<tr>\s*<td>resnet18</td>.*?</tr>", pages["index.html"], re.DOTALL)
    assert [visible(re.findall("<td>.*?</td>", row)[1]) for row in rows] == list(found["claim"])
    captions = re.findall("<figcaption>.*?</figcaption>", pages["index.html"])
    assert ["resnet18" in caption for caption in captions] == [False, True, True]
    assert "papermill 03_main_comparison.ipynb" in text and "dli study --preset smoke" in text


def test_a_real_preset_has_no_warning_of_toys(tmp_path):
    (tmp_path / "lite" / "notebooks").mkdir(parents=True)
    write(tmp_path / "lite" / "notebooks" / "01_alone.ipynb", "Alone")
    folder = site.build("lite", tmp_path).parent
    assert "say nothing about the paper" not in (folder / "index.html").read_text()
    assert sorted(path.name for path in folder.glob("*.html")) == ["01_alone.html", "index.html"]
    (tmp_path / "lite" / "notebooks" / "01_alone.ipynb").rename(
        tmp_path / "lite" / "notebooks" / "02_renamed.ipynb"
    )
    site.build("lite", tmp_path)
    assert sorted(path.name for path in folder.glob("*.html")) == ["02_renamed.html", "index.html"]


def test_without_executed_notebooks_it_says_what_to_run(tmp_path):
    (tmp_path / "notebooks").mkdir()
    write(tmp_path / "notebooks" / "09_common.ipynb", "Of all presets")
    with pytest.raises(ValueError, match="run dli study --preset lite first"):
        site.build("lite", tmp_path)
    assert not (tmp_path / "lite").exists()


@pytest.fixture
def opened(browser, results, pages):
    """opened(scheme, width) -> a tab, and what it complains of and asks for."""
    tabs = []

    def tab(scheme, width):
        page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 844})
        trouble = []
        page.on(
            "console",
            lambda message: message.type in ("error", "warning") and trouble.append(message.text),
        )
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("request", lambda r: r.url.startswith(("file:", "data:")) or trouble.append(r.url))
        tabs.append(page)
        return page, trouble

    yield tab
    for page in tabs:
        page.close()


@pytest.mark.parametrize("width", [390, 1200])
def test_every_page_opens_from_a_file_and_fits(opened, results, pages, width):
    page, trouble = opened("light", width)
    for name in pages:
        page.goto((results / "smoke" / "site" / name).as_uri())
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)"), name
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert not trouble, name


def test_dark_scheme_darkens_the_page_and_leaves_figures_on_white(opened, results):
    style = "node => getComputedStyle(document.querySelector(node)).backgroundColor"
    colours = {}
    for scheme in ("light", "dark"):
        page, _ = opened(scheme, 390)
        page.goto((results / "smoke" / "site" / "01_dataset_analysis.html").as_uri())
        colours[scheme] = page.evaluate(style, "body"), page.evaluate(style, "main img")
    assert colours["light"][0] == colours["dark"][1] == "rgb(255, 255, 255)"
    assert colours["dark"][0] != colours["light"][0]


def test_code_unfolds_and_the_pages_lead_on(opened, results):
    page, _ = opened("light", 390)
    page.goto((results / "smoke" / "site" / "index.html").as_uri())
    page.click("footer a[rel=next]")
    assert page.title().startswith("1. What is in the data")
    assert not page.locator("details pre").first.is_visible()
    page.locator("summary").first.click()
    assert page.locator("details pre").first.is_visible()
