"""Sampling: one engine that reads prompts and draws tokens, and text on top of it.

`Engine` is what everything else stands on; `generate` steps a batch in lockstep; `stream_text` and `sample_texts` write
text; `load_run` opens a run.
"""

from wren.generate.draw import truncate
from wren.generate.engine import Engine
from wren.generate.loading import Loaded, load_run
from wren.generate.lockstep import generate
from wren.generate.prefix import Prefix
from wren.generate.sample import Event, Handle
from wren.generate.settings import Completion, Drawn, Finish, Request, Sampling, row_seed
from wren.generate.text import Pieces, TextRow, sample_texts, stream_rows, stream_text, text_request, until_stop
from wren.generate.weights import Bits, prepared

__all__ = [
    "Bits",
    "Completion",
    "Drawn",
    "Engine",
    "Event",
    "Finish",
    "Handle",
    "Loaded",
    "Pieces",
    "Prefix",
    "Request",
    "Sampling",
    "TextRow",
    "generate",
    "load_run",
    "prepared",
    "row_seed",
    "sample_texts",
    "stream_rows",
    "stream_text",
    "text_request",
    "truncate",
    "until_stop",
]
