"""Outputs of a frozen teacher, stored once for all runs."""
