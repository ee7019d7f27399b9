"""Adapters: low-rank changes of a frozen model, chosen per row of a batch; and the frozen model in four bits.

`Adapter` holds the tensors of one, `Adapters` puts several on a model, `files` keeps them on disk, `bits` is 4-bit.
"""
