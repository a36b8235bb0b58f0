#!/usr/bin/env bash
# Train on a Slurm cluster: tools/slurm_train.sh PARTITION JOB CONFIG WORK_DIR [ARGUMENTS OF train.py]
# The variables are those of slurm_launch.sh: GPUS, GPUS_PER_NODE, CPUS_PER_TASK, GRES, SRUN_ARGS.
set -euo pipefail

if [[ $# -lt 4 ]]; then
    echo "usage: [GPUS=8] [GPUS_PER_NODE=8] $0 PARTITION JOB CONFIG WORK_DIR [ARGUMENTS OF train.py]" >&2
    exit 2
fi
exec "$(dirname "${BASH_SOURCE[0]}")/slurm_launch.sh" train.py "$1" "$2" "$3" --work-dir "$4" "${@:5}"
