"""The version, read by the build and by :mod:`icd_mmrazor`."""

__version__ = '0.1.0'
