#!/bin/bash
# {{title}} on {{nodes}} x {{gpus_per_node}} GPUs. Submit with: sbatch THIS_FILE
# One Slurm task is one rank, without torchrun between: so signals reach the training process itself.
#SBATCH --job-name={{name}}
#SBATCH --nodes={{nodes}}
#SBATCH --ntasks-per-node={{gpus_per_node}}
#SBATCH --gpus-per-node={{gpus_per_node}}
#SBATCH --cpus-per-task={{cpus_per_rank}}
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@{{seconds_to_save}}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# --signal: {{seconds_to_save}} s before the limit every rank gets SIGUSR1, saves and exits with 0.
# --requeue: a preempted job (SIGTERM: saved, too) starts again by itself and resumes from its newest checkpoint.
set -uo pipefail

RUN={{run}}
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export OMP_NUM_THREADS={{cpus_per_rank}}
export TORCH_NCCL_ASYNC_ERROR_HANDLING=1      # a lost rank ends the job instead of hanging it
export TORCH_NCCL_DUMP_ON_TIMEOUT=1
export STEEL_RANK_TIMEOUT_S=600               # how long a rank waits for a silent one in one collective
export NCCL_DEBUG=WARN
# export NCCL_SOCKET_IFNAME=ib0               # the interface between nodes, when NCCL picks another
# export NCCL_IB_HCA=mlx5                     # the InfiniBand cards to use
export PYTORCH_ALLOC_CONF=expandable_segments:True

srun --kill-on-bad-exit=1 bash -c '
  export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS LOCAL_WORLD_SIZE={{gpus_per_node}}
  exec python -m steel pretrain {{arguments}}'
code=$?

# Go on in a new job when the limit came first (code 0, no end in the log), and after a lost rank or node (75, a signal)
# unless that came in the first 15 minutes, which a restart seldom mends. Any other error is left for you to read.
again=no
if [ "$code" -eq 0 ] && ! grep '"kind": "event"' "$RUN/log.jsonl" | tail -n 1 | grep -q '"what": "end"'; then again=yes; fi
if [ "$code" -ge 75 ] && [ "$SECONDS" -gt 900 ]; then again=yes; fi
if [ "$again" = yes ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
