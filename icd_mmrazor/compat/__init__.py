"""Everything that touches classes and modules of others: two lists of workarounds, one function each.

Each function says where the problem is and in which versions; delete it once that is fixed upstream.
``docs/reference/workarounds.md`` lists them all.
"""

import functools

from icd_mmrazor.compat import imports


@functools.cache
def prepare() -> None:
    """Do what is needed to import mmrazor, to get right results from it and to load files safely; runs on import, once.

    Raises:
        ImportError: A package of the stack is missing or too old; the message says what to install.
    """
    imports.require_stack()
    imports.limit_images()
    imports.import_mmrazor()
    imports.patch_package_lookup()
    imports.register_config_package()

    # they import the stack, which must be there first
    from icd_mmrazor.compat import loading, mmrazor_fixes, optimizers, recording, retrieval

    loading.load_checkpoints_as_plain_weights()
    loading.load_own_checkpoints()
    loading.read_files_as_plain_values()
    loading.refuse_pickles_of_timm()
    mmrazor_fixes.name_weights_of_wrapped_networks_alike()
    mmrazor_fixes.switch_all_inplace_off()
    mmrazor_fixes.make_sequences_dynamic()
    mmrazor_fixes.find_soft_cross_entropy()
    mmrazor_fixes.read_candidates_as_literals()
    mmrazor_fixes.validate_whatever_is_predicted()
    optimizers.let_lamb_train_scalars()
    recording.record_what_modules_compute()
    recording.record_what_is_there()
    retrieval.compare_with_a_gallery_at_once()
    retrieval.encode_galleries_of_students()


@functools.cache
def runtime() -> None:
    """Let runs of this process store configs, read images and compile as those of our tools do; once."""
    prepare()
    from icd_mmrazor.compat import layout, messages, retrieval, runs

    layout.compile_in_a_sound_layout()
    messages.explain_image_folders()
    messages.explain_images()
    messages.drop_warning_of_hsigmoid()
    retrieval.measure_searches_with_a_new_numpy()
    retrieval.embed_each_image_of_a_gallery_once()
    retrieval.keep_galleries_out_of_buffers()
    runs.format_a_config_once()
