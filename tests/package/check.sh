#!/bin/sh
# Installs the build into a scratch prefix and builds consumers from it: through the CMake package
# and through pkg-config.   usage: check.sh BUILD-DIR SOURCE-DIR
set -eu
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cmake --install "$1" --prefix "$scratch/usr" >/dev/null
cmake -S "$2/tests/package" -B "$scratch/build" -DCMAKE_PREFIX_PATH="$scratch/usr" >/dev/null
cmake --build "$scratch/build" >/dev/null
"$scratch/build/consumer"

config=$(find "$scratch/usr" -type d -name pkgconfig)
flags() { PKG_CONFIG_PATH=$config pkg-config --define-variable=prefix="$scratch/usr" "$@"; }
# shellcheck disable=SC2046 # a list of words
cc "$2/tests/package/consumer.c" -o "$scratch/consumer" \
    $(flags --cflags --libs frostline-agent frostline-server)
"$scratch/consumer"
"$scratch/usr/bin/frostline" --version
test -f "$scratch/usr/share/man/man1/frostline-delta-inspect.1"
test -f "$scratch/usr/share/bash-completion/completions/frostline-delta"
