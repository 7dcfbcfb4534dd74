#!/bin/sh
# Makes a folder that runs on another machine with nothing but an NVIDIA driver and glibc: the
# programs that run.sh needs, stripped, and the libraries that they are linked with. NVIDIA's own
# libraries, which are loaded when they run, are large and go along only when asked for.
# usage: pack.sh BUILD-DIR OUT-DIR [DIRECTORY WITH libcudnn.so.* AND libcublas.so.*]...
set -eu
[ $# -ge 2 ] || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }
build=$1 out=$2
here=$(cd "$(dirname "$0")" && pwd)
shift 2

mkdir -p "$out/bin" "$out/lib"
cp "$here/run.sh" "$here/../bench/bench_torch.py" "$out/bin/"
for name in test_ops test_remote test_remote_runs bench_torch bench_step frostline-learn; do
    [ -x "$build/bin/$name" ] || { echo "pack.sh: '$build/bin/$name' is not built" >&2; exit 1; }
    cp "$build/bin/$name" "$out/bin/"
    strip "$out/bin/$name"
    ldd "$build/bin/$name" | awk '$2 == "=>" && $3 ~ /^\// {print $3}'
done | sort -u | while read -r library; do
    case ${library##*/} in # belong to the loader of the machine
    libc.so.* | libm.so.* | libdl.so.* | librt.so.* | libpthread.so.* | ld-linux*) ;;
    *) cp -L "$library" "$out/lib/" ;;
    esac
done
mv "$out/bin/run.sh" "$out/run.sh"
for directory in "$@"; do
    cp -L "$directory"/libcudnn*.so.[0-9]* "$directory"/libcublas*.so.[0-9]* "$out/lib/" 2>/dev/null || true
done
if [ $# -gt 0 ] && ! ls "$out"/lib/libcudnn.so.* "$out"/lib/libcublas.so.* >/dev/null 2>&1; then
    echo "pack.sh: no libcudnn.so.* or no libcublas.so.* in: $*" >&2
    exit 1
fi
du -sh "$out"
