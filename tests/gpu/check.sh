#!/bin/sh
# run.sh without a GPU: a tree of stand-ins shows that every outcome of a step is told, and the real
# tree that a missing GPU is.
# usage: check.sh BUILD-DIR
set -u
here=$(cd "$(dirname "$0")" && pwd)
build=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=0

expect() { # WHAT PATTERN FILE
    grep -qE "$2" "$3" && return
    echo "$1: no '$2' in:"
    cat "$3"
    failed=1
}

stand_in() { # NAME COMMAND
    printf '#!/bin/sh\n%s\n' "$2" >"$scratch/tree/bin/$1"
    chmod +x "$scratch/tree/bin/$1"
}

mkdir -p "$scratch/tree/bin"
for name in test_ops test_remote test_remote_runs; do
    stand_in $name 'echo fine'
done
stand_in frostline-learn 'echo "{\"schema\": 1}"; echo talk >&2'
# shellcheck disable=SC2016 # expanded in there
stand_in compute-sanitizer 'while [ "${1#--}" != "$1" ]; do shift; shift; done; exec "$@"'

run() {
    "$here/run.sh" "$scratch/tree" "$scratch/out" \
        --sanitizer "$scratch/tree/bin/compute-sanitizer" "$@" >"$scratch/log" 2>&1
    code=$?
}

run
[ $code -eq 0 ] || { echo "all is well, but it ends with $code"; failed=1; }
expect "all is well" '^test_ops +ok' "$scratch/out/summary.txt"
expect "all is well" '^racecheck-test_ops +ok' "$scratch/out/summary.txt"
expect "all is well" '^0 failed' "$scratch/out/summary.txt"
expect "results" '"schema"' "$scratch/out/pretrain-resnet18-bf16.json"
expect "talk" 'talk' "$scratch/out/pretrain-resnet18-bf16.log"

expect "no data" '^ten +SKIP .*--data' "$scratch/out/summary.txt"
run --data anything --source anywhere
[ $code -eq 0 ] || { echo "with data it ends with $code"; failed=1; }
expect "data" '^ten-resnet18-w64 +ok' "$scratch/out/summary.txt"
expect "data" '"schema"' "$scratch/out/ten-mobilenet_v2.json"

stand_in test_remote 'exit 5'
stand_in test_remote_runs 'echo "SKIP: because"; exit 77'
stand_in test_ops 'sleep 30'
run --seconds 8
[ $code -eq 1 ] || { echo "something failed, but it ends with $code"; failed=1; }
expect "a limit" '^test_ops +TIMEOUT' "$scratch/out/summary.txt"
expect "no time left" 'NO TIME' "$scratch/out/summary.txt"
stand_in test_ops 'echo fine'
run
expect "a failure" '^test_remote +FAILED .*exit 5' "$scratch/out/summary.txt"
expect "a skip" '^test_remote_runs +SKIP .*because' "$scratch/out/summary.txt"

CUDA_VISIBLE_DEVICES='' "$here/run.sh" "$build" "$scratch/out" >"$scratch/log" 2>&1
code=$?
[ $code -eq 77 ] || { echo "there is no GPU, but it ends with $code"; failed=1; }
expect "no GPU" 'no GPU can be used here: .*(no GPU to use|not in this build)' "$scratch/out/summary.txt"
exit $failed
