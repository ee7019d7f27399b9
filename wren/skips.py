"""What runs past the blocks: skips of the residual stream, and values that mixers get besides their own.

B batch, T time, D model width, E width of a mixer's values, L layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wren.errors import ConfigError
from wren.tables import Table, TablesConfig


@dataclass(frozen=True, kw_only=True)
class SkipsConfig:
    """x0: every block reads a x + b x0 instead of x, where x0 is the embedding and a, b are learned numbers; begins
    with a = 1, b = 0 (modded-nanogpt, github.com/KellerJordan/modded-nanogpt).

    unet: a block of the second half reads also, times a learned number that begins at 0, what its mirror image in the
    first half read (modded-nanogpt). values: all layers after the first that takes values share, times a learned number
    each, a projection of x0: the first layer's values by another name (value residual, 2410.17897).
    """

    x0: bool = False
    unet: bool = False
    values: bool = False


class Skips(nn.Module):
    """What a block reads, of the stream, the embedding and what earlier blocks read."""

    def __init__(self, depth: int, config: SkipsConfig):
        """Raises ConfigError for a U-net of one layer, which has no mirror image."""
        super().__init__()
        if config.unet and depth < 2:
            raise ConfigError("skips.unet needs at least two layers; add layers or leave it off.")
        self.stream_L = nn.Parameter(torch.ones(depth)) if config.x0 else None
        self.x0_L = nn.Parameter(torch.zeros(depth)) if config.x0 else None
        self.unet_L = nn.Parameter(torch.zeros(depth // 2)) if config.unet else None
        self.depth = depth

    def forward(self, layer: int, x_BTD: Tensor, x0_BTD: Tensor, read: Sequence[Tensor]) -> Tensor:
        """read: what the blocks before this one read."""
        second_half = layer - (self.depth - self.depth // 2)
        if self.unet_L is not None and second_half >= 0:
            x_BTD = x_BTD + self.unet_L[second_half] * read[self.depth - 1 - layer]
        if self.stream_L is not None and self.x0_L is not None:
            x_BTD = self.stream_L[layer] * x_BTD + self.x0_L[layer] * x0_BTD
        return x_BTD


class Values(nn.Module):
    """What each layer's mixer gets as context.values_BTD: its own token table's row, the shared projection of x0.

    widths: the width of each layer's values, 0 = the mixer takes none. The factors begin at 1/2, the share of two
    equals (2410.17897); a table begins with rows as large as projected values.
    """

    def __init__(self, vocab_size: int, dim: int, widths: list[int], tables: TablesConfig, skip: bool, std: float):
        super().__init__()
        self.widths = widths
        own = _layers_with_tables(tables.values, widths)
        self.tables = nn.ModuleDict({str(i): Table(vocab_size, widths[i], on_cpu=tables.on_cpu) for i in own})
        for table in self.tables.values():
            nn.init.normal_(table.weight, std=std * dim**0.5)  # type: ignore[arg-type]
        self.skipping = _skipping_layers(widths) if skip else []
        self.projections = nn.ModuleDict(
            {str(width): nn.Linear(dim, width, bias=False) for width in sorted({widths[i] for i in self.skipping})}
        )
        self.table_L = nn.Parameter(torch.full((len(widths),), 0.5)) if own else None
        self.skip_L = nn.Parameter(torch.full((len(widths),), 0.5)) if skip else None

    def forward(self, tokens_BT: Tensor, x0_BTD: Tensor) -> list[Tensor | None]:
        """(B, T, E) for every layer that gets some."""
        rows = {name: table(tokens_BT) for name, table in self.tables.items()}
        shared = {}
        if self.projections:
            normed_BTD = F.rms_norm(x0_BTD, x0_BTD.shape[-1:])
            shared = {name: projection(normed_BTD) for name, projection in self.projections.items()}
        return [self._of_layer(i, rows, shared) for i in range(len(self.widths))]

    def _of_layer(self, layer: int, rows: dict[str, Tensor], shared: dict[str, Tensor]) -> Tensor | None:
        parts = []
        if self.table_L is not None and str(layer) in rows:
            parts.append(self.table_L[layer] * rows[str(layer)])
        if self.skip_L is not None and layer in self.skipping:
            parts.append(self.skip_L[layer] * shared[str(self.widths[layer])])
        return sum(parts[1:], start=parts[0]) if parts else None

    def flops_per_token(self) -> float:
        return sum(2 * p.numel() for p in self.projections.parameters())


def _layers_with_tables(choice: str | tuple[int, ...] | None, widths: list[int]) -> list[int]:
    """Raises ConfigError for a layer that is not there or takes no values; a pattern passes over those."""
    depth = len(widths)
    if choice is None:
        return []
    if isinstance(choice, tuple):
        for layer in choice:
            if not 0 <= layer < depth:
                raise ConfigError(f"tables.values names layer {layer}; the model has layers 0 to {depth - 1}.")
            if not widths[layer]:
                raise ConfigError(
                    f"tables.values names layer {layer}, whose mixer takes no values; name others, or use 'all', which "
                    "passes over such layers."
                )
        if not choice or len(set(choice)) < len(choice):
            raise ConfigError(f"tables.values is {list(choice)}; name at least one layer, and none twice, or use none.")
        return sorted(choice)
    chosen = [i for i in range(depth) if widths[i] and (choice == "all" or (depth - 1 - i) % 2 == 0)]
    if not chosen:
        raise ConfigError(f"tables.values is '{choice}', but none of these layers has a mixer that takes values.")
    return chosen


def _skipping_layers(widths: list[int]) -> list[int]:
    later = [layer for layer, width in enumerate(widths) if width][1:]
    if not later:
        raise ConfigError("skips.values needs two layers whose mixers take values; add layers or leave it off.")
    return later
