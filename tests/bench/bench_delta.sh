#!/bin/sh
# Trains real updates and runs bench_delta on them: bench_delta.sh BIN-DIR SHARED-DIR WORK-DIR [bench_delta's options]
# SHARED-DIR holds data/ (CIFAR-100) and models/ (the reference network). About ten minutes on two cores with --tools.
# ResNet-18 w64 and MobileNetV2 are trained for a few steps only: their updates are real, their accuracy is not worth a look.
set -eu
bin=$1 shared=$2 work=$3
shift 3
data="--data $shared/data/cifar-100-binary" order="--order $shared/data/cifar-100-order-1993.txt"
new="--new $shared/data/cifar-100-binary --max-old-drop 1 --min-new-recall 0"
learn=$bin/frostline-learn
mkdir -p "$work"
cd "$work"

# shellcheck disable=SC2086 # lists of words
if [ ! -e w16-freeze.flm ]; then
    $learn plan --model "$shared/models/resnet18-w16-c90.safetensors" $data $order --ratio 0.9 --per-class 20 --out w16-base.flm
    $learn exemplars --model w16-base.flm $data --per-class 20 --probes 5 --out w16.flx
    $learn learn --model w16-base.flm $new --classes 51 --per-class 100 --exemplars w16.flx --stages A --out w16-frostline.flm
    $learn learn --model w16-base.flm $new --classes mushroom --per-class 100 --exemplars w16.flx --stages A --out w16-one-class.flm
    $learn learn --model w16-base.flm $new --classes 51 --per-class 100 --exemplars w16.flx --method freeze --out w16-freeze.flm
fi
# shellcheck disable=SC2086
if [ ! -e w64-freeze.flm ]; then
    $learn pretrain $data $order --classes 90 --per-class 20 --width 64 --epochs 1 --out w64-raw.flm
    $learn plan --model w64-raw.flm $data --ratio 0.9 --per-class 3 --out w64-base.flm
    $learn exemplars --model w64-base.flm $data --per-class 5 --probes 1 --pool 10 --out w64.flx
    $learn learn --model w64-base.flm $new --classes 51 --per-class 50 --exemplars w64.flx --method freeze \
        --epochs-new 1 --epochs-tune 2 --out w64-freeze.flm
fi
# shellcheck disable=SC2086
[ -e w64-one-class.flm ] ||
    $learn learn --model w64-base.flm $new --classes mushroom --per-class 50 --exemplars w64.flx --stages A --out w64-one-class.flm
# shellcheck disable=SC2086
if [ ! -e mobile-freeze.flm ]; then
    $learn pretrain $data $order --arch mobilenet_v2 --classes 90 --per-class 20 --epochs 1 --out mobile-raw.flm
    $learn plan --model mobile-raw.flm $data --ratio 0.9 --per-class 3 --out mobile-base.flm
    $learn exemplars --model mobile-base.flm $data --per-class 5 --probes 1 --pool 10 --out mobile.flx
    $learn learn --model mobile-base.flm $new --classes mushroom --per-class 50 --exemplars mobile.flx --stages A --out mobile-one-class.flm
    $learn learn --model mobile-base.flm $new --classes 51 --per-class 50 --exemplars mobile.flx --method freeze \
        --epochs-new 1 --epochs-tune 2 --out mobile-freeze.flm
fi
"$bin/bench_delta" "$@" w16-base.flm w16-freeze.flm w16-frostline.flm w16-one-class.flm
"$bin/bench_delta" "$@" w64-base.flm w64-freeze.flm w64-one-class.flm
"$bin/bench_delta" "$@" mobile-base.flm mobile-freeze.flm mobile-one-class.flm
