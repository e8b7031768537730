"""A RUN folder: `log.jsonl`, `checkpoints/`, and `hf/`, the latest model in Hugging Face format with its tokenizer."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ..config import UserError
from ..model.folder import save_model
from ..runlog import RunLog
from .checkpoint import disk_problem
from .parallel import World


class RunFolder:
    """One training stage on disk. Creating it makes the folder; nothing else is touched."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot create the run folder {self.path}: {error.strerror}") from None
        self.checkpoints = self.path / "checkpoints"
        self.hf = self.path / "hf"
        self.log = RunLog(self.path / "log.jsonl")

    def save_hf(self, model: nn.Module, tokenizer=None, world: World | None = None) -> Path:
        """Write `hf/` whole or not at all. Gathers a sharded model on rank 0."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        world = world or World()
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = get_model_state_dict(model, options=options) if world.size > 1 else None
        if weights:  # gathering made copies of tied weights, which the file holds once
            once = {name for name, _ in model.named_parameters()}
            twice = {name for name, _ in model.named_parameters(remove_duplicate=False)} - once
            weights = {name: tensor for name, tensor in weights.items() if name not in twice}
        if world.is_main:
            try:
                save_model(self.hf, model, weights, tokenizer)
            except Exception as error:
                if reason := disk_problem(error, self.path):
                    raise UserError(
                        f"cannot write {self.hf}: {reason}; the checkpoint is whole, so make room and run "
                        "the same command again"
                    ) from None
                raise
        world.barrier()
        return self.hf
