"""The documentation: every Markdown page of the repository, and the docstrings.

Sphinx reads from the top of the repository (``sphinx-build -c docs .``), so a relative link between two pages, or from
a page to a config, means the same on a code host and here.
"""

import pkgutil
from pathlib import Path

import icd_mmrazor

project = 'icd-mmrazor'
author = 'the icd-mmrazor authors'
release = version = icd_mmrazor.__version__

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.autosummary',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
]
root_doc = 'docs/index'
include_patterns = [
    'README.md',
    'CHANGELOG.md',
    'CONTRIBUTING.md',
    'docs/**.md',
    'docs/api/*.rst',
    'configs/*/README.md',
]
exclude_patterns = ['.*', 'docs/_*', 'icd_mmrazor', 'tests', 'tools', 'work_dirs', 'data', 'build']

myst_enable_extensions = ['dollarmath']
myst_heading_anchors = 4
myst_dmath_allow_digits = False

# docs/api/ is generated for every build: a new module needs no page
autosummary_generate = True
# a package has a page, with its modules on it
modules = pkgutil.walk_packages(icd_mmrazor.__path__, 'icd_mmrazor.')
autosummary_context = {'packages': ['icd_mmrazor', *(module.name for module in modules if module.ispkg)]}
# a docstring inherited from mmengine or torch is not ours to render
autodoc_inherit_docstrings = False
autodoc_member_order = 'bysource'
# a package that exports its modules' classes does not describe them a second time
autodoc_default_options = {'members': True, 'show-inheritance': True, 'ignore-module-all': True}
autodoc_typehints_format = 'short'
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# as fields of the class, because autodoc describes its annotated attributes once more
napoleon_use_ivar = True

html_theme = 'furo'
html_title = f'icd-mmrazor {release}'
# absolute: autosummary starts from the top of the repository, the theme from this folder
templates_path = [str(Path(__file__).parent / '_templates')]
# index.html of the built folder leads to the first page
html_additional_pages = {'index': 'first_page.html'}
html_show_copyright = html_copy_source = False
