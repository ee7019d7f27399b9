"""The gpt2 and llama recipes against transformers' GPT-2 and Llama, from the same weights, in float32.

B batch, T time, V vocabulary.
"""

import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wren.batch import Batch
from wren.loss import cross_entropy
from wren.model import LM
from wren.recipes import gpt2, llama

transformers = pytest.importorskip("transformers", reason="transformers is the reference of this test")

VOCAB, DIM, DEPTH, HEADS, CONTEXT = 61, 32, 3, 4, 48
NO_TOKENS = {"bos_token_id": None, "eos_token_id": None}
_GPT2_NAMES = {
    "transformer.wte.weight": "embedding.weight",
    "transformer.wpe.weight": "positions.weight",
    "transformer.ln_f": "norm",
    "ln_1": "mixer_norm",
    "ln_2": "mlp_norm",
    "attn.c_proj": "mixer.out",
    "mlp.c_fc": "mlp.up",
    "mlp.c_proj": "mlp.out",
}
_LLAMA_NAMES = {
    "model.embed_tokens": "embedding",
    "model.norm": "norm",
    "lm_head": "head",
    "input_layernorm": "mixer_norm",
    "post_attention_layernorm": "mlp_norm",
    "self_attn.q_proj": "mixer.q",
    "self_attn.k_proj": "mixer.k",
    "self_attn.v_proj": "mixer.v",
    "self_attn.o_proj": "mixer.out",
    "mlp.gate_proj": "mlp.gate",
    "mlp.up_proj": "mlp.up",
    "mlp.down_proj": "mlp.out",
}


def renamed(name: str, names: dict[str, str]) -> str:
    name = re.sub(r"^(transformer\.h|model\.layers)\.", "blocks.", name)
    for theirs, ours in names.items():
        if name.startswith(theirs) or f".{theirs}." in name:
            return name.replace(theirs, ours)
    return name


def from_gpt2(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """GPT-2's tensors under our names: its matrices are transposed, and its q, k, v are one."""
    ours = {}
    for name, tensor in tensors.items():
        name = renamed(name, _GPT2_NAMES)
        if name.startswith("blocks.") and tensor.dim() == 2:
            tensor = tensor.T
        if ".attn.c_attn." in name:
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                ours[name.replace("attn.c_attn", f"mixer.{part}")] = piece
        else:
            ours[name] = tensor
    return ours


def from_llama(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {renamed(name, _LLAMA_NAMES): tensor for name, tensor in tensors.items()}


def gpt2_pair() -> tuple[LM, nn.Module]:
    config = transformers.GPT2Config(
        vocab_size=VOCAB,
        n_positions=CONTEXT,
        n_embd=DIM,
        n_layer=DEPTH,
        n_head=HEADS,
        activation_function="gelu",
        **{f"{name}_pdrop": 0.0 for name in ("resid", "embd", "attn")},
        **NO_TOKENS,
    )
    theirs = transformers.GPT2LMHeadModel(config)
    ours = gpt2.recipe(
        vocab_size=VOCAB, depth=DEPTH, dim=DIM, num_heads=HEADS, context_len=CONTEXT, bias=True
    ).model.build()
    return ours, theirs


def llama_pair(num_kv_heads: int, tied: bool) -> tuple[LM, nn.Module]:
    config = llama.recipe(
        vocab_size=VOCAB, depth=DEPTH, dim=DIM, num_heads=HEADS, num_kv_heads=num_kv_heads, tie_embeddings=tied
    )
    ours = config.model.build()
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=DIM,
            intermediate_size=ours.blocks[0].get_submodule("mlp.up").weight.shape[0],  # pyright: ignore
            num_hidden_layers=DEPTH,
            num_attention_heads=HEADS,
            num_key_value_heads=num_kv_heads,
            max_position_embeddings=CONTEXT,
            rms_norm_eps=config.model.norm_eps,
            tie_word_embeddings=tied,
            pad_token_id=None,
            **NO_TOKENS,
        )
    )
    return ours, theirs


PAIRS = {
    "gpt2": gpt2_pair,
    "llama": lambda: llama_pair(HEADS, tied=False),
    "llama, tied": lambda: llama_pair(HEADS, tied=True),
    "llama, grouped": lambda: llama_pair(2, tied=False),
    "llama, one key head, tied": lambda: llama_pair(1, tied=True),
}


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> tuple[LM, nn.Module]:
    """Our model and theirs with the same weights, all of them far from 0 and 1."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of their library, about itself
        ours, theirs = PAIRS[request.param]()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    ours.load_state_dict(mapped(theirs, dict(theirs.state_dict())))
    return ours.eval(), theirs.eval()


def mapped(theirs: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under our names; a tied head has the embedding's values under its own name too."""
    mine = (from_gpt2 if isinstance(theirs, transformers.GPT2LMHeadModel) else from_llama)(tensors)
    return {name.replace("lm_head", "head"): tensor for name, tensor in mine.items()}


def tokens() -> Tensor:
    return torch.randint(VOCAB, (3, CONTEXT), generator=torch.Generator().manual_seed(1))


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def test_logits_are_equal(pair: tuple[LM, nn.Module]):
    ours, theirs = pair
    with torch.no_grad():
        close(ours(tokens()), theirs(tokens()).logits)
    assert ours.num_params() == sum(p.numel() for p in theirs.parameters())


def test_loss_and_gradients_are_equal(pair: tuple[LM, nn.Module]):
    ours, theirs = pair
    tokens_BT = tokens()
    batch = Batch(tokens_BT[:, :-1].contiguous(), tokens_BT[:, 1:].contiguous())
    loss = cross_entropy(ours, batch) / batch.num_targets()
    close(loss, theirs(tokens_BT, labels=tokens_BT).loss)
    loss.backward()
    theirs(tokens_BT, labels=tokens_BT).loss.backward()
    expected = mapped(theirs, {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None})
    found = {name: p.grad for name, p in ours.named_parameters()}
    assert found.keys() == expected.keys()
    for name, grad in found.items():
        assert grad is not None
        assert grad.abs().max() > 0, name
        close(grad, expected[name])


def test_packed_documents_read_each_other_as_in_gpt2():
    ours, theirs = gpt2_pair()
    ours.load_state_dict(mapped(theirs, dict(theirs.state_dict())))
    documents_BT = (torch.arange(CONTEXT) // 10).expand(3, -1)
    with torch.no_grad():
        close(ours.eval()(tokens(), documents_BT=documents_BT), theirs.eval()(tokens()).logits)


@torch.no_grad()
def test_greedy_continuations_are_equal(pair: tuple[LM, nn.Module]):
    """Ours with a cache, theirs without."""
    ours, theirs = pair
    row_BT = tokens()[:, :7]
    state, new_BT, expected_BT = ours.new_state(3, CONTEXT), row_BT, row_BT
    for _ in range(CONTEXT - 7):
        logits_BTV = ours(new_BT, state=state)
        new_BT = logits_BTV[:, -1:].argmax(-1)
        row_BT = torch.cat((row_BT, new_BT), dim=1)
        expected_BT = torch.cat((expected_BT, theirs(expected_BT).logits[:, -1:].argmax(-1)), dim=1)
    assert row_BT.tolist() == expected_BT.tolist()
    assert len(row_BT[0].unique()) > 2  # not one token over and over


def test_the_loss_of_transformers_is_the_mean_over_shifted_targets(pair: tuple[LM, nn.Module]):
    """What the comparison above relies on."""
    _, theirs = pair
    with torch.no_grad():
        out = theirs(tokens(), labels=tokens())
    close(out.loss, F.cross_entropy(out.logits[:, :-1].flatten(0, 1), tokens()[:, 1:].flatten()))
