"""Causal attention to a query's own block of keys and to the k earlier blocks whose mean key answers it best.

MoBA (2502.13189), the selection branch of NSA (2502.11089).
"""

from wren.ops.block_sparse_attention.chunked import cached_block_sparse_attention, chunked_block_sparse_attention
from wren.ops.block_sparse_attention.naive import naive_block_sparse_attention

__all__ = ["cached_block_sparse_attention", "chunked_block_sparse_attention", "naive_block_sparse_attention"]
