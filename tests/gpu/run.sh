#!/bin/bash
# Everything that only a GPU can prove, in ten minutes, most important first: the operation suite,
# whole networks and runs against `ref`, short pretrainings, the speed beside PyTorch's, ten classes
# learned on the ready-made bases, compute-sanitizer. Each step has a limit of its own and a log; a
# summary ends it.
# usage: run.sh TREE OUT-DIR [--python PYTHON-WITH-TORCH] [--sanitizer PROGRAM] [--seconds N]
#               [--data CIFAR-100 --source PROJECT]
#   TREE      a build directory, or what pack.sh made of one
#   --seconds ends after so long, whatever is left (600)
#   --data    with --source, the project's files: runs of learner/experiments/ten-classes.json
# exit: 0 every step passed or was skipped for a tool that is not here, 1 some failed, 77 no GPU
set -u
[ $# -ge 2 ] || { sed -n '2,12s/^# //p' "$0" >&2; exit 2; }
tree=$(cd "$1" && pwd) || exit 2
mkdir -p "$2" || exit 2
out=$(cd "$2" && pwd)
shift 2
python='' sanitizer='' seconds=600 data='' source=''
while [ $# -gt 0 ]; do
    case $1 in
    --python) python=${2:-} ;;
    --sanitizer) sanitizer=${2:-} ;;
    --seconds) seconds=${2:-} ;;
    --data) data=${2:-} ;;
    --source) source=${2:-} ;;
    *) echo "run.sh: '$1' is unknown" >&2; exit 2 ;;
    esac
    shift 2 || exit 2
done
bin=$tree/bin
[ -d "$tree/lib" ] && export LD_LIBRARY_PATH="$tree/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
begun=$SECONDS
failed=0 skipped=0
: >"$out/summary.txt"

tell() {
    printf '%-22s %-8s %4s s  %s\n' "$1" "$2" "$3" "${4:-}" | tee -a "$out/summary.txt"
}

# step NAME LIMIT COMMAND...: its output goes to NAME.log; 77 means SKIP, as everywhere in the tests
step() {
    local name=$1 limit=$2 left=$((seconds - SECONDS + begun)) rc at=$SECONDS
    shift 2
    if [ "$left" -lt 5 ]; then
        skipped=$((skipped + 1))
        tell "$name" "NO TIME" 0
        return 1
    fi
    [ "$limit" -gt "$left" ] && limit=$left
    timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1 </dev/null
    rc=$?
    case $rc in
    0) tell "$name" ok $((SECONDS - at)) ;;
    77) skipped=$((skipped + 1)); tell "$name" SKIP $((SECONDS - at)) "$(tail -n 1 "$out/$name.log")" ;;
    124 | 137) failed=$((failed + 1)); tell "$name" TIMEOUT $((SECONDS - at)) "after $limit s" ;;
    *) failed=$((failed + 1)); tell "$name" FAILED $((SECONDS - at)) "exit $rc, see $name.log" ;;
    esac
    return $rc
}

# json NAME LIMIT COMMAND...: the same, and what it prints on stdout is NAME.json
json() {
    local name=$1 limit=$2
    shift 2
    # shellcheck disable=SC2016 # expanded in there
    step "$name" "$limit" bash -c 'file=$1; shift; exec "$@" >"$file"' json "$out/$name.json" "$@"
}

absent() {
    skipped=$((skipped + 1))
    tell "$1" SKIP 0 "$2"
}

# ---- what is here ----

# NVIDIA's libraries lie where PyTorch's wheels put them, if nowhere else.
if [ -z "${FROSTLINE_CUDA_LIBRARIES:-}" ]; then
    [ -e "$tree/lib/libcudnn.so" ] || ls "$tree"/lib/libcudnn.so.* >/dev/null 2>&1 &&
        FROSTLINE_CUDA_LIBRARIES=$tree/lib
    for interpreter in "$python" python3; do
        [ -n "$interpreter" ] || continue
        found=$("$interpreter" -c '
import glob, os, sys, sysconfig
sites = set(sys.path) | {sysconfig.get_paths()["purelib"]}
names = [n for s in sites for p in ("cudnn", "cublas") for n in
         glob.glob(os.path.join(s, "nvidia", "*", "lib", "lib%s.so.*" % p))]
print(":".join(sorted({os.path.dirname(n) for n in names})))' 2>/dev/null)
        [ -n "$found" ] && FROSTLINE_CUDA_LIBRARIES=${FROSTLINE_CUDA_LIBRARIES:+$FROSTLINE_CUDA_LIBRARIES:}$found
    done
    export FROSTLINE_CUDA_LIBRARIES=${FROSTLINE_CUDA_LIBRARIES:-}
fi
if [ -z "$sanitizer" ]; then
    for directory in $(echo "$PATH" | tr : ' ') "${CUDA_HOME:-/usr/local/cuda}/bin" \
        "${CUDA_HOME:-/usr/local/cuda}/compute-sanitizer"; do
        [ -x "$directory/compute-sanitizer" ] && sanitizer=$directory/compute-sanitizer && break
    done
fi
{
    date -u '+%Y-%m-%d %H:%M:%S UTC'
    uname -sr
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv 2>&1
    echo "FROSTLINE_CUDA_LIBRARIES=$FROSTLINE_CUDA_LIBRARIES"
    echo "sanitizer=${sanitizer:-none} python=${python:-none}"
} >"$out/machine.txt"
cat "$out/machine.txt"
for name in test_ops test_remote test_remote_runs frostline-learn; do
    [ -x "$bin/$name" ] || { echo "run.sh: '$bin/$name' is not built" >&2; exit 2; }
done

# ---- is there a GPU that can be used? ----

images=synthetic:classes=10,train=2000,test=20
# shellcheck disable=SC2054 # commas are of the source of images
probe=(--data synthetic:classes=3,train=20,test=10 --epochs 1 --batch 20 --seed 1 --json)
if ! json gpu 60 "$bin/frostline-learn" pretrain "${probe[@]}" --device cuda --out "$out/probe.flm"; then
    echo "no GPU can be used here: $(tail -n 1 "$out/gpu.log")" | tee -a "$out/summary.txt"
    exit 77
fi

# ---- right? ----

step test_ops 120 "$bin/test_ops"
step test_remote 120 "$bin/test_remote"
step test_remote_runs 150 "$bin/test_remote_runs"

# ---- fast? ----

# A chip's own warm-up and the recordings are within the first of 4 epochs; the rate is the last's.
pretrain() {
    json "pretrain-$1-$3" 60 "$bin/frostline-learn" pretrain --data $images --arch "$1" --width "$2" \
        --epochs 4 --batch 512 --device cuda --precision "$3" --seed 1 --json --out "$out/$1-$3.flm"
    rm -f "$out/$1-$3.flm"
}
pretrain resnet18 64 bf16
pretrain resnet18 64 tf32
pretrain resnet18 64 fp32
pretrain mobilenet_v2 100 bf16
if [ -n "$python" ] && "$python" -c 'import torch, torchvision' 2>/dev/null; then
    for network in resnet18-64 mobilenet_v2-100; do # compiling MobileNetV2 takes PyTorch over a minute
        json "bench-$network" 170 "$bin/bench_torch" --device cuda --precision bf16 --batch 512 --job train \
            --network $network --rounds 3 --python "$python" --json
    done
else
    absent bench "no --python with torch and torchvision"
fi

# ---- does it learn? ----

if [ -n "$data" ] && [ -n "$source" ]; then
    for base in resnet18-w64 mobilenet_v2; do
        json "ten-$base" 90 "$bin/frostline-learn" experiment "$source/learner/experiments/ten-classes.json" \
            --data "$data" --only "$base/*/frostline*" --only "$base/*/do-nothing/*" --only "$base/*/ncm/*" \
            --only "$base/*/freeze*/seed 1/*" --device cuda --workers 1 --out "$out/ten-$base.jsonl" \
            --cache "$out/cache" --json
    done
    rm -rf "$out/cache"
else
    absent ten "no --data and --source"
fi

# ---- clean? ----

check() {
    step "$1" "$2" "$sanitizer" --tool "${1%%-*}" --error-exitcode 1 --print-limit 20 "$bin/${1#*-}" \
        'cuda_*'
}
if [ -n "$sanitizer" ]; then
    step gpu-memcheck 60 "$sanitizer" --tool memcheck --error-exitcode 1 --print-limit 20 \
        "$bin/frostline-learn" pretrain "${probe[@]}" --device cuda --out "$out/probe.flm"
    check memcheck-test_ops 120
    check racecheck-test_ops 120
    check initcheck-test_ops 120
    check memcheck-test_remote 120
else
    absent sanitizer "no compute-sanitizer; name it with --sanitizer"
fi
rm -f "$out/probe.flm"

echo "$failed failed, $skipped skipped, $((SECONDS - begun)) s" | tee -a "$out/summary.txt"
[ "$failed" -eq 0 ]
