"""How Sphinx builds the site: ``make docs``."""

import sppfast

project = "sppfast"
author = "the sppfast developers"
copyright = author
version = release = sppfast.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]

myst_heading_anchors = 3

autodoc_typehints = "none"  # the sections of a docstring say more
toc_object_entries_show_parents = "hide"
default_role = "py:obj"
nitpick_ignore_regex = [("py:obj", "[a-z_]+")]  # single words in docstrings may be parameters
numpydoc_show_class_members = False
templates_path = ["_templates"]

html_theme = "pydata_sphinx_theme"
html_title = f"sppfast {version}"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
alone = ("quickstart", "pyramid", "sppnet", "performance", "kernels", "reliability", "changelog")
html_sidebars = {page: [] for page in alone}  # nothing below them that a sidebar could list
html_show_sourcelink = False
html_use_index = html_domain_indices = False  # the search finds as much
html_context = {"default_mode": "auto"}
html_theme_options = {
    "header_links_before_dropdown": 6,
    "logo": {"text": "sppfast"},
    "navigation_with_keys": False,
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
