"""The scope ``icd_mmrazor``, which mmengine gives to everything inherited as ``icd_mmrazor::...``.

mmengine looks a type up in the registry of the scope first and then in its parents. These registries hold nothing
themselves (our modules register in mmrazor's, mmpretrain's and mmengine's); their parents are mmpretrain's, so that
an inherited config finds what it names, as it does in its own folder under ``default_scope = 'mmpretrain'``.
"""

import mmpretrain.registry as mmpretrain_registry
from mmengine.registry import Registry

REGISTRIES = {
    name: Registry(parent.name, parent=parent, scope='icd_mmrazor', locations=['icd_mmrazor'])
    for name, parent in vars(mmpretrain_registry).items()
    if isinstance(parent, Registry) and parent.scope == 'mmpretrain'
}
