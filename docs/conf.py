"""Configuration of Sphinx. `docs/build.py` puts the sources together and calls it."""

import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

from dlilib.version import __version__

# Patterns of what stands in equations in pairs.
PAIRS = [(r"(?<!\\){", r"(?<!\\)}"), (r"\\begin\b", r"\\end\b"), (r"\\left\b", r"\\right\b")]
project = "dlilib"
copyright = "The dlilib authors"
release = version = __version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["generated"]  # parts of pages, which include them

html_theme = "furo"
html_title = "dlilib"
html_static_path = ["_static"]
html_css_files = ["dlilib.css"]
html_domain_indices = False
html_show_sourcelink = False
html_show_search_summary = False  # scripts fetch it, which browsers refuse for pages from a folder
html_math_renderer = "mathml"
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"

myst_enable_extensions = ["dollarmath", "colon_fence", "attrs_inline"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}  # by default they come from another host

default_role = "code"  # docstrings write `name`, as Markdown does
autosummary_generate = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
copybutton_prompt_text = ">>> "


def _mathml(node: nodes.Element, as_block: bool) -> str:
    text = node.astext()
    try:
        for opening, closing in PAIRS:  # docutils takes equations that end too early
            if len(re.findall(opening, text)) != len(re.findall(closing, text)):
                raise MathError(f"not as many {opening} as {closing}")
        return str(tex2mathml(text, as_block=as_block))
    except MathError as error:
        logging.getLogger(__name__).warning("%s: %s", error, text, location=node)
        return text


def _inline_math(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(_mathml(node, False))
    raise nodes.SkipNode


def _math_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math" tabindex="0">{_mathml(node, True)}</div>\n')
    raise nodes.SkipNode


def _with_a_scale(app: Sphinx, doctree: nodes.document) -> None:
    """Sphinx links an image that has a scale to its file, where it can be opened larger."""
    for image in doctree.findall(nodes.image):
        image.setdefault("scale", 100)


def setup(app: Sphinx) -> None:
    """Write equations as MathML, which browsers show without a script, and link the images."""
    app.add_html_math_renderer("mathml", (_inline_math, None), (_math_block, None))
    app.connect("doctree-read", _with_a_scale)
