"""Settings of the documentation site. ``sphinx-build -W --keep-going docs docs/_build`` builds it.

The list of pages is that of README.md in this folder. From it, the change log and the front door of gpu4d come the pages in
``generated``, which are written before each build.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
os.environ.setdefault("MPLBACKEND", "agg")

from site_pages import link_names, make_pages, plain_docstring  # noqa: E402

import gpu4d  # noqa: E402

project = "gpu4d"
author = "The gpu4d developers"
copyright = "the gpu4d developers"
version = release = gpu4d.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_gallery.gen_gallery", "sphinx_copybutton"]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
exclude_patterns = ["_build", "README.md", "examples", "gallery", "generated/gallery/sg_execution_times.rst", "sg_execution_times.rst"]
default_role = "py:obj"  # single backquotes in docstrings are names

myst_heading_anchors = 4  # links such as strain.md#axes
myst_heading_slug_func = "site_pages.heading_slug"
# A page may begin a part with a smaller heading. Words of types, such as "intensity", may be names of several things: then no links
suppress_warnings = ["myst.header", "ref.python"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "generated/gallery",
    "filename_pattern": "plot_",
    "image_scrapers": ("site_pages.keep_figure",),
    "reset_modules": (),
    "reference_url": {"gpu4d": None},
    "within_subsection_order": "ExampleTitleSortKey",
    "download_all_examples": False,
    "show_memory": False,
    "min_reported_time": 1e9,
    "write_computation_times": False,
    "remove_config_comments": True,
    "abort_on_example_error": True,
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = "gpu4d"
html_extra_path = ["examples/report.html"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}


def setup(app):
    """Connect what writes pages, links names to their pages, and reads docstrings."""
    app.connect("config-inited", lambda app, config: make_pages(HERE))
    app.connect("source-read", link_names)
    app.connect("autodoc-process-docstring", plain_docstring, priority=400)  # before napoleon
