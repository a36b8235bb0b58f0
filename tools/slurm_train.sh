#!/usr/bin/env bash
# Train on a Slurm cluster: tools/slurm_train.sh PARTITION JOB CONFIG WORK_DIR [ARGUMENTS OF train.py]
# One task per node, which runs torchrun with one process per GPU. Variables:
#   GPUS (8)            total number of GPUs
#   GPUS_PER_NODE       GPUs per node (8, or GPUS if that is less)
#   CPUS_PER_TASK (5)   CPU cores per GPU
#   SRUN_ARGS           more arguments for srun
set -euo pipefail

if [[ $# -lt 4 ]]; then
    echo "usage: [GPUS=8] [GPUS_PER_NODE=8] $0 PARTITION JOB CONFIG WORK_DIR [ARGUMENTS OF train.py]" >&2
    exit 2
fi
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
require_positive() {
    if ! [[ $2 =~ ^[1-9][0-9]*$ ]]; then
        echo "error: $1 must be a positive integer, not '$2'." >&2
        exit 2
    fi
}
gpus=${GPUS:-8}
require_positive GPUS "$gpus"
gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
require_positive GPUS_PER_NODE "$gpus_per_node"
cpus_per_task=${CPUS_PER_TASK:-5}
require_positive CPUS_PER_TASK "$cpus_per_task"
nodes=$((gpus / gpus_per_node))
if ((nodes * gpus_per_node != gpus)); then
    echo "error: GPUS=$gpus must be a multiple of GPUS_PER_NODE=$gpus_per_node." >&2
    exit 2
fi
read -ra srun_args <<<"${SRUN_ARGS:-}"

# $... in the single quotes are the node's, set by Slurm
# shellcheck disable=SC2016
exec srun --partition "$1" --job-name "$2" --nodes "$nodes" --ntasks "$nodes" --ntasks-per-node 1 \
    --gres "gpu:$gpus_per_node" --cpus-per-task "$((cpus_per_task * gpus_per_node))" --kill-on-bad-exit=1 \
    "${srun_args[@]}" bash -c '
        export NNODES=$SLURM_NNODES NODE_RANK=$SLURM_NODEID PORT=$((20000 + SLURM_JOB_ID % 20000))
        MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
        export MASTER_ADDR
        exec "$@"' node "$tools/dist_train.sh" "$3" "$gpus_per_node" --work-dir "$4" "${@:5}"
