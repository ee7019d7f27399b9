"""The latent_attention mixer beside transformers' DeepSeek-V2 and V3, from the same weights, in fp32 on the CPU."""

import logging
import warnings
from collections.abc import Callable

import parity
import pytest
import torch
from torch import Tensor, nn

from wren.mixer import Context
from wren.mixers import latent_attention

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # transformers' own, while it loads
    pytest.importorskip("transformers", reason="transformers is not installed")
    from transformers import DeepseekV2Config, DeepseekV3Config
    from transformers.models.deepseek_v2 import modeling_deepseek_v2 as v2
    from transformers.models.deepseek_v3 import modeling_deepseek_v3 as v3

HEADS, KEY, ROPE, VALUE, LATENT = 4, 8, 6, 10, 12
logging.getLogger("transformers").setLevel(logging.ERROR)


@pytest.mark.parametrize("q_rank", [None, 7])
@pytest.mark.parametrize("kind", ["v2", "v3", "v3 half-split"])
@pytest.mark.parametrize("length", parity.LENGTHS)
def test_latent_attention_is_deepseeks(length: int, kind: str, q_rank: int | None):
    """Outputs, gradients of the inputs and of every weight, and the outputs token by token from the cached latents."""
    theirs, call = _theirs(kind, q_rank)
    config = latent_attention.Config(
        num_heads=HEADS, head_dim=KEY, value_head_dim=VALUE, rope_dim=ROPE, kv_rank=LATENT, q_rank=q_rank
    )
    mixer = config.build(32)
    interleaved = kind != "v3 half-split"
    parity.assert_same(mixer, theirs, lambda weights: _as_ours(weights, interleaved), length, 32, call=call)
    x_BTD = parity.inputs(length, 32)
    with torch.no_grad():
        state = mixer.new_state(2, length)
        steps = [mixer(x_BTD[:, t : t + 1], Context(state=state)) for t in range(length)]
        torch.testing.assert_close(torch.cat(steps, dim=1), call(x_BTD), atol=1e-4, rtol=1e-4)


def _theirs(kind: str, q_rank: int | None) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """Their attention with every weight made random, and a call of it with causal mask and positions."""
    shape = {
        "hidden_size": 32,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "q_lora_rank": q_rank,
        "kv_lora_rank": LATENT,
        "qk_rope_head_dim": ROPE,
        "qk_nope_head_dim": KEY,
        "v_head_dim": VALUE,
        "attn_implementation": "eager",
    }
    if kind == "v2":
        config = DeepseekV2Config(**shape)
        theirs, rotary = v2.DeepseekV2Attention(config, layer_idx=0), v2.DeepseekV2RotaryEmbedding(config)
    else:
        config = DeepseekV3Config(**shape, rope_interleave=kind == "v3")
        theirs, rotary = v3.DeepseekV3Attention(config, layer_idx=0), v3.DeepseekV3RotaryEmbedding(config)
    parity.randomise(theirs)

    def call(x_BTD: Tensor) -> Tensor:
        length = x_BTD.shape[1]
        by = rotary(x_BTD, torch.arange(length)[None])
        return theirs(x_BTD, attention_mask=parity.causal_mask(length), position_embeddings=by)[0]

    return theirs, call


def _as_ours(theirs: parity.Weights, interleaved: bool) -> parity.Weights:
    """Latent and rotary key stand in one matrix, a head's keys and values in another; rotary pairs may be close."""
    order = torch.arange(ROPE).view(-1, 2).T.flatten() if interleaved else torch.arange(ROPE)
    latent, rotary_key = theirs["kv_a_proj_with_mqa.weight"].split((LATENT, ROPE))
    k_HKL, v_HVL = theirs["kv_b_proj.weight"].unflatten(0, (HEADS, -1)).split((KEY, VALUE), dim=1)
    low = "q_a_proj.weight" in theirs
    queries = theirs["q_b_proj.weight" if low else "q_proj.weight"].unflatten(0, (HEADS, -1))
    queries = torch.cat((queries[:, :KEY], queries[:, KEY:][:, order]), dim=1)
    ours = {
        "q.weight": queries.flatten(0, 1),
        "latent.weight": latent,
        "latent_norm": theirs["kv_a_layernorm.weight"],
        "rotary_key.weight": rotary_key[order],
        "k.weight": k_HKL.flatten(0, 1),
        "v.weight": v_HVL.flatten(0, 1),
        "out.weight": theirs["o_proj.weight"],
    }
    if low:
        ours |= {"q_down.weight": theirs["q_a_proj.weight"], "q_norm": theirs["q_a_layernorm.weight"]}
    return ours
