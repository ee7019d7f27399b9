"""Wren: an LLM lab for one GPU."""

__version__ = "0.1.0"
