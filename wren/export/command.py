"""`wren export`: which format takes which settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from wren.errors import ConfigError
from wren.export import gguf_model, hf


def export(
    run: Path, out: Path, format: str, dtype: str, *, own_code: bool, say: Callable[[str], None]
) -> dict[str, Any]:
    """What export_hf or export_gguf gives; raises ConfigError for a setting that the format lacks."""
    if format == "hf":
        if dtype not in hf.DTYPES:
            raise ConfigError(f"--dtype {dtype} is of the gguf format; for hf choose {', '.join(hf.DTYPES)}.")
        return hf.export_hf(run, out, dtype=cast(hf.Dtype, dtype), own_code=own_code, say=say)
    if own_code:
        raise ConfigError("--own-code is of the hf format: llama.cpp runs no code that comes with a model.")
    if dtype not in gguf_model.DTYPES:
        raise ConfigError(f"--dtype {dtype} is not written as gguf; choose {', '.join(gguf_model.DTYPES)}.")
    return gguf_model.export_gguf(run, out, dtype=cast(gguf_model.Dtype, dtype), say=say)
