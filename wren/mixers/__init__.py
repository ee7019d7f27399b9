"""Sequence mixers: one file per architecture, each under the contract of wren.mixer."""
