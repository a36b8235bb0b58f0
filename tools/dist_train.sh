#!/usr/bin/env bash
# Train on several GPUs: tools/dist_train.sh CONFIG GPUS [ARGUMENTS OF train.py]
# Several nodes: see launch.py.
set -euo pipefail

if [[ $# -lt 2 ]]; then
    echo "usage: $0 CONFIG GPUS [ARGUMENTS OF train.py]" >&2
    exit 2
fi
exec "${PYTHON:-python}" "$(dirname "${BASH_SOURCE[0]}")/launch.py" train.py "$2" "$1" "${@:3}"
