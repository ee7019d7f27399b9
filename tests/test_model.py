"""LM: what every model must keep, whatever its mixers: causality, caching, packing, forks, gradients, counts.

B batch, T time, V vocabulary.
"""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import mixer_contract
import model_cases
import pytest
import torch
from model_cases import CONFIGS, LENGTH, PLAIN, VOCAB, build, close, tokens
from torch import Tensor, nn

from wren import checkpoint
from wren.batch import IGNORE, Batch, positions_in_documents
from wren.errors import CheckpointError
from wren.loss import cross_entropy
from wren.model import LM

every_model = pytest.mark.parametrize("name", CONFIGS)


def embedded(model: LM, tokens_BT: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The token embeddings as a leaf of the graph, and the logits."""
    leaves = []

    def cut(module: nn.Module, arguments: object, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[-1]

    hook = model.embedding.register_forward_hook(cut)
    logits_BTV = model(tokens_BT, **inputs)
    hook.remove()
    return leaves[0], logits_BTV


@every_model
def test_no_gradient_reaches_the_future(name: str):
    x_BTD, logits_BTV = embedded(build(name), tokens(2, LENGTH))
    for t in (0, 1, 40, LENGTH - 2):
        (grad_BTD,) = torch.autograd.grad(logits_BTV[:, t].square().sum(), x_BTD, retain_graph=True)
        assert grad_BTD[:, t + 1 :].abs().max() == 0
        assert grad_BTD[:, t].abs().max() > 0
        assert t == 0 or grad_BTD[:, :t].abs().max() > 0


@every_model
@torch.no_grad()
def test_other_future_tokens_change_nothing(name: str):
    model, tokens_BT = build(name), tokens(2, LENGTH)
    expected = model(tokens_BT)
    for t in (1, 33, LENGTH - 1):
        changed = torch.cat((tokens_BT[:, :t], (tokens_BT[:, t:] + 1) % VOCAB), dim=1)
        close(model(changed)[:, :t], expected[:, :t])
        close(model(tokens_BT[:, :t]), expected[:, :t])


@every_model
@torch.no_grad()
def test_cached_equals_uncached(name: str):
    model, tokens_BT = build(name), tokens(2, LENGTH)
    expected = model(tokens_BT)
    for cuts in ([0, LENGTH], range(LENGTH + 1), [0, 1, 8, 64, 65, LENGTH], [0, 63, LENGTH]):
        state = model.new_state(2, LENGTH, dtype=torch.float64)
        pieces = [model(tokens_BT[:, a:b], state=state) for a, b in itertools.pairwise(cuts)]
        close(torch.cat(pieces, dim=1), expected)
        assert state.lengths_B.tolist() == [LENGTH, LENGTH]


@every_model
@torch.no_grad()
def test_rows_of_different_length_share_a_batch(name: str):
    model, tokens_BT = build(name), tokens(3, LENGTH)
    expected = model(tokens_BT)
    state = model.new_state(3, LENGTH, dtype=torch.float64)
    seen = [0, 0, 0]
    for call in ([5, 1, 3], [0, 4, 2], [1, 1, 1], [40, 2, 60], [1, 0, 1]):
        padded = torch.full((3, max(call)), VOCAB - 1)
        for row, count in enumerate(call):
            padded[row, :count] = tokens_BT[row, seen[row] : seen[row] + count]
        logits_BTV = model(padded, valid_B=torch.tensor(call), state=state)
        assert logits_BTV.isfinite().all()
        for row, count in enumerate(call):
            close(logits_BTV[row, :count], expected[row, seen[row] : seen[row] + count])
            seen[row] += count
        assert state.lengths_B.tolist() == seen


@every_model
def test_packed_documents_are_each_alone_or_read_each_other(name: str):
    model, tokens_BT = build(name), tokens(1, LENGTH)
    lengths = torch.tensor([3, 1, 40, 26])
    documents_BT = torch.repeat_interleave(torch.arange(4), lengths)[None]
    if not model.config.documents:
        for positions_BT in (None, positions_in_documents(documents_BT)):
            close(model(tokens_BT, documents_BT=documents_BT, positions_BT=positions_BT), model(tokens_BT))
        x_BTD, logits_BTV = embedded(model, tokens_BT, documents_BT=documents_BT)
        (grad_BTD,) = torch.autograd.grad(logits_BTV[:, 50].square().sum(), x_BTD)
        assert grad_BTD[:, :3].abs().max() > 0
        return
    x_BTD, logits_BTV = embedded(model, tokens_BT, documents_BT=documents_BT)
    close(model(tokens_BT, documents_BT=documents_BT, positions_BT=positions_in_documents(documents_BT)), logits_BTV)
    for start, stop in itertools.pairwise([0, *lengths.cumsum(0).tolist()]):
        close(logits_BTV[:, start:stop], model(tokens_BT[:, start:stop]))
        (grad_BTD,) = torch.autograd.grad(logits_BTV[:, start:stop].square().sum(), x_BTD, retain_graph=True)
        assert torch.cat((grad_BTD[:, :start], grad_BTD[:, stop:]), dim=1).abs().max() == 0


@every_model
@torch.no_grad()
def test_forks_go_on_by_themselves(name: str):
    model, past, rows = build(name), tokens(2, 20), torch.tensor([1, 0, 1])
    state = model.new_state(2, 40, dtype=torch.float64)
    model(past, state=state)
    fork = state.select(rows)
    for seed in (2, 3):  # by turns, so that shared memory would show
        future, own = tokens(3, 4, seed), tokens(2, 4, seed + 10)
        close(model(future, state=fork), model(torch.cat((past[rows], future), dim=1))[:, -4:])
        close(model(own, state=state), model(torch.cat((past, own), dim=1))[:, -4:])
        state, fork = model.new_state(2, 40, dtype=torch.float64), None
        model(past, state=state)
        fork = state.select(rows)


@every_model
@torch.no_grad()
def test_rows_join_a_running_batch(name: str):
    model, running, joining = build(name), tokens(3, 20), tokens(1, 33, seed=2)
    state, other = (model.new_state(size, LENGTH, dtype=torch.float64) for size in (3, 1))
    model(running, state=state)
    model(joining, state=other)
    state.write(torch.tensor([1]), other)
    assert state.lengths_B.tolist() == [20, 33, 20]
    future = tokens(3, 5, seed=3)
    found = model(future, state=state)
    close(found[[0, 2]], model(torch.cat((running, future), dim=1))[[0, 2], -5:])
    close(found[[1]], model(torch.cat((joining, future[[1]]), dim=1))[:, -5:])


def test_a_detached_state_is_cut_from_its_graph():
    model = build("tiny")
    state = model.new_state(1, 9, dtype=torch.float64)
    model(tokens(1, 4), state=state)
    assert model(tokens(1, 2, seed=2), state=state.detach()).requires_grad
    detached = state.detach()
    assert detached.lengths_B.tolist() == [4]
    assert not any(x.requires_grad for state in detached.states() for x in state.tensors().values())


@every_model
@pytest.mark.parametrize("capped", [False, True])
def test_the_gradient_of_the_loss_is_its_slope(name: str, capped: bool):
    """Along random directions over all weights, by central differences in float64."""
    model = build(name).train()  # no case drops out, and heads that predict further ahead join in training only
    if capped:
        model.config = replace(model.config, logit_softcap=2.0)
    tokens_BT = tokens(2, 18)
    targets_BT = tokens_BT[:, 1:].clone()
    targets_BT[0, 3:6] = IGNORE
    weights_BT = torch.linspace(-1, 2, targets_BT.numel(), dtype=torch.float64).view_as(targets_BT)
    documents_BT = torch.repeat_interleave(torch.arange(2), torch.tensor([6, 11])).expand(2, -1)
    batch = Batch(tokens_BT[:, :-1], targets_BT, weights_BT, documents_BT)
    parameters = list(model.parameters())
    grads = torch.autograd.grad(cross_entropy(model, batch), parameters)
    assert all(grad.abs().max() > 0 for grad in grads)
    directions = [torch.randn(p.shape, generator=torch.Generator().manual_seed(4), dtype=p.dtype) for p in parameters]
    values, step = [], 1e-7
    with torch.no_grad():
        for distance in (step, -2 * step):
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter += distance * direction
            values.append(float(cross_entropy(model, batch)))
    slope = (values[0] - values[1]) / (2 * step)
    expected = sum(float((g * d).sum()) for g, d in zip(grads, directions, strict=True))
    assert slope == pytest.approx(expected, rel=1e-6, abs=1e-6)


@every_model
def test_flops_are_those_counted(name: str):
    """Outside the mixers exactly; tests/test_mixers.py holds each mixer's claim against its own count."""
    model = build(name, torch.float32)
    tokens_1T = tokens(1, 64)
    x_1TD = torch.randn(1, 64, model.config.dim)
    with torch.no_grad():
        found = mixer_contract.counted(lambda: model(tokens_1T))
        inside = sum(mixer_contract.counted(lambda m=m: m(x_1TD, mixer_contract.Context())) for m in model.mixers())
    loops = model.config.loops
    claimed = model.flops_per_token(64) - loops * sum(mixer.flops_per_token(64) for mixer in model.mixers())
    assert found - loops * inside == 64 * claimed
    assert inside > 0


@every_model
def test_state_bytes_are_those_allocated(name: str):
    model = build(name)
    for context_len in (1, 3, LENGTH):
        state = model.new_state(3, context_len, dtype=torch.bfloat16)
        found = [x for part in state.states() for x in part.tensors().values() if x.is_floating_point()]
        assert 3 * model.state_bytes(context_len) == sum(x.numel() * x.element_size() for x in found)


@every_model
def test_weights_survive_a_checkpoint(name: str, tmp_path: Path):
    model, tokens_BT = build(name, torch.float32), tokens(1, 9)
    weights = checkpoint.weights(model)
    parameters = dict(model.named_parameters())
    assert sum(x.numel() for key, x in weights.items() if key in parameters) == model.num_params()
    assert all(key.endswith("balance_E") for key in weights.keys() - parameters.keys())  # what no gradient trains
    path = checkpoint.save(tmp_path, 1, weights, {}, {})
    other = CONFIGS[name].build().eval()
    assert not torch.equal(other(tokens_BT), model(tokens_BT))
    checkpoint.load_weights(other, checkpoint.load(path).model, path)
    assert torch.equal(other(tokens_BT), model(tokens_BT))
    assert (other.head.weight is other.embedding.weight) == model.config.tie_embeddings


def test_a_checkpoint_of_another_model_is_refused():
    tied, untied = PLAIN.build(), replace(PLAIN, tie_embeddings=False).build()
    with pytest.raises(CheckpointError, match=r"lacks 'head\.weight'"):
        checkpoint.load_weights(untied, checkpoint.weights(tied), "there")
    with pytest.raises(CheckpointError, match=r"holds 'head\.weight', which the model lacks"):
        checkpoint.load_weights(tied, checkpoint.weights(untied), "there")
    with pytest.raises(CheckpointError, match=r"is \[29, 16\] there and \[30, 16\] here"):
        checkpoint.load_weights(replace(PLAIN, vocab_size=30).build(), checkpoint.weights(tied), "there")


@every_model
def test_zero_outputs_make_every_block_the_identity(name: str):
    torch.manual_seed(0)
    model = replace(CONFIGS[name], zero_outputs=True).build().double().eval()
    outputs = [p for n, p in model.named_parameters() if n.startswith("blocks.") and n.endswith(".out.weight")]
    assert len(outputs) >= 2 * model.config.depth
    assert not any(p.any() for p in outputs)
    tokens_BT = tokens(1, 9)
    x_BTD = model.embedding(tokens_BT)
    if model.positions is not None:
        x_BTD = x_BTD + model.positions.weight[:9]
    close(model(tokens_BT), model.logits(model.norm(x_BTD)))
    cross_entropy(model, Batch(tokens_BT[:, :-1], tokens_BT[:, 1:])).backward()
    named = {n: p.grad for n, p in model.named_parameters() if n.startswith("blocks.0.mlp") and ".out." in n}
    assert any(grad is not None and grad.abs().max() > 0 for grad in named.values())


def test_the_first_loss_is_that_of_a_uniform_guess():
    for name in CONFIGS:
        torch.manual_seed(0)
        tokens_BT = tokens(4, 60)
        loss = cross_entropy(CONFIGS[name].build().eval(), Batch(tokens_BT[:, :-1], tokens_BT[:, 1:]))
        assert float(loss.detach()) / (4 * 59) == pytest.approx(math.log(VOCAB), rel=0.02), name


def test_tied_embeddings_are_one_tensor_with_both_gradients():
    tied = build("gpt2")
    assert tied.head.weight is tied.embedding.weight
    untied = replace(tied.config, tie_embeddings=False).build().double()
    untied.load_state_dict(tied.state_dict())
    tokens_BT = tokens(2, 9)
    for model in (tied, untied):
        cross_entropy(model, Batch(tokens_BT[:, :-1], tokens_BT[:, 1:])).backward()
    assert tied.embedding.weight.grad is not None
    close(tied.embedding.weight.grad, untied.embedding.weight.grad + untied.head.weight.grad)  # type: ignore[operator]


@torch.no_grad()
def test_autocast_narrows_products_and_keeps_the_stream_wide():
    model = build("tiny", torch.float32)
    exact = model(tokens(2, 40))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden_BTD = model.hidden(tokens(2, 40))
        logits_BTV = model(tokens(2, 40))
    assert hidden_BTD.dtype == torch.float32
    assert logits_BTV.dtype == torch.bfloat16
    assert float((logits_BTV - exact).norm() / exact.norm()) < 0.03


def test_every_architecture_is_among_the_cases():
    kinds = {type(mixer).__module__ for config in model_cases.CONFIGS.values() for mixer in config.mixers}
    assert {"wren.mixers.attention", "wren.mixers.gated_delta_net"} <= kinds
