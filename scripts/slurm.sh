#!/usr/bin/env bash
# MAR-L on ImageNet 256 for SLURM: sbatch scripts/slurm.sh
# Before it, once:
#   torchrun --nproc_per_node=8 -m marlearn cache --data imagenet/ --split train --tokenizer kl16/ --out latents/ \
#       --batch-size 128
# When the time limit comes near, SLURM sends SIGTERM to all processes and the run saves its state. (So it does on
# USR1, USR2, HUP and INT, but torchrun passes only TERM on to its processes in every version of PyTorch.) It has 240 seconds
# for that (--shutdown_timeout needs a recent PyTorch, older ones give 30). The last line requeues the job.
#SBATCH --job-name=mar-l
#SBATCH --nodes=4
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --output=%x-%j.log

set -u
meet=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes="$SLURM_NNODES" --nproc_per_node=8 --max-restarts=3 --shutdown_timeout=240 \
    --rdzv-backend=c10d --rdzv-endpoint="$meet:29500" --rdzv-id="$SLURM_JOB_ID" \
    -m marlearn train --preset mar-l-imagenet256 --data latents/ --out runs/mar-l --auto-resume "$@"

# Done, or is there something left? The last checkpoint's name tells.
last=$(ls -d runs/mar-l/checkpoints/step-???????? | tail -n 1)
steps=$(python -c "from marlearn.engine.presets import mar_large; print(f'{mar_large().train.steps:08d}')")
[ "${last#*step-}" = "$steps" ] || scontrol requeue "$SLURM_JOB_ID"

# When it is done, the same line with another command measures it; all GPUs draw, into runs/mar-l/evaluation-pictures,
# and a repeated command goes on:
#   srun torchrun ... -m marlearn evaluate --checkpoint runs/mar-l --num-images 50000 --seeds 1 --cfg-scale 3.0 \
#       --ar-steps 256 --diff-steps 100 --features inception --data VIRTUAL_imagenet256_labeled.npz \
#       --out runs/mar-l/evaluation.json
