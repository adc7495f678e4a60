#!/bin/sh
# Installs what the build needs besides Rust: LLVM and MLIR 22 and a C compiler for linking, from Debian's packages.
# Silent and instant when everything is there. Run it again at any time.
set -eu

prefix=/usr/lib/llvm-22
packages="llvm-22-dev libmlir-22-dev mlir-22-tools lld-22 clang-22 libclang-22-dev libpolly-22-dev libzstd-dev zlib1g-dev"

fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

command -v cargo >/dev/null 2>&1 || fail "Rust is not installed; see https://rustup.rs, then run this again."

if ! command -v dpkg-query >/dev/null 2>&1; then
    [ -x "$prefix/bin/llvm-config" ] && [ -x "$prefix/bin/ld.lld" ] && exit 0
    fail "this is not a Debian system, and there is no LLVM 22 under $prefix." \
        "Install LLVM, MLIR, clang and lld 22, and set the prefixes in .cargo/config.toml to their place."
fi

missing=
for package in $packages; do
    case $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) in
        installed) ;;
        *) missing="$missing $package" ;;
    esac
done
command -v cc >/dev/null 2>&1 || missing="$missing build-essential"
[ -n "$missing" ] || exit 0

root=
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null 2>&1 || fail "these packages are missing, and there is no sudo to install them:" " $missing"
    root=sudo
fi

echo "setup: installing$missing" >&2
export DEBIAN_FRONTEND=noninteractive
$root apt-get update -qq ||
    fail "the package lists could not be refreshed (is this machine offline?). Missing:" " $missing"
# shellcheck disable=SC2086  # a list of packages
for package in $missing; do
    apt-cache show "$package" >/dev/null 2>&1 ||
        fail "no configured package source has $package." \
            "LLVM 22 for Debian 12 comes from bookworm's own archives (bookworm-security); see /etc/apt/sources.list."
done
# shellcheck disable=SC2086  # a list of packages
$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
    fail "apt-get could not install:" " $missing"
