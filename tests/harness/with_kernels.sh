#!/bin/sh
# with_kernels.sh base|avx2|avx512 PROGRAM: runs a numeric test with this set of kernels, ours and
# OpenBLAS's. SKIP (77) where the processor lacks the instructions.
set -eu
kernels=$1
shift
case $kernels in
base) flag= core=Prescott ;;
avx2) flag=avx2 core=Haswell ;;
avx512) flag=avx512f core=SkylakeX ;;
*) echo "with_kernels.sh: unknown kernels '$kernels'" >&2 && exit 2 ;;
esac
if [ -n "$flag" ] && ! grep -qw "$flag" /proc/cpuinfo; then
    echo "SKIP: this processor has no $flag"
    exit 77
fi
[ "$(uname -m)" != x86_64 ] || export OPENBLAS_CORETYPE=$core
export FROSTLINE_KERNELS="$kernels"
exec "$@"
