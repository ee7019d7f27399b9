"""Mixers that others wrote, of the same shape as ours: `transformers`' PyTorch paths, for bench/mixers.py.

Each function takes a width and a number of heads, and returns a module and how to call it on x (B, T, width).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Peer = tuple[nn.Module, Callable[[Tensor], Tensor]]


def attention(dim: int, heads: int, window: int | None = None) -> Peer:
    """LlamaAttention over torch's scaled_dot_product_attention; transformers gives a window as a mask."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding

    config = LlamaConfig(hidden_size=dim, num_attention_heads=heads, num_key_value_heads=heads)
    config._attn_implementation = "sdpa"
    theirs, rotary = LlamaAttention(config, layer_idx=0), LlamaRotaryEmbedding(config)

    def call(x_BTD: Tensor) -> Tensor:
        T = x_BTD.shape[1]
        seen = None
        if window is not None:
            seen = torch.ones(T, T, dtype=torch.bool, device=x_BTD.device).tril().triu(1 - window)[None, None]
        return theirs(x_BTD, rotary(x_BTD, torch.arange(T, device=x_BTD.device)[None]), seen)[0]

    return theirs, call


def window_attention(dim: int, heads: int) -> Peer:
    return attention(dim, heads, 128)


def gated_delta_net(dim: int, heads: int) -> Peer:
    """The PyTorch path of Qwen3NextGatedDeltaNet."""
    from transformers.models.qwen3_next.configuration_qwen3_next import Qwen3NextConfig
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

    config = Qwen3NextConfig(
        hidden_size=dim,
        linear_num_key_heads=heads,
        linear_num_value_heads=heads,
        linear_key_head_dim=dim // heads,
        linear_value_head_dim=dim // heads,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
    )
    theirs = Qwen3NextGatedDeltaNet(config, layer_idx=0)
    return theirs, theirs


def kda(dim: int, heads: int) -> Peer:
    """The PyTorch path of Kimi Linear's delta attention."""
    from transformers.models.kimi_linear.configuration_kimi_linear import KimiLinearConfig
    from transformers.models.kimi_linear.modeling_kimi_linear import KimiLinearDeltaAttention

    config = KimiLinearConfig(
        hidden_size=dim,
        linear_num_heads=heads,
        linear_head_dim=dim // heads,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
    )
    theirs = KimiLinearDeltaAttention(config, layer_idx=0)
    return theirs, theirs


def latent_attention(dim: int, heads: int) -> Peer:
    """DeepseekV3Attention without a low rank of the queries, of the widths that ours takes by itself."""
    from transformers import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention, DeepseekV3RotaryEmbedding

    head = dim // heads
    config = DeepseekV3Config(
        hidden_size=dim,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        q_lora_rank=None,
        kv_lora_rank=min(4 * head, dim // 2),
        qk_nope_head_dim=head,
        qk_rope_head_dim=head // 2,
        v_head_dim=head,
    )
    config._attn_implementation = "sdpa"
    theirs, rotary = DeepseekV3Attention(config, layer_idx=0), DeepseekV3RotaryEmbedding(config)

    def call(x_BTD: Tensor) -> Tensor:
        by = rotary(x_BTD, torch.arange(x_BTD.shape[1], device=x_BTD.device)[None])
        return theirs(x_BTD, attention_mask=None, position_embeddings=by)[0]

    return theirs, call


def short_conv(dim: int, heads: int) -> Peer:
    """Lfm2ShortConv; it has no heads."""
    from transformers import Lfm2Config
    from transformers.models.lfm2.modeling_lfm2 import Lfm2ShortConv

    config = Lfm2Config(hidden_size=dim, num_hidden_layers=1, layer_types=["conv"], conv_L_cache=3, conv_bias=False)
    theirs = Lfm2ShortConv(config, layer_idx=0)
    return theirs, theirs


def mamba(dim: int, heads: int) -> Peer:
    """MambaMixer's PyTorch path: token by token."""
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    theirs = MambaMixer(MambaConfig(hidden_size=dim), layer_idx=0)
    return theirs, theirs


def linear_attention(dim: int, heads: int) -> Peer:
    """Mamba2Mixer's PyTorch path."""
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    config = Mamba2Config(hidden_size=dim, num_heads=heads, head_dim=2 * dim // heads, n_groups=1)
    theirs = Mamba2Mixer(config, layer_idx=0)
    return theirs, theirs


# what ours is compared with: the text of wren.mixers.read -> the peer of that shape
PEERS: dict[str, Callable[[int, int], Peer]] = {
    "attention": attention,
    "attention:window=128": window_attention,
    "gated_delta_net": gated_delta_net,
    "kda": kda,
    "latent_attention": latent_attention,
    "linear_attention": linear_attention,
    "mamba": mamba,
    "short_conv": short_conv,
}
LONGEST = {"mamba": 256, "kda": 2048, "linear_attention": 2048}  # tokens in a row past which a peer takes minutes
