"""Many processes, one model: torchrun's process group, gradients and data over its ranks, sharded weights."""
