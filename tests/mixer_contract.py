"""What every mixer must keep, as functions that take a mixer and raise AssertionError where it does not.

B batch, T time, D model width.
"""

import importlib
import itertools
import pkgutil
from collections.abc import Callable, Iterator

import pytest
import torch
from flop_counts import counted
from torch import Tensor
from torch.func import functional_call

import wren.mixers
from wren.batch import positions_in_documents
from wren.errors import ConfigError
from wren.mixer import Context, Mixer, MixerConfig, State

DIM = 16
LENGTHS = (1, 2, 63, 64, 65, 130)
CLOSE = {"atol": 1e-9, "rtol": 1e-9}
VOCAB = 50


def found_configs() -> Iterator[tuple[str, MixerConfig]]:
    """("attention-0", config) for every setting in every file of wren/mixers."""
    for info in pkgutil.iter_modules(wren.mixers.__path__):
        module = importlib.import_module(f"wren.mixers.{info.name}")
        for i, config in enumerate(module.EXAMPLES):
            yield f"{info.name}-{i}", config


def build(config: MixerConfig, dtype: torch.dtype = torch.float64) -> Mixer:
    torch.manual_seed(0)
    mixer = config.build(DIM).to(dtype).eval()
    for parameter in mixer.parameters():  # zero-initialised gains and outputs would hide mistakes
        parameter.data += 0.1 * torch.randn_like(parameter)
    return mixer


class Inputs:
    """Random inputs and token ids of B rows, and the mixer's answers to them."""

    def __init__(self, mixer: Mixer, batch: int, length: int, seed: int = 1):
        generator = torch.Generator().manual_seed(seed)
        self.mixer = mixer
        dtype = next(mixer.parameters()).dtype
        self.x_BTD = torch.randn(batch, length, DIM, generator=generator, dtype=torch.float64).to(dtype)
        self.tokens_BT = torch.randint(VOCAB, (batch, length), generator=generator)

    def run(self, start: int = 0, stop: int | None = None, state: State | None = None) -> Tensor:
        piece = slice(start, stop)
        return self.mixer(self.x_BTD[:, piece], Context(tokens_BT=self.tokens_BT[:, piece], state=state))

    def rows(self, rows: list[int]) -> "Inputs":
        other = object.__new__(Inputs)
        other.mixer, other.x_BTD, other.tokens_BT = self.mixer, self.x_BTD[rows], self.tokens_BT[rows]
        return other

    def new_state(self, max_len: int | None = None) -> State:
        batch, length = self.tokens_BT.shape
        return self.mixer.new_state(batch, max_len or length, dtype=self.x_BTD.dtype)


def joined(*inputs: Inputs) -> Inputs:
    """The inputs one after another in time."""
    other = object.__new__(Inputs)
    other.mixer = inputs[0].mixer
    other.x_BTD = torch.cat([each.x_BTD for each in inputs], dim=1)
    other.tokens_BT = torch.cat([each.tokens_BT for each in inputs], dim=1)
    return other


def assert_close(found: Tensor, expected: Tensor, what: str) -> None:
    torch.testing.assert_close(found, expected, **CLOSE, msg=lambda message: f"{what}: {message}")


def check_causal_by_gradient(mixer: Mixer) -> None:
    """No output's gradient reaches a later input, and some reaches an earlier one."""
    inputs = Inputs(mixer, 2, 67)
    x_BTD = inputs.x_BTD.requires_grad_()
    y_BTD = inputs.run()
    for t in (0, 1, 40, 65):
        (grad_BTD,) = torch.autograd.grad(y_BTD[:, t].square().sum(), x_BTD, retain_graph=True)
        assert grad_BTD[:, t + 1 :].abs().max() == 0, f"the output at {t} depends on a later input"
        assert grad_BTD[:, t].abs().max() > 0, f"the output at {t} does not depend on its own input"
        assert t == 0 or grad_BTD[:, :t].abs().max() > 0, f"the output at {t} does not depend on the past"


@torch.no_grad()
def check_causal_by_change(mixer: Mixer) -> None:
    """Neither other inputs, other token ids nor a longer row change the outputs before them."""
    inputs, other = Inputs(mixer, 2, 67), Inputs(mixer, 2, 67, seed=2)
    expected = inputs.run()
    for t in (1, 33, 66):
        assert_close(inputs.run(0, t), expected[:, :t], f"a row cut at {t}")
        changed_tokens = joined(inputs, inputs)
        changed_tokens.x_BTD = inputs.x_BTD
        changed_tokens.tokens_BT = torch.cat((inputs.tokens_BT[:, :t], other.tokens_BT[:, t:]), dim=1)
        assert_close(changed_tokens.run()[:, :t], expected[:, :t], f"other token ids from {t}")
        changed_tokens.x_BTD = torch.cat((inputs.x_BTD[:, :t], 100 * other.x_BTD[:, t:]), dim=1)
        assert_close(changed_tokens.run()[:, :t], expected[:, :t], f"other inputs from {t}")


@torch.no_grad()
def check_rows_apart(mixer: Mixer) -> None:
    """The rows of a batch do not see each other."""
    inputs = Inputs(mixer, 3, 40)
    alone = torch.cat([inputs.rows([row]).run() for row in range(3)])
    assert_close(inputs.run(), alone, "a row alone and in a batch")


@torch.no_grad()
def check_pieces(mixer: Mixer) -> None:
    """A whole row = the row in pieces = the row token by token, at odd lengths and several cuts."""
    for length in LENGTHS:
        inputs = Inputs(mixer, 2, length)
        whole = inputs.run()
        for cuts in _cuts(length):
            state = inputs.new_state()
            pieces = [inputs.run(start, stop, state) for start, stop in itertools.pairwise(cuts)]
            assert_close(torch.cat(pieces, dim=1), whole, f"{length} tokens cut at {cuts}")
            assert state.lengths_B.tolist() == [length, length], "the state's lengths"


def _cuts(length: int) -> list[list[int]]:
    inner = [range(1, length), [length // 2], [1], [length - 1], [length // 3, length // 3 + 1], range(7, length, 7)]
    return [sorted({0, *cut, length}) for cut in inner if all(0 < c < length for c in cut)]


@torch.no_grad()
def check_padding(mixer: Mixer) -> None:
    """Rows of different length in one batch, padded with huge numbers, answer as each does alone."""
    calls = ([5, 1, 3], [0, 4, 2], [1, 1, 0], [1, 0, 1], [6, 9, 0], [40, 2, 70], [1, 1, 1])
    totals = [sum(call[row] for call in calls) for row in range(3)]
    inputs = Inputs(mixer, 3, max(totals))
    expected = inputs.run()
    state = inputs.new_state()
    seen = [0, 0, 0]
    for call in calls:
        width = max(call)
        x_BTD = torch.full((3, width, DIM), 1e6, dtype=inputs.x_BTD.dtype)
        tokens_BT = torch.zeros(3, width, dtype=torch.long)
        for row, count in enumerate(call):
            x_BTD[row, :count] = inputs.x_BTD[row, seen[row] : seen[row] + count]
            tokens_BT[row, :count] = inputs.tokens_BT[row, seen[row] : seen[row] + count]
        valid_B = torch.tensor(call)
        y_BTD = mixer(x_BTD, Context(tokens_BT=tokens_BT, valid_B=valid_B, state=state))
        assert y_BTD.isfinite().all(), "padding made an output that is not finite"
        for row, count in enumerate(call):
            place = f"row {row}, tokens {seen[row]} to {seen[row] + count}"
            assert_close(y_BTD[row, :count], expected[row, seen[row] : seen[row] + count], place)
            seen[row] += count
        assert state.lengths_B.tolist() == seen, "padding advanced the state's lengths"
    _check_padding_without_state(mixer)


def _check_padding_without_state(mixer: Mixer) -> None:
    inputs = Inputs(mixer, 2, 67)
    expected = inputs.run()
    inputs.x_BTD[0, 30:] = torch.nan
    y_BTD = mixer(inputs.x_BTD, Context(tokens_BT=inputs.tokens_BT, valid_B=torch.tensor([30, 67])))
    assert_close(y_BTD[0, :30], expected[0, :30], "a padded row without a state")
    assert_close(y_BTD[1], expected[1], "the row beside a padded one")


def check_documents(mixer: Mixer) -> None:
    """Packed documents answer as each does alone, and not even rounding crosses their border."""
    lengths = (3, 1, 20, 70, 2, 34)
    documents_T = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    documents_BT = torch.stack((documents_T, torch.zeros_like(documents_T)))
    inputs = Inputs(mixer, 2, len(documents_T))
    x_BTD = inputs.x_BTD.requires_grad_()
    positions_BT = positions_in_documents(documents_BT)
    y_BTD = mixer(x_BTD, Context(inputs.tokens_BT, positions_BT, documents_BT))
    assert_close(y_BTD[1], inputs.rows([1]).run()[0], "a row of one document")
    starts = [0, *itertools.accumulate(lengths)]
    for start, stop in itertools.pairwise(starts):
        alone = inputs.rows([0]).run(start, stop)
        assert_close(y_BTD[0, start:stop], alone[0], f"the document at {start} to {stop}")
        (grad_BTD,) = torch.autograd.grad(y_BTD[0, start:stop].square().sum(), x_BTD, retain_graph=True)
        outside = torch.cat((grad_BTD[0, :start], grad_BTD[0, stop:]))
        assert outside.abs().max() == 0, f"the document at {start} to {stop} has a gradient to another one"


@torch.no_grad()
def check_select(mixer: Mixer) -> None:
    """Forks and reordered rows go on as their own past says, and leave the original as it was."""
    past = Inputs(mixer, 3, 21)
    for rows in ([0, 1, 2], [2, 0, 1], [1, 1, 0, 2, 1]):
        state = past.new_state(60)
        past.run(state=state)
        fork = state.select(torch.tensor(rows))
        chosen, future = past.rows(rows), Inputs(mixer, len(rows), 9, seed=3)
        own = Inputs(mixer, 3, 9, seed=4)
        found, kept = [], []
        for start, stop in ((0, 1), (1, 4), (4, 9)):  # by turns, so that shared memory would show
            found.append(future.run(start, stop, fork))
            kept.append(own.run(start, stop, state))
        assert_close(torch.cat(found, dim=1), joined(chosen, future).run()[:, 21:], f"the rows {rows} of a state")
        assert_close(torch.cat(kept, dim=1), joined(past, own).run()[:, 21:], "the original beside its fork")
        assert state.lengths_B.tolist() == [30, 30, 30], "a fork changed the lengths of the original"


@torch.no_grad()
def check_write(mixer: Mixer) -> None:
    """Rows join, finish and are replaced while the others go on, from states of another max_len too."""
    running = Inputs(mixer, 4, 64)
    state = running.new_state(64)
    running.run(0, 9, state)
    pasts = [running.rows([row]) for row in range(4)]
    for past in pasts:
        past.x_BTD, past.tokens_BT = past.x_BTD[:, :9], past.tokens_BT[:, :9]
    for turn, (rows, length, max_len) in enumerate((([2], 1, 1), ([3, 0], 30, 30), ([1], 50, 64), ([0, 2], 3, 50))):
        joining = Inputs(mixer, len(rows), length, seed=10 + turn)
        other = joining.new_state(max_len)
        joining.run(state=other)
        state.write(torch.tensor(rows), other)
        for i, row in enumerate(rows):
            pasts[row] = joining.rows([i])
        for step in (1, 2):
            future = Inputs(mixer, 4, step, seed=20 + turn)
            found = future.run(state=state)
            for row in range(4):
                pasts[row] = joined(pasts[row], future.rows([row]))
                assert_close(found[row], pasts[row].run()[0, -step:], f"row {row} after {rows} were replaced")
        assert state.lengths_B.tolist() == [past.tokens_BT.shape[1] for past in pasts], "the state's lengths"


def check_detach(mixer: Mixer) -> None:
    """A detached state goes on with the same values and without a way back."""
    inputs = Inputs(mixer, 2, 12)
    x_BTD = inputs.x_BTD.requires_grad_()
    state = inputs.new_state()
    inputs.run(0, 7, state)
    assert any(x.requires_grad for x in state.tensors().values()), "the state carries no gradient"
    detached = state.detach()
    assert not any(x.requires_grad for x in detached.tensors().values()), "a detached state carries gradients"
    y_BTD = inputs.run(7, 12, detached)
    assert_close(y_BTD, inputs.run()[:, 7:], "a detached state")
    (grad_BTD,) = torch.autograd.grad(y_BTD.sum(), x_BTD)
    assert grad_BTD[:, :7].abs().max() == 0, "a gradient passed through a detached state"


def check_training_through_state(mixer: Mixer) -> None:
    """With gradients a call replaces the state's tensors, never writes into them, and the gradients are the whole's."""
    inputs = Inputs(mixer, 2, 70)
    x_BTD = inputs.x_BTD.requires_grad_()
    weights = torch.randn(2, 70, DIM, generator=torch.Generator().manual_seed(5), dtype=x_BTD.dtype)
    (expected,) = torch.autograd.grad((inputs.run() * weights).sum(), x_BTD)
    state, outputs = inputs.new_state(), []
    for start, stop in ((0, 20), (20, 21), (21, 66), (66, 70)):
        before = state.tensors()
        kept = {name: (x._version, x.detach().clone()) for name, x in before.items()}
        outputs.append(inputs.run(start, stop, state))
        for name, (version, values) in kept.items():
            assert before[name]._version == version, f"{name} was written in place with gradients enabled"
            assert torch.equal(before[name], values), f"{name} was changed with gradients enabled"
    (found,) = torch.autograd.grad((torch.cat(outputs, dim=1) * weights).sum(), x_BTD)
    assert_close(found, expected, "gradients through a carried state")


def check_gradients(mixer: Mixer) -> None:
    """Gradients of inputs and parameters against finite differences, for a whole row and through a carried state."""
    names, parameters = zip(*mixer.named_parameters(), strict=True)
    inputs = Inputs(mixer, 2, 7)
    documents_BT = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [0] * 7])

    def whole(x_BTD: Tensor, *values: Tensor) -> Tensor:
        context = Context(inputs.tokens_BT, positions_in_documents(documents_BT), documents_BT)
        return functional_call(mixer, dict(zip(names, values, strict=True)), (x_BTD, context))

    def carried(x_BTD: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        state = inputs.new_state()
        pieces = []
        for piece in (slice(0, 3), slice(3, 4), slice(4, 7)):
            context = Context(tokens_BT=inputs.tokens_BT[:, piece], state=state)
            weights = dict(zip(names, values, strict=True))
            pieces.append(functional_call(mixer, weights, (x_BTD[:, piece], context)))
        return tuple(pieces)

    given = [x.detach().clone().requires_grad_() for x in (inputs.x_BTD, *parameters)]
    for function in (whole, carried):
        try:
            torch.autograd.gradcheck(function, given, fast_mode=True)
        except RuntimeError as error:  # what gradcheck raises for a wrong gradient
            raise AssertionError(f"the gradient of {function.__name__} is wrong: {error}") from error


def check_state_bytes(mixer: Mixer) -> None:
    """state_bytes is what new_state allocates."""
    for context_len in (1, 3, 64, 200):
        tensors = mixer.new_state(3, context_len, dtype=torch.bfloat16).tensors()
        allocated = sum(x.numel() * x.element_size() for x in tensors.values() if x.is_floating_point())
        assert 3 * mixer.state_bytes(context_len) == allocated, f"state_bytes({context_len})"


@torch.no_grad()
def check_flops(mixer: Mixer) -> None:
    """flops_per_token is within 2 % of what is counted for a whole row, without hidden scores, or token by token."""
    for context_len in (33, 128):
        inputs = Inputs(mixer.float(), 1, context_len)
        at_once = counted(lambda inputs=inputs: inputs.run(), hidden=False)
        state = inputs.new_state()
        stepwise = counted(lambda inputs=inputs, state=state: [
            inputs.run(t, t + 1, state) for t in range(inputs.tokens_BT.shape[1])
        ])  # fmt: skip
        claimed = mixer.flops_per_token(context_len) * context_len
        errors = [abs(claimed / found - 1) for found in (at_once, stepwise)]
        assert min(errors) < 0.02, f"claimed {claimed:.0f}; at once {at_once}, token by token {stepwise}"


@torch.no_grad()
def check_refusals(mixer: Mixer, foreign: State) -> None:
    """A state that does not fit and documents beside a state end in a ConfigError."""
    inputs = Inputs(mixer, 2, 4)
    with pytest.raises(ConfigError, match="state of"):
        inputs.run(state=foreign)
    with pytest.raises(ConfigError, match="state of"):
        inputs.new_state().write(torch.tensor([0]), foreign)
    with pytest.raises(ConfigError, match="rows"):
        inputs.run(state=mixer.new_state(3, 4, dtype=inputs.x_BTD.dtype))
    documents_BT = torch.zeros_like(inputs.tokens_BT)
    with pytest.raises(ConfigError, match="documents"):
        mixer(inputs.x_BTD, Context(documents_BT=documents_BT, state=inputs.new_state()))


@torch.no_grad()
def check_too_long(mixer: Mixer) -> None:
    """Past max_len a state either goes on rightly or says so, with nothing advanced."""
    for pieces in ((8, 1), (8, 5), (20,), (3, 9)):
        inputs = Inputs(mixer, 2, sum(pieces))
        state = inputs.new_state(8)
        cuts = [0, *itertools.accumulate(pieces)]
        found, refusal = [], None
        try:
            for start, stop in itertools.pairwise(cuts):
                found.append(inputs.run(start, stop, state))
        except ConfigError as error:
            refusal = error
        if refusal is None:
            assert_close(torch.cat(found, dim=1), inputs.run(), f"{pieces} tokens in a state for 8")
        else:
            assert "max_len" in str(refusal)
            assert state.lengths_B.tolist() == [cuts[-2]] * 2, "a refused call advanced the state"


def check_autocast(mixer: Mixer) -> None:
    """Under bf16 autocast outputs, gradients and cached steps stay near the fp32 ones."""
    inputs = Inputs(mixer.float(), 2, 65)
    x_BTD = inputs.x_BTD.requires_grad_()
    exact = inputs.run()
    (exact_grad,) = torch.autograd.grad(exact.square().sum(), x_BTD)
    with torch.autocast("cpu", torch.bfloat16):
        rough = inputs.run()
        state = mixer.new_state(2, 65, dtype=torch.bfloat16)
        with torch.no_grad():
            cached = torch.cat([inputs.run(0, 60, state), inputs.run(60, 61, state), inputs.run(61, 65, state)], 1)
    (rough_grad,) = torch.autograd.grad(rough.float().square().sum(), x_BTD)
    for found, expected, limit in ((rough, exact, 0.03), (cached, exact, 0.03), (rough_grad, exact_grad, 0.1)):
        error = (found.float() - expected).norm() / expected.norm()
        assert error < limit, f"bf16 is off by {error:.3f} of the norm"


CHECKS: tuple[Callable[[Mixer], None], ...] = (
    check_causal_by_gradient,
    check_causal_by_change,
    check_rows_apart,
    check_pieces,
    check_padding,
    check_documents,
    check_select,
    check_write,
    check_detach,
    check_training_through_state,
    check_gradients,
    check_state_bytes,
    check_flops,
    check_too_long,
    check_autocast,
)
