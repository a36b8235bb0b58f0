"""What the tools make of ``default_hooks``."""

from mmengine.config import Config

from icd_mmrazor.launch.run_config import complete_hooks


def test_hooks_that_are_none_and_settings_without_a_type() -> None:
    hooks = dict(
        logger=None,
        export_student=None,
        sanity_check=dict(skip=['batches']),
        check_resume=dict(changes='list'),
        check_weights=dict(type='Other', names='list'),
    )
    cfg = Config(dict(default_hooks=hooks))
    complete_hooks(cfg)
    assert cfg.default_hooks == dict(
        # mmengine leaves out its own
        logger=None,
        sanity_check=dict(type='SanityCheckHook', skip=['batches']),
        check_resume=dict(type='CheckResumeHook', changes='list'),
        check_weights=dict(type='Other', names='list'),
    )
    complete_hooks(Config({}))
