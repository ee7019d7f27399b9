"""Measuring a model: bits per byte of text, minimal pairs, multiple choice and cloze, and lm_eval's tasks."""
