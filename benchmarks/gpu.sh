#!/usr/bin/env bash
# Every measurement for one GPU, within 9 minutes. Give the same command again to run what is left. gpu.py says what it
# runs and what it leaves in FOLDER (default results/gpu).
#
#     bash benchmarks/gpu.sh [FOLDER] [--minutes 9]
#
# It downloads nothing. SCAN_FASHION_MNIST_DIR names the folder of Fashion-MNIST. If Python packages are missing, unpack
# their wheels into a folder and name it in PYTHONPATH. PYTHON names another interpreter than python3.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" benchmarks/gpu.py "$@"
