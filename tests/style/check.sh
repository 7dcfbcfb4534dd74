#!/bin/sh
# The rules of the house that a tool can check. Each prints what breaks it; exit 1 if any does.
# usage: check.sh SOURCE-DIR
set -u
cd "$1" || exit 2
failed=0
sources=$(find delta learner agent server-mock tests -name '*.[ch]' -o -name '*.cu' | sort)

complain() {
    [ -z "$2" ] && return
    echo "== $1"
    echo "$2"
    failed=1
}

# shellcheck disable=SC2086,SC2046 # lists of words
{
    complain "functions that are banned (use bounded ones)" \
        "$(grep -nE '(^|[^a-z_A-Z])(strcpy|strcat|sprintf|vsprintf|atoi|atol|strtok|gets)\(' $sources)"
    complain "lines over 100 columns" "$(grep -nE '^.{101,}' $sources)"
    complain "tabs" "$(grep -nP '\t' $sources)"
    complain "dependencies run one way: delta <- learner <- agent, delta <- server" "$(
        grep -nE '#include [<"](learner|agent|server)/' $(find delta -name '*.[ch]')
        grep -nE '#include [<"](agent|server)/' $(find learner -name '*.[ch]')
        grep -nE '#include [<"](server)/' $(find agent -name '*.[ch]')
        grep -nE '#include [<"](learner|agent)/' $(find server-mock -name '*.[ch]')
    )"
    complain "only agent speaks libcurl" \
        "$(grep -nE '#include <curl/' $(find delta learner server-mock -name '*.[ch]'))"
    complain "no CUDA type leaves a .cu file: two headers are theirs, and C has neither" "$(
        grep -nE '#include [<"]cu(da_runtime|dnn|blas)' $(echo "$sources" | grep '\.[ch]$' |
            grep -v 'src/device/cuda_compat\.h$')
        grep -nE '#include "cuda_(compat|driver)\.h"' $(echo "$sources" | grep '\.[ch]$' |
            grep -v 'src/device/cuda_driver\.h$')
    )"
    complain "the delta folder has no sockets, threads or BLAS" \
        "$(grep -nE '#include <(sys/socket|pthread|cblas|netinet)' $(find delta -name '*.[ch]'))"
    complain "file names are unique in the tree (main.c aside)" \
        "$(echo "$sources" | sed 's|.*/||' | grep -v '^main\.[ch]$' | sort | uniq -d)"
    complain "files over 800 lines" "$(wc -l $sources | awk '$1 > 800 && $2 != "total"')"
    complain "headers without an include guard" \
        "$(grep -LE '^#ifndef [A-Z0-9_]+_H$' $(echo "$sources" | grep '\.h$'))"
    complain "a status value that is used twice" \
        "$(sed -n 's/^ *X([A-Z_]*, \([0-9]*\),.*/\1/p' delta/include/delta/status.h | sort | uniq -d)"
}
extra=$(find . -mindepth 1 -maxdepth 1 ! -name '.*' ! -name 'build*' | sed 's|^\./||' | sort |
    grep -vxE 'agent|learner|delta|server-mock|tests|CMakeLists.txt|README.md|CMakePresets.json|LICENSE|CHANGELOG.md|setup.sh|compile_commands.json')
complain "top-level entries that do not belong there" "$extra"

if command -v clang-format >/dev/null && clang-format --version | grep -q 'version 14'; then
    # shellcheck disable=SC2086
    complain "not formatted (clang-format -i)" \
        "$(clang-format --dry-run $sources 2>&1 | grep -oE '^[^:]+:[0-9]+' | sort -u | head -20)"
else
    echo "SKIP: clang-format 14 is not installed; formatting is not checked"
fi
exit $failed
