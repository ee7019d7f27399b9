"""The tensors of one adapter: y = W x + (alpha / rank) B A x for linear layers  (LoRA, 2106.09685).

W is the model's and frozen, A (down) begins at random, B (up) at zero, so that an adapter begins as no change. All
linear layers of the blocks have one, those of MLPs and experts too. Tokens that pretraining never saw (those of
conversations) have rows of their own in the adapter, which are added to the embedding's and the head's: the frozen
ones were never trained.

D model width, R rank, I and O a layer's inputs and outputs, n tokens with rows.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wren import checkpoint
from wren.errors import ConfigError
from wren.mlp import SparseMlp
from wren.model import LM


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """alpha: the change is scaled by alpha / rank, None = 2 x rank. tokens: ids with rows of their own."""

    rank: int = 16
    alpha: float | None = None
    tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"adapter.rank is {self.rank}; it must be at least 1.")
        if self.alpha is not None and not self.alpha > 0:
            raise ConfigError(f"adapter.alpha is {self.alpha}; it must be above 0.")
        if len(set(self.tokens)) < len(self.tokens):
            raise ConfigError("adapter.tokens names a token twice; name each once.")

    @property
    def scale(self) -> float:
        return 2.0 if self.alpha is None else self.alpha / self.rank


def adaptable(model: LM) -> dict[str, nn.Linear]:
    """The linear layers that an adapter changes, by name: all of the blocks, the values they share and the last norm.

    Routers are left out, since near scores decide; so are the head and what only looks further ahead in training.
    """
    routers = {id(child) for m in model.modules() if isinstance(m, SparseMlp) for child in m.children()}
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and id(module) not in routers
        and name.startswith(("blocks.", "values.", "norm."))
    }


class Adapter(nn.Module):
    """Parameters are named by layer: `blocks.0.mlp.up.down` (R, I), `blocks.0.mlp.up.up` (O, R), `embedding.rows` and
    `head.rows` (n, D); the latter is the former where the model's head is tied."""

    def __init__(self, model: LM, config: AdapterConfig, generator: torch.Generator):
        """Made for the layers of `model`, on its device; raises ConfigError for tokens that it does not have."""
        super().__init__()
        self.config = config
        vocab_size, dim = model.head.weight.shape
        if any(not 0 <= token < vocab_size for token in config.tokens):
            raise ConfigError(f"adapter.tokens names {max(config.tokens)}; the model's vocabulary has {vocab_size}.")
        device = model.head.weight.device
        self.pairs: dict[str, tuple[nn.Parameter, nn.Parameter]] = {}
        for name, layer in adaptable(model).items():
            down = torch.randn(config.rank, layer.in_features, generator=generator) / math.sqrt(layer.in_features)
            up = torch.zeros(layer.out_features, config.rank)
            self.pairs[name] = nn.Parameter(down.to(device)), nn.Parameter(up.to(device))
            for end, parameter in zip(("down", "up"), self.pairs[name], strict=True):
                _put(self, f"{name}.{end}", parameter)
        self.rows: tuple[nn.Parameter, nn.Parameter] | None = None
        if config.tokens:
            embedding = nn.Parameter(torch.zeros(len(config.tokens), dim, device=device))
            head = embedding if model.config.tie_embeddings else nn.Parameter(torch.zeros_like(embedding))
            self.rows = embedding, head
            _put(self, "embedding.rows", embedding)
            if head is not embedding:
                _put(self, "head.rows", head)

    def snapshot(self) -> dict[str, Tensor]:
        """Copies of all tensors, to roll back to."""
        return {name: p.detach().clone() for name, p in self.named_parameters()}

    @torch.no_grad()
    def restore(self, snapshot: dict[str, Tensor]) -> None:
        """Puts a snapshot back, bit for bit; raises CheckpointError for that of another adapter."""
        checkpoint.load_weights(self, snapshot, "the snapshot")

    @torch.no_grad()
    def merge_into(self, model: LM) -> None:
        """Adds the change to the model's own weights: from then on it answers as with this adapter."""
        for name, layer in adaptable(model).items():
            down, up = self.pairs[name]
            change = (up.double() @ down.double() * self.config.scale).to(layer.weight)
            layer.weight.copy_(layer.weight + change)
        if self.rows is not None:
            ids = torch.tensor(self.config.tokens, device=model.head.weight.device)
            tables = zip((model.embedding.weight, model.head.weight), self.rows, strict=True)
            for weight, rows in [next(tables)] if model.config.tie_embeddings else tables:
                weight.index_add_(0, ids, rows.to(weight))


def _put(root: nn.Module, path: str, parameter: nn.Parameter) -> None:
    """Registers a parameter under a dotted name."""
    *names, last = path.split(".")
    for name in names:
        if name not in dict(root.named_children()):
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    root.register_parameter(last, parameter)


def fingerprint(model: nn.Module) -> str:
    """sha256 (hex) over the names, shapes and values of a model's weights: what an adapter was made for."""
    digest = hashlib.sha256()
    for part in _bytes_of(checkpoint.weights(model)):
        digest.update(part)
    return digest.hexdigest()


def _bytes_of(tensors: dict[str, Tensor]) -> Iterator[bytes]:
    for name, tensor in sorted(tensors.items()):
        yield f"{name} {list(tensor.shape)} {tensor.dtype}".encode()
        yield tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
