#!/usr/bin/env bash
# install.sh BUILD PREFIX: puts what `make install` built, in the folder BUILD, under PREFIX: commands, library, header, pages, completions.
# DESTDIR, if it is set, comes before PREFIX in where files go. No file says where it is: the tree can be moved.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$1 prefix=$2
to=${DESTDIR:-}$prefix
version=$(sed -nE 's/^version = "(.*)"$/\1/p' Cargo.toml | head -n 1)

put() { install -D -m "$1" "$2" "$to/$3"; }
for command in q35c q35; do put 755 "$build/$command" "bin/$command"; done
for library in libq35rt.a libq35rt.so; do put 644 "$build/$library" "lib/$library"; done
put 644 runtime/capi/include/q35rt.h include/q35rt.h

pages=$(mktemp -d)
trap 'rm -rf "$pages"' EXIT
for command in q35c q35; do
    "$build/$command" man "$pages"
    "$build/$command" completions bash > "$pages/bash"
    "$build/$command" completions zsh > "$pages/zsh"
    "$build/$command" completions fish > "$pages/fish"
    put 644 "$pages/bash" "share/bash-completion/completions/$command"
    put 644 "$pages/zsh" "share/zsh/site-functions/_$command"
    put 644 "$pages/fish" "share/fish/vendor_completions.d/$command.fish"
done
for page in "$pages"/*.1; do put 644 "$page" "share/man/man1/$(basename "$page")"; done

cat > "$pages/q35rt.pc" <<EOF
prefix=\${pcfiledir}/../..
libdir=\${prefix}/lib
includedir=\${prefix}/include

Name: q35rt
Description: Runs the bundles that q35c makes
Version: $version
Cflags: -I\${includedir}
Libs: -L\${libdir} -lq35rt
Libs.private: -lpthread -ldl -lm -lgcc_s -lc
EOF
put 644 "$pages/q35rt.pc" lib/pkgconfig/q35rt.pc

cat > "$pages/q35rtConfig.cmake" <<'EOF'
# The target q35rt::q35rt. The folder is found from this file's own place.
get_filename_component(_q35rt_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
if(NOT TARGET q35rt::q35rt)
  add_library(q35rt::q35rt SHARED IMPORTED)
  set_target_properties(q35rt::q35rt PROPERTIES
    IMPORTED_LOCATION "${_q35rt_prefix}/lib/libq35rt.so"
    IMPORTED_NO_SONAME TRUE
    INTERFACE_INCLUDE_DIRECTORIES "${_q35rt_prefix}/include")
endif()
set(q35rt_FOUND TRUE)
EOF
put 644 "$pages/q35rtConfig.cmake" lib/cmake/q35rt/q35rtConfig.cmake

# Before 1.0 every second number is another interface.
cat > "$pages/q35rtConfigVersion.cmake" <<EOF
set(PACKAGE_VERSION "$version")
set(PACKAGE_VERSION_COMPATIBLE FALSE)
if("\${PACKAGE_FIND_VERSION_MAJOR}.\${PACKAGE_FIND_VERSION_MINOR}" STREQUAL "${version%.*}" AND NOT PACKAGE_FIND_VERSION VERSION_GREATER PACKAGE_VERSION)
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
endif()
if(PACKAGE_FIND_VERSION VERSION_EQUAL PACKAGE_VERSION)
  set(PACKAGE_VERSION_EXACT TRUE)
endif()
EOF
put 644 "$pages/q35rtConfigVersion.cmake" lib/cmake/q35rt/q35rtConfigVersion.cmake
echo "installed in $to"
