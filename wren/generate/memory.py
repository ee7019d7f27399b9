"""How many bytes of state an engine may hold where nobody says."""

import os

import torch

SHARE = 0.5  # of the memory that is free
UNKNOWN = 2 << 30  # where the system does not say


def default_bytes(device: torch.device) -> int:
    """Half of what is free on the device now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return max(1, int(free * SHARE))
    return max(1, int(_available() * SHARE))


def _available() -> int:
    """Bytes of main memory that can be had; where the system does not say, a guess."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return UNKNOWN
