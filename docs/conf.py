"""The documentation: every Markdown page of the repository, and the docstrings.

Sphinx reads from the top of the repository (``sphinx-build -c docs .``), so a relative link between two pages, or from
a page to a config, means the same on a code host and here.
"""

import icd_mmrazor

project = 'icd-mmrazor'
author = 'the authors of icd-mmrazor'
release = version = icd_mmrazor.__version__

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx.ext.viewcode']
root_doc = 'docs/index'
include_patterns = ['README.md', 'CHANGELOG.md', 'docs/**.md', 'configs/*/README.md']
exclude_patterns = ['.*', 'docs/_*', 'icd_mmrazor', 'tests', 'tools', 'work_dirs', 'data', 'build']

myst_enable_extensions = ['dollarmath']
myst_heading_anchors = 4
myst_dmath_allow_digits = False

# a docstring inherited from mmengine or torch is not ours to render
autodoc_inherit_docstrings = False
autodoc_member_order = 'bysource'
autodoc_default_options = {'members': True, 'show-inheritance': True}
autodoc_typehints_format = 'short'
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# as fields of the class: its annotated attributes are described once more by autodoc
napoleon_use_ivar = True

html_theme = 'furo'
html_title = f'icd-mmrazor {release}'
templates_path = ['_templates']
# a browser that opens the built folder comes to the first page
html_additional_pages = {'index': 'first_page.html'}
html_show_copyright = html_copy_source = False
