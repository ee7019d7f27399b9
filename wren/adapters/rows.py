"""Several adapters on one model, chosen per row of a batch; the model's modules and weights stay as they are.

    adapters = Adapters(model)
    one, two = adapters.add(first), adapters.add(second)
    with adapters.rows([0, one, two]):      # row 0 without any; a tensor will do, and a number stands for all rows
        model.hidden(tokens_BT, state=state)

Forward hooks on the linear layers add what the rows' adapters say. The low-rank factors of all adapters in the batch
are laid side by side, and a mask leaves each row its own: two matrix products a layer however many adapters there are.

B batch, T time, D model width, Z ranks (or tokens) of all adapters side by side, N tokens, V vocabulary.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wren.adapters.adapter import Adapter, adaptable
from wren.errors import ConfigError
from wren.mlp import SparseMlp
from wren.mlps.moe import Expert
from wren.model import LM


class _Layer(NamedTuple):
    down_ZI: Tensor
    up_OZ: Tensor  # scaled


class _Tokens(NamedTuple):
    ids_Z: Tensor
    embedding_ZD: Tensor
    head_ZD: Tensor


class _Active(NamedTuple):
    """The adapters of a batch side by side. ranks_BZ, ids_BZ: True where a rank or a token is of the row's own adapter.

    only: the adapter that all rows use; the others are unused then, so that what is added follows its tensors.
    """

    only: Adapter | None = None
    layers: dict[str, _Layer] | None = None
    tokens: _Tokens | None = None
    ranks_BZ: Tensor | None = None
    ids_BZ: Tensor | None = None

    def layer(self, name: str) -> _Layer:
        if self.layers is not None:
            return self.layers[name]
        assert self.only is not None
        return _side_by_side([self.only], name)

    def rows_of_tokens(self) -> _Tokens | None:
        return self.tokens if self.only is None else _tokens([self.only])


class Adapters:
    """The adapters on a model, numbered from 1. While no `rows` is entered the model is as without them.

    The loss finds them as `model.adapters`. One of them serves a model at a time; `close` takes it off.
    """

    def __init__(self, model: LM):
        if model.adapters is not None:
            raise ConfigError("The model has adapters already; add to model.adapters, or close it first.")
        self.model = model
        self._adapters: list[Adapter] = []
        self._active: _Active | None = None
        self._experts: tuple[Tensor, Tensor] | None = None  # ranks_BZ for all tokens, and for those here
        self._hooks = [layer.register_forward_hook(self._layer_hook(n)) for n, layer in adaptable(model).items()]
        self._hooks.append(model.embedding.register_forward_hook(self._embedding_hook))
        self._hooks.append(model.head.register_forward_hook(self._head_hook))
        for module in model.modules():
            if isinstance(module, SparseMlp):
                self._hooks.append(module.register_forward_pre_hook(self._before_experts))
                self._hooks.append(module.register_forward_hook(self._after_experts, always_call=True))
            if isinstance(module, Expert):
                self._hooks.append(module.register_forward_pre_hook(self._before_expert))
        model.adapters = self

    def add(self, adapter: Adapter) -> int:
        """Its number from now on; raises ConfigError for an adapter of a model with other layers."""
        for name, layer in adaptable(self.model).items():
            pair = adapter.pairs.get(name)
            if pair is None or (pair[1].shape[0], pair[0].shape[1]) != (layer.out_features, layer.in_features):
                raise ConfigError(f"The adapter was made for another model: it does not fit '{name}'.")
        self._adapters.append(adapter)
        return len(self._adapters)

    def close(self) -> None:
        """Takes all of them off the model."""
        for hook in self._hooks:
            hook.remove()
        self.model.adapters = None

    @contextlib.contextmanager
    def rows(self, index_B: int | Sequence[int] | Tensor) -> Iterator[None]:
        """Inside, row i of every batch uses adapter index_B[i], 0 = none; one number stands for all rows.

        Enter it anew when the adapters' tensors were changed, except where one number was given: that one follows
        them, and backward passes may recompute activations inside. Raises ConfigError for a number without adapter.
        """
        before, self._active = self._active, self._collected(index_B)
        try:
            yield
        finally:
            self._active = before

    def _collected(self, index_B: int | Sequence[int] | Tensor) -> _Active | None:
        numbers = index_B.tolist() if isinstance(index_B, Tensor) else index_B
        every = [numbers] if isinstance(numbers, int) else list(numbers)
        used = sorted({number for number in every if number})
        if wrong := [number for number in every if not 0 <= number <= len(self._adapters)]:
            raise ConfigError(f"There is no adapter {wrong[0]}; there are {len(self._adapters)}, and 0 is none.")
        if not used:
            return None
        chosen = [self._adapters[number - 1] for number in used]
        if isinstance(numbers, int):
            return _Active(only=chosen[0])
        own_BK = torch.tensor([[row == number for number in used] for row in every])
        ranks_BZ, ids_BZ = (
            own_BK.repeat_interleave(torch.tensor(sizes), dim=1).to(self.model.head.weight.device)
            for sizes in ([a.config.rank for a in chosen], [len(a.config.tokens) for a in chosen])
        )
        layers = {name: _side_by_side(chosen, name) for name in chosen[0].pairs}
        return _Active(None, layers, _tokens(chosen), ranks_BZ, ids_BZ)

    def _layer_hook(self, name: str) -> Any:
        def add(module: nn.Module, inputs: tuple[Tensor], y: Tensor) -> Tensor | None:
            active = self._active
            if active is None:
                return None
            x, layer = inputs[0], active.layer(name)
            z = F.linear(x, layer.down_ZI)
            if active.ranks_BZ is not None:
                z = z * self._own(active.ranks_BZ, x).to(z.dtype)
            return y + F.linear(z, layer.up_OZ).to(y.dtype)

        return add

    def _own(self, own_BZ: Tensor, x: Tensor) -> Tensor:
        """The mask in the shape of x: (B, T, I), (B, I), or the tokens (N, I) that an expert sees."""
        if self._experts is not None:
            return self._experts[1]
        if len(x) != len(own_BZ):
            raise ConfigError(f"adapters.rows() named {len(own_BZ)} rows, and the batch has {len(x)}.")
        return own_BZ[:, None] if x.dim() == 3 else own_BZ

    def _before_experts(self, module: nn.Module, inputs: tuple[Tensor]) -> None:
        if self._active is not None and self._active.ranks_BZ is not None:
            B, T = inputs[0].shape[:2]
            own_BTZ = self._own(self._active.ranks_BZ, inputs[0]).expand(B, T, -1)
            self._experts = own_BTZ.flatten(0, 1), own_BTZ.flatten(0, 1)

    def _before_expert(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self._experts is not None:
            every = self._experts[0]
            self._experts = every, every if len(inputs) == 1 else every[inputs[1]]

    def _after_experts(self, module: nn.Module, inputs: tuple[Tensor], y: Tensor) -> None:
        self._experts = None

    def _embedding_hook(self, module: nn.Module, inputs: tuple[Tensor], x_BTD: Tensor) -> Tensor | None:
        tokens = None if self._active is None else self._active.rows_of_tokens()
        if self._active is None or tokens is None:
            return None
        tokens_BT = inputs[0]
        is_BTZ = tokens_BT[..., None] == tokens.ids_Z
        if self._active.ids_BZ is not None:
            is_BTZ = is_BTZ & self._own(self._active.ids_BZ, x_BTD)
        with torch.autocast(x_BTD.device.type, enabled=False):
            return x_BTD + is_BTZ.to(x_BTD.dtype) @ tokens.embedding_ZD.to(x_BTD.dtype)

    def _head_hook(self, module: nn.Module, inputs: tuple[Tensor], logits: Tensor) -> Tensor | None:
        extra = self._extra(inputs[0])
        if extra is None:
            return None
        more, ids_Z = extra
        return logits.index_add(-1, ids_Z, more.to(logits.dtype))

    def _extra(self, hidden: Tensor) -> tuple[Tensor, Tensor] | None:
        """What the rows' adapters add to the logits of tokens (..., Z), and which tokens."""
        tokens = None if self._active is None else self._active.rows_of_tokens()
        if self._active is None or tokens is None:
            return None
        more = F.linear(hidden, tokens.head_ZD)
        if self._active.ids_BZ is not None:
            more = more * self._own(self._active.ids_BZ, hidden).to(more.dtype)
        return more, tokens.ids_Z

    def head(self, hidden_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """The stream (N, D + Z) and the head's weight (V, D + Z), whose product is the logits with the adapters."""
        weight_VD, extra = self.model.head.weight, self._extra(hidden_BTD)
        if extra is None:
            return hidden_BTD.flatten(0, 1), weight_VD
        more_BTZ, ids_Z = extra
        one_VZ = weight_VD.new_zeros(len(weight_VD), len(ids_Z))
        one_VZ[ids_Z, torch.arange(len(ids_Z), device=ids_Z.device)] = 1
        wide_BTE = torch.cat((hidden_BTD, more_BTZ.to(hidden_BTD.dtype)), dim=-1)
        return wide_BTE.flatten(0, 1), torch.cat((weight_VD, one_VZ), dim=1)


def _side_by_side(adapters: Sequence[Adapter], name: str) -> _Layer:
    pairs = [adapter.pairs[name] for adapter in adapters]
    ups = [up * adapter.config.scale for adapter, (_, up) in zip(adapters, pairs, strict=True)]
    if len(pairs) == 1:
        return _Layer(pairs[0][0], ups[0])
    return _Layer(torch.cat([down for down, _ in pairs]), torch.cat(ups, dim=1))


def _tokens(adapters: Sequence[Adapter]) -> _Tokens | None:
    """None where no adapter has rows for tokens."""
    rows = [adapter.rows for adapter in adapters if adapter.rows is not None]
    if not rows:
        return None
    ids = [token for adapter in adapters for token in adapter.config.tokens]
    ids_Z = torch.tensor(ids, device=rows[0][0].device)
    return _Tokens(ids_Z, torch.cat([embedding for embedding, _ in rows]), torch.cat([head for _, head in rows]))
