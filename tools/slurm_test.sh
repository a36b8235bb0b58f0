#!/usr/bin/env bash
# Test on a Slurm cluster: tools/slurm_test.sh PARTITION JOB CONFIG CHECKPOINT [ARGUMENTS OF test.py]
# The variables are those of slurm_launch.sh: GPUS, GPUS_PER_NODE, CPUS_PER_TASK, GRES, SRUN_ARGS.
set -euo pipefail

if [[ $# -lt 4 ]]; then
    echo "usage: [GPUS=8] [GPUS_PER_NODE=8] $0 PARTITION JOB CONFIG CHECKPOINT [ARGUMENTS OF test.py]" >&2
    exit 2
fi
exec "$(dirname "${BASH_SOURCE[0]}")/slurm_launch.sh" test.py "$1" "$2" "$3" "$4" "${@:5}"
