#!/bin/bash
# Trains on one or more nodes under SLURM, one process for each GPU, and goes on by itself when it is pre-empted, its
# time is up or a node fails. RUN names the run; all else is what src/main.py takes.
#
#     RUN=cc3m sbatch --nodes 1 --gpus-per-node 8 --ntasks-per-node 8 scripts/train_slurm.sh \
#         --train-data 'cc_data/train_masked/{00000..00331}.tar' --model ViT-L/14 --openai-pretrained
#     RUN=cc3m sbatch --nodes 8 --gpus-per-node 8 --ntasks-per-node 8 scripts/train_slurm.sh --batch-size 16 …
#
# Nodes times GPUs times --batch-size must stay the same for one run; the paper's is 1024.
#SBATCH --job-name=context-i2w
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@180
#SBATCH --output=logs/slurm-%j.txt
set -euo pipefail

: "${RUN:?give the run a name: RUN=cc3m sbatch …}"
mkdir -p logs
resume=()
if [ -e "logs/$RUN/checkpoints/last.pt" ]; then
    resume=(--resume "logs/$RUN")
fi

export MASTER_ADDR MASTER_PORT
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export WORLD_SIZE=$SLURM_NTASKS OMP_NUM_THREADS=1

# One task a GPU. USR1 (time is up) and TERM (pre-emption) reach the tasks, which save and end with status 130.
status=0
srun --kill-on-bad-exit=1 bash -c \
    'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID exec python src/main.py "$@"' \
    bash --name "$RUN" "${resume[@]}" "$@" || status=$?

if [ "$status" -eq 130 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
