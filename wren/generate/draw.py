"""Draws one token a row, all rows at once: bias and masks, temperature, top-k and top-p, and both log-probabilities.

B rows, V vocabulary, K candidates.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from wren.errors import ConfigError, DivergedError, WrenError
from wren.generate.noise import gumbel, place_keys, seed_keys, spread
from wren.generate.settings import Drawn, Request, Row, check_mask

FEW = 512  # candidates that are sorted where top_p alone cuts; if they hold too little, all are
DIVERGED = (
    "The model's output is not a number: its training diverged; take an earlier checkpoint, or lower the learning rate."
)


class Picked(NamedTuple):
    tokens_B: Tensor
    sampled_B: Tensor  # log-probability in the distribution that was drawn from


class Rules:
    """What does not change for a set of rows from step to step, as tensors. Made anew when rows come or go."""

    def __init__(self, rows: Sequence[Row], device: torch.device, drawable: int):
        requests = [row.request for row in rows]
        samplings = [request.sampling for request in requests]
        self.device, self.drawable = device, drawable
        self.keys = seed_keys([row.seed for row in rows])
        self.greedy = [each.temperature == 0 for each in samplings]
        self.all_greedy = all(self.greedy)
        inverse = [0.0 if each.temperature == 0 else 1 / each.temperature for each in samplings]
        self.inverse_B1 = torch.tensor(inverse, dtype=torch.float64, device=device)[:, None]
        self.greedy_B1 = torch.tensor(self.greedy, device=device)[:, None]
        self.tokens_V = spread(torch.arange(drawable, dtype=torch.int32, device=device))
        truncated = [s.top_k is not None or s.top_p is not None for s in samplings]
        cut = [each and not greedy for each, greedy in zip(truncated, self.greedy, strict=True)]
        self.cut = torch.tensor([i for i, is_cut in enumerate(cut) if is_cut], device=device, dtype=torch.long)
        self.whole = torch.tensor([i for i, is_cut in enumerate(cut) if not is_cut], device=device, dtype=torch.long)
        some = [samplings[i] for i, is_cut in enumerate(cut) if is_cut]
        self.top_k = [min(each.top_k or drawable, drawable) for each in some]
        self.top_k_C1 = torch.tensor(self.top_k, device=device)[:, None]
        self.top_p_C1 = torch.tensor([each.top_p or 1.0 for each in some], dtype=torch.float64, device=device)[:, None]
        self.any_top_p = any(each.top_p is not None for each in some)
        self.most_top = max(request.top_logprobs for request in requests)
        self.bias = self._bias(requests)
        self.allowed = {
            i: r.allowed[:drawable].bool().to(device) for i, r in enumerate(requests) if r.allowed is not None
        }
        self.asked = [i for i, request in enumerate(requests) if request.mask is not None]
        self.waiting = [i for i, r in enumerate(requests) if r.sampling.min_tokens and r.stop_ids]

    def _bias(self, requests: list[Request]) -> tuple[Tensor, Tensor, Tensor] | None:
        """Row, token and value of every bias."""
        found = [(i, token, value) for i, request in enumerate(requests) for token, value in request.bias.items()]
        if not found:
            return None
        rows, tokens, values = zip(*found, strict=True)
        index = (torch.tensor(each, device=self.device) for each in (rows, tokens))
        return (*index, torch.tensor(values, dtype=torch.float64, device=self.device))  # type: ignore[return-value]


def draw(logits_BV: Tensor, rows: Sequence[Row], rules: Rules) -> list[Drawn | WrenError]:
    """What each row draws, or why it cannot go on; one wait for the device."""
    logits_BV = logits_BV[:, : rules.drawable]
    if not logits_BV.is_floating_point() or logits_BV.dtype in (torch.bfloat16, torch.float16):
        logits_BV = logits_BV.float()
    total_B1 = logits_BV.logsumexp(-1, keepdim=True)  # not a number where any logit is none
    adjusted_BV, errors = _adjusted(logits_BV, rows, rules)
    keys_B2 = torch.from_numpy(place_keys(rules.keys, [len(row.tokens) for row in rows])).to(rules.device)
    tokens_B, sampled_B = _picked(adjusted_BV, keys_B2, rules)
    own_B = (logits_BV.gather(-1, tokens_B[:, None]) - total_B1)[:, 0]
    tops: list[list[tuple[int, float]]] = []
    if rules.most_top:
        found = (logits_BV - total_B1).topk(rules.most_top, dim=-1)
        pairs = zip(found.indices.tolist(), found.values.double().tolist(), strict=True)
        tops = [list(zip(ids, values, strict=True)) for ids, values in pairs]
    answer = torch.stack((tokens_B.double(), own_B.double(), sampled_B.double())).tolist()
    results: list[Drawn | WrenError] = []
    for i, (token, own, sampled) in enumerate(zip(*answer, strict=True)):
        if i in errors:
            results.append(errors[i])
        elif math.isnan(own):
            results.append(DivergedError(DIVERGED))
        else:
            top = tuple(tops[i][: rows[i].request.top_logprobs]) if tops else ()
            results.append(Drawn(int(token), own, sampled, top))
    return results


def _adjusted(logits_BV: Tensor, rows: Sequence[Row], rules: Rules) -> tuple[Tensor, dict[int, WrenError]]:
    """The logits with biases, and -inf for what may not be drawn; rows of whom a mask left nothing."""
    errors: dict[int, WrenError] = {}
    banned = [i for i in rules.waiting if len(rows[i].tokens) < rows[i].request.sampling.min_tokens]
    if not (rules.bias or rules.allowed or rules.asked or banned):
        return logits_BV, errors
    logits_BV = logits_BV.clone()
    if rules.bias is not None:
        index_row, index_token, values = rules.bias
        logits_BV.index_put_((index_row, index_token), values.to(logits_BV.dtype), accumulate=True)
    for i, allowed_V in rules.allowed.items():
        logits_BV[i].masked_fill_(~allowed_V, -math.inf)
    for i in rules.asked:
        try:
            _ask(logits_BV[i], rows[i], rules)
        except WrenError as error:
            errors[i] = error
    for i in banned:
        stops = [token for token in rows[i].request.stop_ids if token < rules.drawable]
        logits_BV[i, stops] = -math.inf
    if rules.asked or banned:
        empty = (logits_BV == -math.inf).all(-1)
        for i in empty.nonzero()[:, 0].tolist():
            errors.setdefault(i, ConfigError("A row's mask leaves no token to draw; allow at least one."))
    return logits_BV, errors


def _ask(logits_V: Tensor, row: Row, rules: Rules) -> None:
    mask_V = row.request.mask(row.tokens) if row.request.mask is not None else None
    if mask_V is not None:
        check_mask(mask_V, rules.drawable)
        logits_V.masked_fill_(~mask_V[: rules.drawable].bool().to(rules.device), -math.inf)


def _picked(logits_BV: Tensor, keys_B2: Tensor, rules: Rules) -> Picked:
    if rules.all_greedy:
        return Picked(logits_BV.argmax(-1), logits_BV.new_zeros(len(logits_BV)))
    # no temperature makes inf - inf of the largest logit
    logits_BV = logits_BV - logits_BV.amax(-1, keepdim=True)
    if not len(rules.cut):
        return _among_all(logits_BV, keys_B2, rules.inverse_B1, rules.greedy_B1, rules)
    if not len(rules.whole):
        return _among_likeliest(logits_BV, keys_B2, rules.inverse_B1, rules)
    cut, whole = rules.cut, rules.whole
    few = _among_likeliest(logits_BV[cut], keys_B2[cut], rules.inverse_B1[cut], rules)
    rest = _among_all(logits_BV[whole], keys_B2[whole], rules.inverse_B1[whole], rules.greedy_B1[whole], rules)
    tokens_B = torch.empty(len(logits_BV), dtype=torch.long, device=rules.device)
    sampled_B = logits_BV.new_empty(len(logits_BV))
    for index, picked in ((cut, few), (whole, rest)):
        tokens_B[index], sampled_B[index] = picked
    return Picked(tokens_B, sampled_B)


def _among_all(logits_BV: Tensor, keys_B2: Tensor, inverse_B1: Tensor, greedy_B1: Tensor, rules: Rules) -> Picked:
    scaled_BV = _scaled(logits_BV, inverse_B1)
    scores_BV = gumbel(keys_B2, rules.tokens_V).to(scaled_BV.dtype).add_(scaled_BV)
    if any(rules.greedy):
        scores_BV = torch.where(greedy_B1, logits_BV, scores_BV)
    tokens_B = scores_BV.argmax(-1)
    sampled_B1 = scaled_BV.gather(-1, tokens_B[:, None]) - scaled_BV.logsumexp(-1, keepdim=True)
    return Picked(tokens_B, sampled_B1.masked_fill(greedy_B1, 0.0)[:, 0])


def _among_likeliest(logits_CV: Tensor, keys_C2: Tensor, inverse_C1: Tensor, rules: Rules) -> Picked:
    """Rows that top_k or top_p cuts. A few candidates are enough, unless top_p wants more."""
    V = logits_CV.shape[1]
    most = max(rules.top_k)
    few = min(V, FEW) if most == V and logits_CV.device.type == "cpu" else most
    scaled_CV = _scaled(logits_CV, inverse_C1)
    sorted_CK, ids_CK = scaled_CV.topk(few, dim=-1)
    kept_CK = torch.arange(few, device=rules.device) < rules.top_k_C1
    if rules.any_top_p:
        # of what top_k keeps; a row that it does not cut has its sum over all tokens
        total_C1 = scaled_CV.logsumexp(-1, keepdim=True)
        of_kept_C1 = sorted_CK.masked_fill(~kept_CK, -math.inf).logsumexp(-1, keepdim=True)
        total_C1 = torch.where(rules.top_k_C1 < V, of_kept_C1, total_C1)
        probs_CK = (sorted_CK - total_C1).double().exp().masked_fill(~kept_CK, 0.0)
        up_to_CK = probs_CK.cumsum(-1)
    else:
        probs_CK = up_to_CK = None
    if few < most and (up_to_CK is None or bool((up_to_CK[:, -1:] < rules.top_p_C1).any())):
        sorted_CK, ids_CK = scaled_CV.sort(dim=-1, descending=True, stable=True)
        return _chosen(sorted_CK, ids_CK, keys_C2, _kept(sorted_CK, rules))
    if probs_CK is not None and up_to_CK is not None:
        kept_CK &= up_to_CK - probs_CK < rules.top_p_C1  # the likelier ones do not hold top_p yet
    return _chosen(sorted_CK, ids_CK, keys_C2, kept_CK)


def _kept(sorted_CV: Tensor, rules: Rules) -> Tensor:
    """Which of all tokens, sorted, are kept."""
    kept_CV = torch.arange(sorted_CV.shape[1], device=rules.device) < rules.top_k_C1
    probs_CV = sorted_CV.masked_fill(~kept_CV, -math.inf).double().softmax(-1)
    return kept_CV & (probs_CV.cumsum(-1) - probs_CV < rules.top_p_C1)


def _chosen(sorted_CK: Tensor, ids_CK: Tensor, keys_C2: Tensor, kept_CK: Tensor) -> Picked:
    kept_scores_CK = sorted_CK.masked_fill(~kept_CK, -math.inf)
    scores_CK = gumbel(keys_C2, spread(ids_CK)).to(sorted_CK.dtype).add_(kept_scores_CK)
    place_C1 = scores_CK.argmax(-1, keepdim=True)
    sampled_C1 = kept_scores_CK.gather(-1, place_C1) - kept_scores_CK.logsumexp(-1, keepdim=True)
    return Picked(ids_CK.gather(-1, place_C1)[:, 0], sampled_C1[:, 0])


def _scaled(logits_BV: Tensor, inverse_B1: Tensor) -> Tensor:
    """Logits, at most 0, over the temperature; what may not be drawn stays -inf where the factor is 0 too."""
    scaled_BV = logits_BV * inverse_B1.to(logits_BV.dtype)
    return scaled_BV.masked_fill_(logits_BV == -math.inf, -math.inf)


def truncate(probs_BV: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """The truth: zeroes all but the top_k likeliest, then all but the fewest likeliest that hold top_p of what is
    left; not renormalised."""
    if top_k is None and top_p is None:
        return probs_BV
    sorted_BV, order_BV = probs_BV.sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        sorted_BV[:, top_k:] = 0
    if top_p is not None:
        before_BV = sorted_BV.cumsum(dim=-1) - sorted_BV  # probability of all likelier tokens
        sorted_BV = sorted_BV.masked_fill(before_BV >= top_p * sorted_BV.sum(dim=-1, keepdim=True), 0)
    return torch.zeros_like(probs_BV).scatter(-1, order_BV, sorted_BV)


def prompt_logprobs(
    logits_TV: Tensor, next_T: Tensor, drawable: int, top: int
) -> tuple[list[float], list[tuple[tuple[int, float], ...]]]:
    """Of each next token, and of the likeliest ones in its place."""
    logprobs_TV = logits_TV[:, :drawable].float() if logits_TV.dtype != torch.float64 else logits_TV[:, :drawable]
    logprobs_TV = logprobs_TV.log_softmax(-1)
    # a token past the drawable ones, such as padding of the vocabulary, is impossible
    values_T = logprobs_TV.gather(-1, next_T.clamp(max=drawable - 1)[:, None])[:, 0]
    values_T = values_T.masked_fill(next_T >= drawable, -math.inf)
    if not top:
        return values_T.tolist(), [() for _ in range(len(values_T))]
    found = logprobs_TV.topk(top, dim=-1)
    pairs = zip(found.indices.tolist(), found.values.tolist(), strict=True)
    return values_T.tolist(), [tuple(zip(ids, values, strict=True)) for ids, values in pairs]
