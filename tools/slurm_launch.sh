#!/usr/bin/env bash
# Run a tool on a Slurm cluster: slurm_launch.sh SCRIPT PARTITION JOB [ARGUMENTS OF SCRIPT]
# For slurm_train.sh and slurm_test.sh. One task per node, which runs torchrun with one process per GPU. PARTITION may be
# empty, for the default one. Within an allocation (sbatch, salloc) all of it is used unless a variable says less.
#   GPUS (8)            total number of GPUs
#   GPUS_PER_NODE       GPUs per node (8, or GPUS if that is less)
#   CPUS_PER_TASK (5)   CPU cores per GPU
#   GRES (gpu:N)        other resources of a node: gpu:a100:8 for GPUs of a type, none for a cluster without GPUs
#   SRUN_ARGS           more arguments for srun; one with spaces in quotes
set -euo pipefail

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
require_positive() {
    if ! [[ $2 =~ ^[1-9][0-9]*$ ]]; then
        echo "error: $1 must be a positive integer, not '$2'." >&2
        exit 2
    fi
}
options=(--job-name "$3" --kill-on-bad-exit=1)
if [[ -n ${SLURM_JOB_ID:-} ]]; then
    gpus_per_node=${GPUS_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}
    require_positive GPUS_PER_NODE "$gpus_per_node"
    gpus=${GPUS:-$((gpus_per_node * SLURM_NNODES))}
    gres=${GRES:-${GPUS_PER_NODE:+${SLURM_GPUS_ON_NODE:+gpu:$GPUS_PER_NODE}}}
    cpus=${CPUS_PER_TASK:-0}
else
    gpus=${GPUS:-8}
    require_positive GPUS "$gpus"
    gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
    require_positive GPUS_PER_NODE "$gpus_per_node"
    gres=${GRES:-gpu:$gpus_per_node}
    cpus=${CPUS_PER_TASK:-5}
    [[ -z $2 ]] || options+=(--partition "$2")
fi
require_positive GPUS "$gpus"
[[ $cpus == 0 && -n ${SLURM_JOB_ID:-} ]] || require_positive CPUS_PER_TASK "$cpus"
nodes=$((gpus / gpus_per_node))
if ((nodes * gpus_per_node != gpus)); then
    echo "error: GPUS=$gpus must be a multiple of GPUS_PER_NODE=$gpus_per_node." >&2
    exit 2
fi
if ((nodes > ${SLURM_NNODES:-$nodes})); then
    echo "error: GPUS=$gpus with GPUS_PER_NODE=$gpus_per_node needs $nodes nodes; the allocation has $SLURM_NNODES." >&2
    exit 2
fi
options+=(--nodes "$nodes" --ntasks "$nodes" --ntasks-per-node 1)
[[ -z $gres ]] || options+=(--gres "$gres")
# since Slurm 22.05 a step does not know what the job was given; salloc has the second, "40(x2)"
allocated=${SLURM_CPUS_ON_NODE:-${SLURM_JOB_CPUS_PER_NODE:-}}
options+=(--cpus-per-task "$((cpus ? cpus * gpus_per_node : ${allocated%%[^0-9]*}))")
if ! srun_args=$(xargs printf '%s\n' <<<"${SRUN_ARGS:-}" 2>/dev/null); then
    echo "error: SRUN_ARGS=$SRUN_ARGS has a quote without its other half." >&2
    exit 2
fi
[[ -z $srun_args ]] || mapfile -t -O "${#options[@]}" options <<<"$srun_args"

# $... in the single quotes are the node's, set by Slurm. A step may have some nodes of its job only, and run beside
# another one; Linux takes ports from 32768 for itself
# shellcheck disable=SC2016
exec srun "${options[@]}" bash -c '
    export NNODES=$SLURM_STEP_NUM_NODES NODE_RANK=$SLURM_NODEID
    export PORT=${PORT:-$((20000 + (SLURM_JOB_ID + 997 * SLURM_STEP_ID) % 12000))}
    MASTER_ADDR=$(scontrol show hostnames "$SLURM_STEP_NODELIST" | head -n 1)
    export MASTER_ADDR
    exec "${PYTHON:-python}" "$@"' node "$tools/launch.py" "$1" "$gpus_per_node" "${@:4}"
