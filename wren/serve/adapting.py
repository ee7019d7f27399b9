"""Learning from one request before it is answered: a lesson of wren/adapt beside all that the engine does.

A client asks with `adapt`: true, or {"lr": ..., "text": ...}. The text of the request, or the one given, is scored and
then learned chunk by chunk by an adapter of the request's own; where the gate trusts the adapter at its end the answer
is drawn with it, else the model answers as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from wren.adapt.documents import LR
from wren.serve.errors import ApiError
from wren.serve.limits import Limits
from wren.serve.schema import Adapt
from wren.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Adapting:
    """What is learned: tokens, the document's or conversation's start first."""

    tokens: tuple[int, ...]
    lr: float = LR


def adapting(
    tokenizer: Tokenizer, limits: Limits, asked: bool | Adapt | None, prompt: Sequence[int]
) -> Adapting | None:
    """What a request asks to be learned, None where it asks for nothing of it. Raises ApiError."""
    if not asked:
        return None
    if not limits.max_adapt:
        sentence = "This server does not adapt; start it with --max-adapt TOKENS, or leave adapt out."
        raise ApiError(400, sentence, param="adapt", code="unsupported")
    wish = Adapt(lr=None, text=None) if isinstance(asked, bool) else asked
    tokens = tuple(prompt)
    if wish.text is not None:
        if len(wish.text) > limits.max_adapt * int(tokenizer.token_bytes().max()):  # before it is encoded
            raise _too_long(f"{len(wish.text):,} characters", limits, "adapt.text")
        tokens = (tokenizer.document_id, *tokenizer.encode(wish.text))
    if len(tokens) < 2:
        sentence = "There is nothing to learn from in the prompt; write one, or leave adapt out."
        raise ApiError(400, sentence, param="adapt", code="invalid_value")
    if len(tokens) - 1 > limits.max_adapt:
        param = "adapt" if wish.text is None else "adapt.text"
        raise _too_long(f"{len(tokens) - 1:,} tokens", limits, param)
    return Adapting(tokens=tokens, lr=LR if wish.lr is None else wish.lr)


def _too_long(what: str, limits: Limits, param: str) -> ApiError:
    sentence = f"{what} are to be learned; at most {limits.max_adapt:,} tokens are learned here."
    return ApiError(400, sentence, param=param, code="invalid_value")
