"""Inference-time training: adapters that learn from what is read, or from a prompt's own examples, and are dropped.

`stream` scores a text and learns from it as it goes, `gate` says whether that helps, `learner` is the adapter with its
optimizer. The model's own weights are never touched.
"""
