#!/usr/bin/env bash
# Several machines without a scheduler. Start it on each of them, with the address of the first; the folders must be
# ones that all see:
#
#   scripts/nodes.sh ADDRESS MACHINES GPUS_OF_EACH COMMAND...
#   scripts/nodes.sh 10.0.0.1 4 8 train --preset mar-l-imagenet256 --data latents/ --out runs/mar-l --auto-resume
#   scripts/nodes.sh 10.0.0.1 4 8 evaluate --checkpoint runs/mar-l --num-images 50000 --seeds 1 --cfg-scale 3.0 \
#       --features inception --data VIRTUAL_imagenet256_labeled.npz --out runs/mar-l/evaluation.json
#
# A process that dies takes its run with it, and torchrun starts all of them again, three times at most; --auto-resume
# goes on from the last checkpoint. PORT (29500) may be set.
set -eu
if [ $# -lt 4 ]; then sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2; fi
meet=$1 machines=$2 gpus=$3
shift 3
exec "${PYTHON:-python}" -m torch.distributed.run --nnodes="$machines" --nproc_per_node="$gpus" --max-restarts=3 \
    --rdzv-backend=c10d --rdzv-endpoint="$meet:${PORT:-29500}" --rdzv-id=marlearn \
    -m marlearn "$@"
