"""A switch: importing this module enters :func:`icd_mmrazor.compat.runtime`, as our tools do.

For a config that is run by other tools::

    custom_imports = dict(imports=['icd_mmrazor', 'icd_mmrazor.runtime'])
"""

from icd_mmrazor import compat

compat.runtime()
