"""Wren runs in EleutherAI's lm-evaluation-harness (lm_eval): by the name "wren".

    python -m wren.evals.harness --model wren --model_args run=runs/mine --tasks lambada_openai --device cpu

is lm_eval's own command line, which then knows the model "wren"; register() does that for programs. lm_eval is imported
by neither until they are called.
"""

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wren.errors import ConfigError
from wren.evals.scoring import Request, request, score
from wren.generate import Loaded, Sampling, load_run, stream_text
from wren.precision import Precision, choose_device, choose_precision
from wren.run import Run, context_len

NAME = "wren"


class Scorer:
    """The three questions that the harness asks of a model."""

    def __init__(self, loaded: Loaded, precision: Precision, max_len: int):
        self.loaded, self.precision = loaded, precision
        self.max_len = min(max_len, loaded.model.config.learned_positions or max_len)

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """log p(continuation | context) in nats, and whether it is what greedy decoding gives."""
        requests = [request(self.loaded.tokenizer, context, text) for context, text in pairs]
        found = score(self.loaded, self.precision, requests, max_len=self.max_len)
        return [(each.logprob, each.greedy) for each in found]

    def rolling(self, texts: Sequence[str]) -> list[float]:
        """log p of whole texts, in windows of the context length that each read the token before them."""
        pieces = [self._windows(text) for text in texts]
        flat = score(self.loaded, self.precision, [r for each in pieces for r in each], max_len=self.max_len)
        totals, start = [], 0
        for each in pieces:
            totals.append(sum(found.logprob for found in flat[start : start + len(each)]))
            start += len(each)
        return totals

    def _windows(self, text: str) -> list[Request]:
        tokens = [self.loaded.tokenizer.document_id, *self.loaded.tokenizer.encode(text)]
        starts = range(1, len(tokens), self.max_len)
        return [Request(tokens[i - 1 : i], tokens[i : i + self.max_len]) for i in starts]

    def generate(self, prompt: str, settings: dict[str, Any]) -> str:
        """The continuation up to one of `until`; greedy unless a temperature is given."""
        until = settings.get("until") or []
        stop = [until] if isinstance(until, str) else list(until)
        sampled = settings.get("do_sample", bool(settings.get("temperature")))
        room = max(1, int(settings.get("max_gen_toks") or settings.get("max_tokens") or 256))
        room = min(room, self.max_len - 1)
        sampling = Sampling(
            max_tokens=room,
            temperature=float(settings.get("temperature") or 1.0) if sampled else 0.0,
            top_p=settings.get("top_p"),
            top_k=settings.get("top_k"),
            seed=int(settings.get("seed") or 0),
        )
        kept = self.loaded.tokenizer.encode(prompt)[-(self.max_len - 1 - room) :] if self.max_len > room + 1 else []
        begin = self.loaded.tokenizer.decode(kept)
        return "".join(stream_text(self.loaded, begin, sampling, self.precision, stop=stop))


def scorer(run: str, device: str = "auto", dtype: str = "auto", max_len: int | None = None) -> Scorer:
    """Of a run directory; raises ConfigError or CheckpointError."""
    precision = choose_precision(choose_device(device), dtype)  # type: ignore[arg-type]
    loaded = load_run(run, precision.device)
    return Scorer(loaded, precision, int(max_len or context_len(Run(run))))


@functools.cache  # lm_eval takes a name once
def register() -> type:
    """Makes lm_eval know the model "wren" (model_args run=DIR,dtype=...,max_len=...) and returns its class.

    Raises ConfigError where lm_eval is not installed.
    """
    try:
        from lm_eval.api.model import LM as Model  # type: ignore[import-not-found]
        from lm_eval.api.registry import register_model  # type: ignore[import-not-found]
    except ImportError as error:
        raise ConfigError(f"lm_eval cannot be imported ({error}); pip install 'wren-llm[eval]'.") from error

    class WrenModel(Model):
        def __init__(
            self, run: str = "", device: str = "auto", dtype: str = "auto", max_len: int | None = None, **_: Any
        ):
            super().__init__()
            if not run:
                raise ConfigError("--model wren needs --model_args run=DIR, the run directory.")
            self.scorer = scorer(run, device or "auto", dtype, max_len)

        @property
        def tokenizer_name(self) -> str:
            return self.scorer.loaded.tokenizer.fingerprint()

        def loglikelihood(self, requests: list, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            return self.scorer.loglikelihood([each.args for each in requests])

        def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = False) -> list[float]:
            return self.scorer.rolling([each.args[0] for each in requests])

        def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
            return [self.scorer.generate(*each.args) for each in requests]

    return register_model(NAME)(WrenModel)


def main() -> int:
    """lm_eval's own command line, with the model "wren"."""
    from wren.exits import exit_code

    return exit_code("wren.evals.harness", _main)


def _main() -> int:
    register()
    from lm_eval.__main__ import cli_evaluate  # type: ignore[import-not-found]

    sys.argv[0] = str(Path(sys.argv[0]).name)
    cli_evaluate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
