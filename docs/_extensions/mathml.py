"""Formulas as MathML, which browsers draw without a script, a font or a network.

Docutils converts LaTeX itself; what it does not know is written in words that it does.
"""

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

logger = logging.getLogger(__name__)

WORDS = {
    r"\\(big|Big|bigg|Bigg)(?![a-zA-Z])": r"\\\1l",
    r"\\texttt": r"\\mathtt",
    r"\\dots(?![a-zA-Z])": r"\\ldots",
}
TAG = re.compile(r"\\tag\{(.+?)\}")


def to_mathml(latex: str, *, is_block: bool) -> str:
    """Returns a `math` element.

    Raises:
      MathError: a command is unknown.
    """
    latex = TAG.sub("", latex)
    for pattern, word in WORDS.items():
        latex = re.sub(pattern, word, latex)
    return tex2mathml(latex.strip(), as_block=is_block)


def _convert(node: Any, *, is_block: bool) -> str:
    try:
        return to_mathml(node.astext(), is_block=is_block)
    except MathError as error:
        logger.warning("formula %r: %s", node.astext(), error, location=node)
        return f"<code>{node.astext()}</code>"


def visit_inline(translator: Any, node: Any) -> None:
    """Writes a formula in a line."""
    translator.body.append(_convert(node, is_block=False))
    raise nodes.SkipNode


def visit_block(translator: Any, node: Any) -> None:
    """Writes a formula of its own line, with its number where it has one."""
    tag = TAG.search(node.astext())
    number = f'<span class="eqno">({tag[1]})</span>' if tag else ""
    math = _convert(node, is_block=True)
    translator.body.append(f'<div class="math">{math}{number}</div>\n')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, Any]:
    """Registers the renderer `mathml`."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
