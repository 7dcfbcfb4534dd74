#!/bin/sh
# The two commands of the README. Both install what is missing (Debian packages), then build:
#   ./setup.sh demo [options]   runs the demonstration; options go to frostline-demo
#   ./setup.sh test [preset]    runs all tests, of the release build and under ASan+UBSan (and
#                               threads under TSan)
#   ./setup.sh test arm64       cross-builds the numeric tests and runs them under qemu
#   ./setup.sh oracle           installs Debian's PyTorch, with which the tests then compare
#   ./setup.sh build            only builds, into build-release/
set -eu
root=$(cd "$(dirname "$0")" && pwd)

packages="build-essential cmake ninja-build pkg-config libcurl4-openssl-dev libmbedtls-dev
libmsgpack-dev libopenblas-dev libuv1-dev libsqlite3-dev libzstd-dev libjansson-dev libseccomp-dev
libjpeg-dev libpng-dev libhttp-parser-dev libcmocka-dev python3-msgpack"

arm64_packages="gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static
libcurl4-openssl-dev:arm64 libmbedtls-dev:arm64 libmsgpack-dev:arm64 libopenblas-dev:arm64
libuv1-dev:arm64 libsqlite3-dev:arm64 libzstd-dev:arm64 libjansson-dev:arm64 libseccomp-dev:arm64
libjpeg-dev:arm64 libpng-dev:arm64 libcmocka-dev:arm64 libhttp-parser2.9:arm64"

oracle_packages="python3-torch python3-torchvision"

install_missing() {
    missing=
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
            missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    echo "installing:$missing"
    as_root=
    if [ "$(id -u)" != 0 ]; then
        as_root=sudo
        command -v sudo >/dev/null || {
            echo "setup.sh: run as root, or install these packages first:$missing" >&2
            exit 6
        }
    fi
    case $missing in
    *:arm64*) $as_root dpkg --add-architecture arm64 ;;
    esac
    $as_root apt-get update -qq
    # shellcheck disable=SC2086 # a list of words
    DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends \
        $missing >/dev/null
}

build() (
    cd "$root"
    cmake --preset "$1" >/dev/null
    cmake --build --preset "$1" -- --quiet
)

run_tests() {
    echo "== tests: $1"
    build "$1"
    (cd "$root" && ctest --preset "$1" -j 2)
}

# shellcheck disable=SC2086 # lists of words
install_for() {
    case $1 in
    arm64) install_missing $packages $arm64_packages ;;
    oracle) install_missing $oracle_packages ;;
    *) install_missing $packages ;;
    esac
}

command=${1:-help}
[ $# -eq 0 ] || shift
case $command in
demo)
    install_for demo
    build release
    FROSTLINE_SOURCE=$root exec "$root/build-release/bin/frostline" demo "$@"
    ;;
test)
    install_for "${1:-test}"
    if [ $# -gt 0 ]; then
        run_tests "$1"
    else
        run_tests release
        run_tests asan
        run_tests tsan
    fi
    ;;
build)
    install_for build
    build release
    ;;
oracle)
    install_for oracle
    ;;
*)
    sed -n '2,8s/^# \{0,1\}//p' "$0"
    [ "$command" = help ] || exit 2
    ;;
esac
