#!/usr/bin/env bash
# Run a tool in several processes with torchrun: launch.sh SCRIPT PROCESSES [ARGUMENTS OF SCRIPT]
# For dist_train.sh, dist_test.sh and slurm_train.sh. Without a GPU the processes use the CPU.
#   one node     PROCESSES on this machine, on a free port unless PORT is set
#   more nodes   the same command on each node, with NNODES, NODE_RANK (0 to NNODES-1), MASTER_ADDR and PORT (29500)
#   MAX_RESTARTS how often torchrun restarts all processes when one has died (0); train.py then resumes
#   PYTHON       the interpreter (python)
set -euo pipefail

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
script=$1
processes=$2
shift 2

if ! [[ $processes =~ ^[1-9][0-9]*$ ]]; then
    echo "error: the number of processes must be a positive integer, not '$processes'." >&2
    exit 2
fi

if [[ ${NNODES:-1} -eq 1 && -z ${PORT:-} ]]; then
    rendezvous=(--standalone)
else
    rendezvous=(--nnodes "${NNODES:-1}" --node-rank "${NODE_RANK:-0}"
        --master-addr "${MASTER_ADDR:-127.0.0.1}" --master-port "${PORT:-29500}")
fi

# otherwise torchrun and mmengine set these to 1, each with a warning
threads=$(($(nproc) / processes))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
export MKL_NUM_THREADS=${MKL_NUM_THREADS:-$OMP_NUM_THREADS}

exec "${PYTHON:-python}" -m torch.distributed.run "${rendezvous[@]}" --nproc-per-node "$processes" \
    --max-restarts "${MAX_RESTARTS:-0}" "$tools/$script" "$@" --launcher pytorch
