"""Names of methods as a person gives them: one, or several with a plus between."""

# since November 2024 the authors of ICD call it DCD
OTHER_NAMES = {'dcd': 'icd'}


def split_methods(methods: str) -> list[str]:
    """Return the methods of a mixture by the names that they have here.

    Args:
        methods: ``icd+kd``, or the same with other names: ``dcd+kd``.
    """
    return [OTHER_NAMES.get(name, name) for name in methods.split('+')]


def own_names(methods: str) -> str:
    """Return a mixture with the names that its methods have here: ``icd+kd`` for ``dcd+kd``.

    Args:
        methods: As of :func:`split_methods`.
    """
    return '+'.join(split_methods(methods))
