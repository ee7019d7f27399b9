"""A tuning of milliseconds as a program: the process that gets killed.  python tests/tune_child.py RUN DATA OUT"""

import sys
from pathlib import Path

import torch
from tune_parts import asked

from wren.train import Interrupted
from wren.tune.run import tune


def main(run: str, data: str, out: str) -> int:
    torch.set_num_threads(1)
    try:
        tune(asked(Path(run), Path(data), Path(out), lora=2, steps=40), device="cpu")
    except Interrupted as stop:
        return 128 + stop.signal_number
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
