"""The site: Sphinx with myst-nb, which runs the code of every page, and furo.

Nothing is fetched while building, so that it builds offline. `DOCS_INTERSPHINX=1`
fetches the inventories of Python, NumPy and JAX and links to them.
"""

import os
import re
import sys
from pathlib import Path

from docutils import nodes

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

from api_pages import write_pages

import lagrange_jax

project = "lagrange_jax"
author = "The lagrange_jax authors"
copyright = author
version = release = lagrange_jax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "mathml",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "jupyter_execute"]
html_theme = "furo"
html_math_renderer = "mathml"  # readable without a network
html_title = "lagrange_jax"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
# Tables of the studies begin with headings of their own level.
suppress_warnings = ["mystnb.unknown_mime_type", "myst.header"]

# Pages: MyST Markdown, code cells run in a kernel with the environment's Python.
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_show_tb = True  # a failing cell is a warning, and warnings are errors
nb_execution_timeout = 120
nb_merge_streams = True
nb_render_markdown_format = "myst"
# Most of a page's time is compilation: cheaper code, and kept for the next build.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
cache = Path(__file__).parent / "_build" / "compiled"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

# API reference, from the docstrings.
autodoc_default_options = {"members": True}
autodoc_member_order = "groupwise"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
viewcode_follow_imported_members = False
add_module_names = False
python_maximum_signature_line_length = 72
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
# A name in backticks links to what it names, where the site knows it.
default_role = "py:obj"

if os.environ.get("DOCS_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "jax": ("https://docs.jax.dev/en/latest", None),
    }


def _make_table_pages(docs):
    """A page for each recorded table, where the studies' READMEs link to it."""
    results = docs.parent / "experiments" / "results"
    for table in results.rglob("*.md"):
        place = table.relative_to(results)
        page = docs / "results" / place
        page.parent.mkdir(parents=True, exist_ok=True)
        source = Path("../" * len(page.relative_to(docs).parts)) / "experiments/results"
        title = f"# {' '.join(place.with_suffix('').parts)}"
        include = f"```{{include}} {source / place}\n```"
        page.write_text(f"---\norphan: true\n---\n\n{title}\n\n{include}\n")


_make_table_pages(Path(__file__).parent)
write_pages(Path(__file__).parent / "api")


def _write_mathematics(app, what, name, obj, options, lines):
    """Docstrings write $x$ and $$x$$; reStructuredText has a role and a directive."""
    text = "\n".join(lines)
    text = re.sub(
        r"\$\$(.+?)\$\$",
        lambda m: f".. math:: {' '.join(m[1].split())}",
        text,
        flags=re.DOTALL,
    )
    text = re.sub(r"\$([^$]+?)\$", lambda m: f":math:`{' '.join(m[1].split())}`", text)
    lines[:] = text.split("\n")


def _skip_fields(app, what, name, obj, skip, options):
    """Fields of a NamedTuple are in its docstring; checks are the library's own."""
    is_field = (obj.__doc__ or "").startswith("Alias for field number")
    return skip or is_field or name.startswith("require_")


# A union is written out where its name is meant.
ARRAY_LIKE = re.compile(
    r"[\w.~]*\bArray \| [\w.~]*ndarray \| [\w.~]*bool \| [\w.~]*number \| "
    r"bool \| int \| float \| complex"
)


def _shorten_types(app, what, name, obj, options, signature, annotation):
    """The name that is imported, not the one that is implemented."""
    return tuple(
        text and ARRAY_LIKE.sub("ArrayLike", text).replace("jaxlib._jax.Array", "Array")
        for text in (signature, annotation)
    )


def _shorten_properties(app, doctree):
    """The types of properties, which are no signatures."""
    for text in list(doctree.findall(nodes.Text)):
        if "jaxlib._jax." in text:
            text.parent.replace(text, nodes.Text(text.replace("jaxlib._jax.", "")))


def setup(app):
    """Registers the hooks."""
    app.connect("autodoc-process-signature", _shorten_types)
    app.connect("autodoc-process-docstring", _write_mathematics, priority=400)
    app.connect("autodoc-skip-member", _skip_fields)
    app.connect("doctree-read", _shorten_properties)
