# the usual runtime, with the best checkpoint by its searches
_base_ = ['../runtimes/default.py']
default_hooks = dict(checkpoint=dict(save_best='retrieval/MRR@10', rule='greater'))
# a network that embeds the gallery itself does so again for each validation
custom_hooks = [dict(type='PrepareProtoBeforeValLoopHook')]
