"""What torchrun starts in test_distributed.py: the jobs of a JSON file, one after the other, on every rank."""

import json
import os
import sys
from pathlib import Path


def main() -> None:
    import torch
    from torch.distributed.fsdp import FSDPModule
    from train_world import Crash, crash_before

    from steel import config
    from steel.config import UserError
    from steel.data import shards
    from steel.model.build import decoder_layers
    from steel.train import checkpoint, optim
    from steel.train.build import make_model
    from steel.train.parallel import join_world
    from steel.train.pretrain import pretrain

    def older(folder):
        return complete(folder)[:-1]

    def counted(update):
        shapes.append(list(update.shape))
        return orthogonalise(update)

    shapes, orthogonalise = [], optim.orthogonalise
    optim.orthogonalise = counted
    torch.set_num_threads(1)
    complete = checkpoint.complete
    settings = json.loads(Path(sys.argv[1]).read_text())
    rank = int(os.environ["RANK"])
    for job in settings["jobs"]:
        cfg, run = config.from_dict(job["config"]), Path(settings["root"]) / job["run"]
        if rank == 1:  # what may differ between machines
            checkpoint.complete = older if job.get("stale") else complete
            cfg.train.learning_rate *= job.get("rate", 1.0)
        shards.EAGER = 0 if "data" in job else 256
        rows = []
        shapes.clear()
        try:
            with crash_before(job.get("crash", -1)):
                pretrain(
                    cfg,
                    job.get("data", settings["data"]),
                    run,
                    on_batch=lambda step, batch, rows=rows: rows.append(
                        [step, batch.input_ids.tolist()]
                    ),
                )
        except Crash:
            pass
        except UserError as error:
            run.with_name(f"{run.name}.error{rank}").write_text(str(error))
        run.with_name(f"{run.name}.rows{rank}.json").write_text(json.dumps(rows))
        run.with_name(f"{run.name}.muon{rank}.json").write_text(json.dumps(shapes))
    model = make_model(cfg, join_world())
    wrapped = [isinstance(layer, FSDPModule) for layer in decoder_layers(model)]
    (Path(settings["root"]) / f"wrapped{rank}.json").write_text(
        json.dumps([wrapped, isinstance(model, FSDPModule)])
    )
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
