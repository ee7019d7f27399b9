"""Golden loss curves. `python tests/golden/make.py` says how far today's are from the stored ones and stores them."""

import json
import platform
from pathlib import Path

import numpy as np
import torch

from wren.data.loader import TokenLoader, TokenStream
from wren.loss import cross_entropy
from wren.optim.optimizer import OptimizerConfig
from wren.recipes import RunConfig, get

FOLDER = Path(__file__).parent
VOCAB, CONTEXT, BATCH, STEPS = 64, 32, 4, 20
DIALS = {
    "tiny": {"depth": 2, "dim": 32, "lr": 1e-2},
    "gpt2": {"depth": 2, "dim": 32, "num_heads": 2, "lr": 1e-2},
    "llama": {"depth": 2, "dim": 32, "num_heads": 4, "num_kv_heads": 2, "lr": 1e-2},
}


def config(name: str) -> RunConfig:
    """A small one of the recipe. AdamW in all: torch's Muon rounds to bf16, which differs from CPU to CPU."""
    recipe = get(name)(vocab_size=VOCAB, context_len=CONTEXT, batch_size=BATCH, steps=STEPS, **DIALS[name])
    settings = vars(recipe) | {"optimizer": OptimizerConfig(lr=recipe.optimizer.lr), "seed": 7}
    return RunConfig(**settings)


def corpus() -> np.ndarray:
    """Documents of 40 tokens in which each token is the one before, times 5, plus 1, 2 or 3."""
    rng = np.random.Generator(np.random.PCG64(7))
    tokens = rng.integers(1, VOCAB, size=(200, 40))
    for t in range(2, 40):
        tokens[:, t] = 1 + (5 * tokens[:, t - 1] + rng.integers(1, 4, size=200)) % (VOCAB - 1)
    tokens[:, 0] = 0
    return tokens.reshape(-1).astype(np.uint16)


def curve(name: str) -> list[float]:
    """The loss of every step, in float32 with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _curve(config(name))
    finally:
        torch.set_num_threads(threads)


def _curve(settings: RunConfig) -> list[float]:
    torch.manual_seed(settings.seed)
    model = settings.model.build()
    optimizer = settings.optimizer.build(model)
    loader = TokenLoader(TokenStream([corpus()], 0, CONTEXT), batch_size=BATCH, seed=settings.seed)
    losses = []
    for step in range(STEPS):
        optimizer.set_factor(settings.schedule.factor(step, STEPS))
        optimizer.zero_grad()
        batch = loader.next_batch()
        loss = cross_entropy(model, batch) / batch.num_targets()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(optimizer.params(), settings.train.grad_clip)
        for part in optimizer.parts:
            part.step()
        losses.append(float(loss.detach()))
    return losses


def stored(name: str) -> list[float]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))["losses"]


def difference(a: list[float], b: list[float]) -> float:
    """The largest relative difference of two curves."""
    return max(abs(x - y) / abs(y) for x, y in zip(a, b, strict=True))


def main() -> None:
    machine = {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    for name in DIALS:
        losses, path = curve(name), FOLDER / f"{name}.json"
        if path.exists():
            print(f"{name}: largest relative difference from the stored curve {difference(losses, stored(name)):.1e}")
        path.write_text(json.dumps({"made_on": machine, "losses": losses}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
