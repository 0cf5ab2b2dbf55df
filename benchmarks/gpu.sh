#!/usr/bin/env bash
# All that is to be measured on one GPU, within 9 minutes; given again, it goes on with what is left. What it runs and
# what it leaves in FOLDER (default results/gpu) is told in gpu.py.
#
#     bash benchmarks/gpu.sh [FOLDER] [--minutes 9]
#
# It downloads nothing. Fashion-MNIST: SCAN_FASHION_MNIST_DIR names its folder. Python packages that are missing: unpack
# their wheels into a folder and name it in PYTHONPATH. PYTHON names another interpreter than python3.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" benchmarks/gpu.py "$@"
