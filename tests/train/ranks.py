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
    from steel.model.build import decoder_layers
    from steel.train.build import make_model
    from steel.train.parallel import join_world
    from steel.train.pretrain import pretrain

    torch.set_num_threads(1)
    settings = json.loads(Path(sys.argv[1]).read_text())
    rank = int(os.environ["RANK"])
    for job in settings["jobs"]:
        cfg, run = config.from_dict(job["config"]), Path(settings["root"]) / job["run"]
        rows = []
        try:
            with crash_before(job.get("crash", -1)):
                pretrain(
                    cfg,
                    settings["data"],
                    run,
                    on_batch=lambda step, batch, rows=rows: rows.append(
                        [step, batch.input_ids.tolist()]
                    ),
                )
        except Crash:
            pass
        run.with_name(f"{run.name}.rows{rank}.json").write_text(json.dumps(rows))
    model = make_model(cfg, join_world())
    wrapped = [isinstance(layer, FSDPModule) for layer in decoder_layers(model)]
    (Path(settings["root"]) / f"wrapped{rank}.json").write_text(
        json.dumps([wrapped, isinstance(model, FSDPModule)])
    )
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
