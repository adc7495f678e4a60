#!/usr/bin/env bash
# Puts numpy into target/tools/python for python3, where it is missing: the host's program of a wafer bundle needs it. The test that runs that
# program is skipped, and says so, where it cannot be had.
set -euo pipefail
cd "$(dirname "$0")/.."

PACKAGES=target/tools/python

export PYTHONPATH=$PACKAGES
python3 -c 'import numpy' 2> /dev/null && exit 0
if log=$(python3 -m pip install --quiet --only-binary :all: --target "$PACKAGES" numpy 2>&1); then
    echo "numpy is in $PACKAGES" >&2
else
    echo "numpy: cannot be fetched ($(tail -n 1 <<< "$log")); a test that needs it is skipped" >&2
fi
