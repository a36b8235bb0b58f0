#!/usr/bin/env bash
# Test on several GPUs: tools/dist_test.sh CONFIG CHECKPOINT GPUS [ARGUMENTS OF test.py]
# Several nodes: see launch.py.
set -euo pipefail

if [[ $# -lt 3 ]]; then
    echo "usage: $0 CONFIG CHECKPOINT GPUS [ARGUMENTS OF test.py]" >&2
    exit 2
fi
exec "${PYTHON:-python}" "$(dirname "${BASH_SOURCE[0]}")/launch.py" test.py "$3" "$1" "$2" "${@:4}"
