"""A preparation in its own process, to be killed: python data_kill.py JSON, where JSON holds

source, out      a .jsonl file and the folder
shard_tokens, dedup, val_fraction
kill_at_batch    the process kills itself while it encodes this batch; or null
file_limit       no file may grow beyond so many bytes; or null
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path

import numpy as np
from data_helpers import BYTES

from wren.data import pipeline
from wren.data.prepare import prepare
from wren.data.sources import open_sources
from wren.errors import WrenError


class KillingTokenizer:
    """The byte tokenizer, which ends its process without warning at a given batch."""

    vocab_size, document_id = BYTES.vocab_size, BYTES.document_id
    fingerprint, save = BYTES.fingerprint, BYTES.save

    def __init__(self, kill_at_batch: int | None):
        self._left = kill_at_batch

    def encode_to_numpy(self, texts: list[str], num_threads: int) -> list[np.ndarray]:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return BYTES.encode_to_numpy(texts, num_threads)


def main() -> None:
    options = json.loads(sys.argv[1])
    limit, kill_at = options.pop("file_limit", None), options.pop("kill_at_batch", None)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sources, out = open_sources([options.pop("source")]), Path(options.pop("out"))
    pipeline.BATCH, pipeline.AHEAD = 1 << 16, 0  # so that a batch is encoded soon after the one before is written
    print("ready", flush=True)
    try:
        prepare(sources, out, tokenizer=KillingTokenizer(kill_at), workers=2, **options)  # type: ignore[arg-type]
    except WrenError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
