"""Whether a request can be done at all, and its handle."""

from wren import units
from wren.errors import ConfigError
from wren.generate.forward import Forward
from wren.generate.sample import Handle, Sample
from wren.generate.settings import Request


def checked(request: Request, number: int, forward: Forward, drawable: int, max_bytes: int) -> Handle:
    """Raises ConfigError for a request that is wrong, or whose state could never be admitted."""
    config = forward.model.config
    request.check(config.vocab_size, drawable)
    forward.check_adapter(request.adapter)
    if request.prefix is not None and request.prefix.released:
        raise ConfigError("The prefix was released; read it again.")
    length = len(tokens_before(request)) + len(request.prompt)
    need = length + request.sampling.max_tokens
    positions = config.learned_positions
    if positions is not None and need > positions:
        raise ConfigError(f"{need} tokens do not fit this model's {positions} learned positions; ask for fewer.")
    bytes_needed = 2 * forward.row_bytes(need)  # the state that reads, and the row that decodes
    if bytes_needed > max_bytes:
        raise ConfigError(
            f"Out of memory: a request of {length} and {request.sampling.max_tokens} more tokens needs "
            f"{units.size(bytes_needed)} of state and the engine may hold {units.size(max_bytes)}; ask for fewer "
            "tokens, or raise max_bytes."
        )
    handle = Handle(request, number)
    handle.samples = [Sample(handle, i, length, need) for i in range(request.n)]
    return handle


def tokens_before(request: Request) -> tuple[int, ...]:
    """What stands in its prefix."""
    return () if request.prefix is None else request.prefix.tokens
