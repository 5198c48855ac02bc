"""Sphinx's settings for the documentation site; docs/contributing.md says how to build it.

The Markdown pages are written for a checkout browser, where README.md and SECURITY.md lie one folder above them. On the
site these two are pages as well, so their links are rewritten here, and so are the links to them.
"""

from __future__ import annotations

import re
import sys
from dataclasses import is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from docutils import nodes
from docutils.utils import new_document
from myst_parser.sphinx_ import Parser
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.inspect import signature as signature_of
from sphinx.util.inspect import stringify_signature

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# From a checkout as it is, hence after the line above.
from discosbackend import __version__, commands  # noqa: E402
from discosbackend.simulator.instrument import model  # noqa: E402
from discosbackend.simulator.signal import sky  # noqa: E402
from discosbackend.testing import profile  # noqa: E402

project = "discosbackend"
author = "The discosbackend developers"
project_copyright = author
version = release = __version__

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = f"discosbackend {version}"
html_copy_source = False

# The anchors of headings are made as GitHub makes them, and test_docs.
myst_heading_anchors = 4

# In docstrings, as in Markdown, single backticks are code.
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
maximum_signature_line_length = 100
# zope's interfaces are not classes: without this their repr() would be shown.
autodoc_type_aliases = {
    name: f"twisted.internet.interfaces.{name}" for name in ("IListeningPort", "IStreamServerEndpoint")
}
# The members of a class are listed by autodoc, under the class.
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

# With -n, every reference to a name of this package must have a target. Names of other packages have none here, because
# their lists of names would have to be downloaded during the build.
nitpick_ignore_regex = [
    (r"py:.*", rf"({'|'.join(sorted(sys.stdlib_module_names))})(\..*)?"),
    (r"py:.*", r"(astropy|numpy|twisted|zope)\..*"),
    # One of Twisted's in a union, where autodoc_type_aliases has no effect.
    (r"py:class", r"IStreamClientEndpoint"),
    # Type variables in the signatures of decorators.
    (r"py:class", r"(.*\.)?MethodT"),
    # What attributes are, for monitors; and how an interface of Twisted is shown as the type of a parameter.
    (r"py:class", r"Watchdog|discosbackend\.simulator\.recording\.queue\.RecordingQueue|<InterfaceClass .*>"),
]

TOP_LEVEL = {"README.md": "index.rst", "SECURITY.md": "security.rst"}
"""The documents outside of this folder that are pages of the site, and their pages."""


def _link_from_here(link: re.Match[str]) -> str:
    """A link of a top-level document as it must be written in this folder."""
    path = link[1]
    if path in TOP_LEVEL:
        return f"]({TOP_LEVEL[path]}"
    return f"]({path.removeprefix('docs/')}" if path.startswith("docs/") else f"](../{path}"


class TopLevel(SphinxDirective):
    """`.. top-level:: README.md` inserts a document of the checkout's top level."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse the document."""
        path = ROOT / self.arguments[0]
        self.env.note_dependency(str(path))
        text = re.sub(r"\]\((?![a-z]+:|#)([^)#\s]+)", _link_from_here, path.read_text(encoding="utf-8"))
        document = new_document(str(path), self.state.document.settings)
        Parser().parse(text, document)
        return document.children


def lead_to_pages(app: Sphinx, docname: str, content: list[str]) -> None:
    """Make links to the top-level documents lead to their pages."""
    for name, page in TOP_LEVEL.items():
        content[0] = content[0].replace(f"](../{name}", f"]({page}")
    # Another Markdown file outside of this folder is no page of the site: its link becomes a download.
    content[0] = re.sub(r"\]\((\.\./[^)#\s]+\.md\))", r"](path:\1", content[0])


def improve_signature(
    app: Sphinx, what: str, name: str, member: Any, options: object, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Show the parameters of `__init__` where there is a `__new__` too, and `...` for a default made by a function."""
    if what == "class" and signature and "__new__" in vars(member) and "__init__" in vars(member):
        signature = stringify_signature(signature_of(member.__init__, bound_method=True), show_return_annotation=False)
    return signature and signature.replace("<factory>", "..."), returned


def show_plain_types(module: ModuleType) -> None:
    """Remove the unit and the range, which are for the schema, from the annotations of the classes of a module."""
    for member in vars(module).values():
        if isinstance(member, type) and member.__module__ == module.__name__:
            member.__annotations__ = get_type_hints(member)
            if is_dataclass(member):
                member.__init__.__annotations__ = get_type_hints(member.__init__, vars(module))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the above; Sphinx calls this."""
    for module in (commands, model, sky, profile):
        show_plain_types(module)
    app.add_directive("top-level", TopLevel)
    app.connect("source-read", lead_to_pages)
    app.connect("autodoc-process-signature", improve_signature)
    return {"parallel_read_safe": True}
