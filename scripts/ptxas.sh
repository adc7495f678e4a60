#!/usr/bin/env bash
# Puts ptxas into target/tools, out of the wheel that NVIDIA publishes: the assembler alone, no CUDA toolkit. Tests that need it are skipped,
# and say so, where it cannot be had.
set -euo pipefail
cd "$(dirname "$0")/.."

VERSION=12.9.86
TOOLS=target/tools

[[ -x $TOOLS/ptxas ]] && exit 0
command -v ptxas > /dev/null && exit 0
[[ $(uname -sm) == "Linux x86_64" ]] || { echo "ptxas: not for this machine; tests that need it are skipped" >&2; exit 0; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if python3 -m pip download --quiet --no-deps --dest "$work" "nvidia-cuda-nvcc-cu12==$VERSION" 2> "$work/log"; then
    mkdir -p "$TOOLS"
    python3 - "$work" "$TOOLS" <<'EOF'
import pathlib, sys, zipfile
wheel = next(pathlib.Path(sys.argv[1]).glob("*.whl"))
with zipfile.ZipFile(wheel) as archive:
    tool = pathlib.Path(sys.argv[2]) / "ptxas"
    tool.write_bytes(archive.read("nvidia/cuda_nvcc/bin/ptxas"))
    tool.chmod(0o755)
EOF
    echo "ptxas $VERSION is in $TOOLS" >&2
else
    echo "ptxas: cannot be fetched ($(tail -n 1 "$work/log")); tests that need it are skipped" >&2
fi
