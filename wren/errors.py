"""What can go wrong because of a user's input, drawn as a tree.

    WrenError             one sentence that names the mistake and the mend; the CLI prints it and exits with 2
      ConfigError         a setting: unknown key, wrong type, impossible combination
      DataError           a text, a shard, a dataset
      TokenizerError      a tokenizer, or one that does not belong to the data or the model
      CheckpointError     a checkpoint that is damaged, missing or of another model
      NetworkError        the hub could not be reached or answered wrongly
      DiskError           no space left, file too large, no permission
      JobError            another process of a torchrun job is missing or was lost
      DivergedError       training left the finite numbers and did not come back

Anything else that reaches the user as a traceback is a bug of Wren.
"""

import difflib
from collections.abc import Iterable


class WrenError(Exception):
    """A mistake that the user can mend; its text is one sentence."""


class ConfigError(WrenError):
    pass


class DataError(WrenError):
    pass


class TokenizerError(WrenError):
    pass


class CheckpointError(WrenError):
    pass


class NetworkError(WrenError):
    pass


class DiskError(WrenError):
    pass


class JobError(WrenError):
    pass


class DivergedError(WrenError):
    pass


def unknown_key(kind: str, key: str, valid: Iterable[str]) -> str:
    """The sentence for an unknown name: what was written, the nearest valid one, and all of them."""
    names = sorted(valid)
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    return f"{kind} '{key}' is unknown{hint} It can be: {', '.join(names)}."
