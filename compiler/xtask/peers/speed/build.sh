#!/usr/bin/env bash
# The peers of `cargo xtask bench-peers`: build.sh FOLDER environment|all
# Makes FOLDER/venv, and with `all` also FOLDER/llama.cpp/bin, built for this machine from the sources in llama-cpp-python's package.
set -euo pipefail
folder=$1 what=$2
here=$(cd "$(dirname "$0")" && pwd)
version=0.3.36
mkdir -p "$folder"

if [[ ! -e $folder/venv/ready ]]; then
    echo "making the peers' environment (once)" >&2
    python3 -m venv --clear "$folder/venv"
    "$folder/venv/bin/pip" install --quiet -r "$here/requirements.txt" >&2
    touch "$folder/venv/ready"
fi

if [[ $what == all && ! -e $folder/llama.cpp/ready ]]; then
    echo "building llama.cpp for this machine (once, some minutes)" >&2
    export PATH="$folder/venv/bin:$PATH"
    rm -rf "$folder/source" "$folder/llama.cpp"
    pip download --quiet --no-deps --no-binary llama-cpp-python --dest "$folder/source" "llama-cpp-python==$version" >&2
    tar -xzf "$folder/source/llama_cpp_python-$version.tar.gz" -C "$folder/source"
    cmake -S "$folder/source/llama_cpp_python-$version/vendor/llama.cpp" -B "$folder/llama.cpp" -G Ninja -DCMAKE_BUILD_TYPE=Release \
        -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF >&2
    ninja -C "$folder/llama.cpp" llama-bench llama-quantize >&2
    rm -rf "$folder/source"
    touch "$folder/llama.cpp/ready"
fi
