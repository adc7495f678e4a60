#!/usr/bin/env bash
# Installs what some tests use and the build does not, from Debian's packages: valgrind, pkg-config, cmake, and what it takes to make and to run
# programs for 64-bit Arm. Tests that need one of them are skipped, and say so, where it cannot be had.
set -euo pipefail

# Programs, and the packages that they are in.
declare -A TOOLS=(
    [valgrind]=valgrind
    [pkg-config]=pkg-config
    [cmake]=cmake
    [qemu-aarch64]=qemu-user
    [aarch64-linux-gnu-gcc]='gcc-aarch64-linux-gnu libc6-dev-arm64-cross'
)

missing=()
for tool in "${!TOOLS[@]}"; do
    command -v "$tool" > /dev/null || read -ra missing <<< "${missing[*]} ${TOOLS[$tool]}"
done
((${#missing[@]})) || exit 0

without() {
    echo "test-tools: no ${missing[*]} ($1); tests that need them are skipped" >&2
    exit 0
}

command -v apt-get > /dev/null || without "this is not a Debian system"
root=()
if [[ $(id -u) -ne 0 ]]; then
    command -v sudo > /dev/null || without "there is no sudo"
    root=(sudo -n)
fi
echo "test-tools: installing ${missing[*]}" >&2
"${root[@]}" apt-get update -qq > /dev/null 2>&1 || without "the package lists could not be refreshed"
log=$("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" 2>&1) ||
    without "$(tail -n 1 <<< "$log")"
