"""Measuring a model: bits per byte of text."""
