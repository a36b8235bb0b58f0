"""Stored outputs of a frozen teacher."""
