#!/bin/sh
# What rounding costs in accuracy: bench_lossy.sh BIN-DIR DATA BASE.flm TARGET.flm WORK-DIR [STEP...]
# Makes the delta from BASE to TARGET losslessly, as bf16 and as int8 at every STEP, applies it, tests the model that comes out on
# all test images of DATA whose classes it has, and prints a table: bytes, percent of the full model, accuracy, change in points.
set -eu
bin=$1 data=$2 base=$3 target=$4 work=$5
shift 5
[ $# -gt 0 ] || set -- 0.25 0.5 0.75 1 1.5 2 4
mkdir -p "$work"
values=$("$bin/frostline-delta" inspect "$target" --json | awk -F'[:,]' '/^ *"elements":/ { n += $2 } END { print n }')
full=$((4 * values))
exact=

row() { # NAME ENCODING STEP
    "$bin/frostline-delta" make "$base" "$target" --encoding "$2" --step "$3" --out "$work/d.fld" --quiet >"$work/said"
    "$bin/frostline-delta" apply "$base" "$work/d.fld" --out "$work/applied.flm" >"$work/said"
    "$bin/frostline-learn" eval --model "$work/applied.flm" --data "$data" --json >"$work/eval.json" 2>"$work/said"
    accuracy=$(sed -n 's/^ *"top1": *\([0-9.]*\),*$/\1/p' "$work/eval.json")
    [ -n "$accuracy" ] || { echo "bench_lossy.sh: no accuracy in $work/eval.json" >&2; exit 3; }
    exact=${exact:-$accuracy}
    awk -v name="$1" -v bytes="$(stat -c %s "$work/d.fld")" -v full="$full" -v a="$accuracy" -v e="$exact" 'BEGIN {
        printf "| %s | %d | %.3f | %.2f %% | %+.2f |\n", name, bytes, 100 * bytes / full, a, a - e }'
}

echo '| way | bytes | % of full | accuracy | change |'
echo '|---|---|---|---|---|'
row lossless auto 0
row bf16 bf16 0
for step; do
    row "int8, step $step" int8 "$step"
done
