"""The documentation site, built by ``nox -s docs``: Sphinx, MyST for Markdown, the theme furo.

The pages are Markdown that reads as well in the repository. What the site needs beside it is made
here: the navigation from the lists in index.md, pages from files above docs/, and links into the
repository. The reference is made from the docstrings.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.logging import getLogger
from sphinx.util.nodes import make_refnode
from sphinx.util.typing import stringify_annotation

log = getLogger(__name__)
DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

import asteady  # noqa: E402

# The one place where the addresses are set is pyproject.toml.
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]
REPOSITORY = URLS["Repository"]
PACKAGES = [
    "asteady",
    *(f"asteady.{name}" for name in ("operate", "operate.dask", "server", "blocking", "testing")),
]

project = "asteady"
author = "the authors of asteady"
copyright = "the authors of asteady"
version = release = asteady.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
root_doc = "index"

myst_heading_anchors = 4
myst_enable_extensions = ["smartquotes"]
myst_links_external_new_tab = False

# Docstrings have names between single backticks: a link where the name is one of the reference,
# and otherwise a parameter or a field, which is shown as code.
default_role = "py:obj"
nitpicky = True
CLASSES = {
    name
    for package in PACKAGES
    for name in importlib.import_module(package).__all__
    if name[0].isupper()
}
nitpick_ignore_regex = [
    ("py:.*", rf"(?!asteady\b|({'|'.join(sorted(CLASSES))})\b).*"),
    # Type variables, by the modules that they are written in.
    ("py:class", r"asteady\..*\._?[A-Z]\w{0,3}"),
]

autodoc_default_options = {
    "members": True,
    "undoc-members": True,
    "inherited-members": "object,Protocol,Generic,ABC,BaseException,dict,tuple,Response",
}
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
maximum_signature_line_length = 88
napoleon_use_rtype = False
toc_object_entries_show_parents = "hide"

# It makes other quotation marks of those of types, too.
smartquotes = False

html_theme = "furo"
html_title = "asteady"
html_favicon = "../asteady/server/_dashboard/page/icon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "source_repository": REPOSITORY,
    "source_branch": "main",
    "source_directory": "docs/",
    "top_of_page_buttons": [],
}
copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True


# Files above docs/ that are pages of the site too, by the names of their pages.
ABOVE = {
    "changelog": ROOT / "CHANGELOG.md",
    "contributing": ROOT / "CONTRIBUTING.md",
    "model-card": ROOT / "asteady/models/CARD.md",
}


def read_source(app: Sphinx, docname: str, source: list[str]) -> None:
    """Make a page of the site of what is in the repository."""
    path = app.env.doc2path(docname)
    if path.suffix != ".md":
        return
    if docname in ABOVE:
        app.env.note_dependency(str(ABOVE[docname]))
        source[0] = ABOVE[docname].read_text("utf-8")
    origin = ABOVE.get(docname, Path(path)).parent
    source[0] = re.sub(
        r"(?<=\]\()(?!https?:|#)([^)#\s]+)",
        lambda link: link_on_site(origin / link[1], Path(path).parent) or link[1],
        source[0],
    )
    if Path(path).stem == "index":
        source[0] += "\n" + "\n".join(navigation(source[0]))


def link_on_site(target: Path, page: Path) -> str | None:
    """Where a link leads to: a page, or else the repository; None if there is no such file."""
    target = Path(os.path.normpath(target))
    for name, above in ABOVE.items():
        if target == above:
            target = DOCS / f"{name}.md"
    if not target.exists():
        return None
    if target.is_relative_to(DOCS):
        return os.path.relpath(target, page)
    kind = "tree" if target.is_dir() else "blob"
    return f"{REPOSITORY}/{kind}/main/{target.relative_to(ROOT).as_posix()}"


def navigation(index: str) -> Iterator[str]:
    """Tables of contents: what the lists of an index link to, by section, with the same words."""
    for heading, section in re.findall(r"^(#+ .+)\n((?:(?!#).*\n)*)", index, re.M):
        links = re.findall(r"^(?:-|\d\.) \[(.*?)\]\(([^)#:]+)\.(?:md|rst)\)", section, re.M)
        pages = [f"{label} <{page}>" for label, page in links]
        if pages:
            caption = f":caption: {heading.lstrip('# ')}\n" if heading.startswith("##") else ""
            yield f"```{{toctree}}\n:hidden:\n{caption}\n" + "\n".join(pages) + "\n```\n"


def find_name(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, shown: nodes.Element
) -> nodes.Element | None:
    """Find a name of asteady without its module, as docstrings write it, in the whole reference."""
    if node["refdomain"] != "py":
        return None
    objects = env.domains.python_domain.objects
    for package in PACKAGES:
        name = f"{package}.{node['reftarget']}"
        if name in objects:
            found = objects[name]
            return make_refnode(
                app.builder, node["refdoc"], found.docname, found.node_id, shown, name
            )
    return None


def shorten_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    """No signature for classes that users do not construct, and others as they are written."""
    if not signature or (what == "class" and "._" in signature):
        return ("", "") if signature else None
    # Type parameters as `repr` shows them, which Sphinx cannot read.
    signature = re.sub(r"(?:~typing\.)?~([A-Z])\b", r"\1", signature)
    signature, returns = as_checked(signature), as_checked(returns or "")
    # Nor can it read defaults that are functions or classes.
    signature = re.sub(r"<[\w -]+? '?(?:\w+\.)*(\w+)'?(?: at \w+)?>", r"\1", signature)
    # attrs.NOTHING stands for a default that is computed.
    signature = signature.replace("= NOTHING", "= ...")
    if "<" in signature + returns:
        log.warning("%s%s -> %s has what is no Python", name, signature, returns)
    return signature, returns


def as_checked(types: str) -> str:
    """Types as type checkers see them, without what pydantic reads of them when they are run."""
    return re.sub(
        r"(?:~?typing\.)?Annotated\[(?:~?typing\.)?(\w+), JsonForm\([^)]*\)\]",
        lambda found: "asteady.Vector" if found[1] == "Any" else found[1],
        types,
    )


def keep_colon(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """An empty comment before the text of a field: napoleon takes "this: that" for its type."""
    if what in ("attribute", "data", "property") and lines and ":" in lines[0]:
        lines[:0] = ["..", ""]


def read_private_modules() -> None:
    """Give the order and the comments of members to autodoc, which looks for them in the module
    that ``__module__`` names: a public package, whose classes are written in private modules."""
    for package in PACKAGES:
        known = ModuleAnalyzer.for_module(package)
        known.analyze()
        for name in private_modules(package):
            written = ModuleAnalyzer.for_module(name)
            written.analyze()
            known.attr_docs.update(written.attr_docs)
            known.annotations.update(written.annotations)
            for owner in vars(importlib.import_module(name)).values():
                for field, kind in getattr(owner, "__annotations__", {}).items():
                    if "JsonForm" in repr(kind):
                        owner.__annotations__[field] = as_checked(stringify_annotation(kind))
            known.overloads.update(written.overloads)
            known.finals.extend(written.finals)
            known.tagorder.update(written.tagorder)


def private_modules(package: str) -> Iterator[str]:
    for found in pkgutil.iter_modules(importlib.import_module(package).__path__):
        name = f"{package}.{found.name}"
        if found.name.startswith("_"):
            yield name
            if found.ispkg:
                for inner in pkgutil.walk_packages(
                    importlib.import_module(name).__path__, name + "."
                ):
                    yield inner.name


def setup(app: Sphinx) -> dict[str, Any]:
    read_private_modules()
    app.connect("source-read", read_source)
    app.connect("missing-reference", find_name)
    # Before napoleon's, whose priority is 500.
    app.connect("autodoc-process-docstring", keep_colon, priority=400)
    app.connect("autodoc-process-signature", shorten_signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
