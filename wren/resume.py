"""Everything that a run must remember to go on as if it had never stopped: saved together, restored together."""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from wren import checkpoint
from wren.batch import Batches
from wren.distributed.ranks import ALONE, Ranks
from wren.errors import CheckpointError, DiskError, DivergedError
from wren.layout import local
from wren.model import LM
from wren.optim.optimizer import Optimizer
from wren.run import Run


@dataclass
class Progress:
    """Where a run is; saved with every checkpoint.

    tokens: learned targets so far. seconds: in steps only, without evaluation and saving. skipped: steps that changed
    nothing since their loss or gradient was not finite. bad_in_a_row: such steps up to now that are no fp16 routine.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    skipped: int = 0
    bad_in_a_row: int = 0
    micro_batch_size: int = 0


@dataclass
class TrainState:
    """What changes while training."""

    model: LM
    optimizer: Optimizer
    batches: Batches
    scaler: torch.amp.GradScaler
    device: torch.device
    progress: Progress = field(default_factory=Progress)
    ranks: Ranks = ALONE

    def save(self, run: Run, keep: int) -> None:
        """Writes a checkpoint and deletes all but the newest `keep`.

        Raises DiskError (the earlier checkpoints are untouched) and DivergedError when a weight is not finite.
        """
        names = (name for name, p in self.model.named_parameters() if not bool(local(p).isfinite().all()))
        if (name := self.ranks.any(next(names, None))) is not None:
            raise DivergedError(
                f"'{name}' holds values that are not finite at step {self.progress.step}; {last_good(run)} "
                "Lower the learning rate."
            )
        with contextlib.suppress(DiskError):  # told when the row was written; the checkpoint may still fit
            run.sync_metrics()  # the rows up to a checkpoint must survive whatever the checkpoint survives
        tensors, rng = self.optimizer.tensors(), rng_state(self.device)
        state = {
            "progress": asdict(self.progress),
            "batches": self.batches.state(),
            "scaler": self.scaler.state_dict(),
            "optimizer_began": bool(tensors),  # self-play may go back to before the first step
        }
        folder = run.checkpoints_path
        self.ranks.save(folder, self.progress.step, self.model, tensors, rng, state)
        self.ranks.first(lambda: checkpoint.prune(folder, keep))

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Puts everything back; raises CheckpointError when it belongs to another model, optimizer or data."""
        tensors = dict(saved.optimizer)
        rng = {name: tensors.pop(name) for name in list(tensors) if name.startswith("rng/")}
        try:
            rng = {"rng/cpu": rng["rng/cpu"], **rng}
            progress = Progress(**saved.state["progress"])
            batches, scaler = saved.state["batches"], saved.state["scaler"]
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"{saved.path} was not written by this version of wren's training ({error}); use another --run."
            ) from error
        if bool(scaler) != self.scaler.is_enabled():
            raise CheckpointError(
                f"{saved.path} was trained with{'' if scaler else 'out'} fp16; set --dtype as it was then."
            )
        if not tensors and progress.step > progress.skipped and saved.state.get("optimizer_began", True):
            raise CheckpointError(f"{saved.path} lacks the optimizer's state; resume from another checkpoint.")
        checkpoint.load_weights(self.model, saved.model, saved.path)
        self.optimizer.load_tensors(tensors)
        self.batches.load_state(batches)
        self.scaler.load_state_dict(scaler)
        self.progress = progress
        set_rng_state(rng, self.device)


def last_good(run: Run) -> str:
    """A sentence that names the newest good checkpoint."""
    path, _ = checkpoint.newest_good(run.checkpoints_path)
    return f"the last good checkpoint is {path}." if path else "there is no checkpoint before it."


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's global generators of the CPU and of `device`."""
    states = {"rng/cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["rng/cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        states["rng/mps"] = torch.mps.get_rng_state()
    return states


def set_rng_state(states: dict[str, Tensor], device: torch.device) -> None:
    """Puts back what rng_state() gave; the state of a device of another type is left out."""
    torch.set_rng_state(states["rng/cpu"])
    if device.type == "cuda" and "rng/cuda" in states:
        torch.cuda.set_rng_state(states["rng/cuda"], device)
    if device.type == "mps" and "rng/mps" in states:
        torch.mps.set_rng_state(states["rng/mps"])


@contextlib.contextmanager
def kept_rng(device: torch.device) -> Iterator[None]:
    """Whatever is drawn inside, torch's global generators go on outside as if nothing had been."""
    states = rng_state(device)
    try:
        yield
    finally:
        set_rng_state(states, device)
