"""Analyses of trained networks beyond their accuracy."""
