#!/bin/sh
# Asks bash itself what the completion scripts complete.  usage: completion.sh BUILD-DIR
command -v bash >/dev/null || {
    echo "SKIP: bash is not installed"
    exit 77
}
exec bash -c '
cd "$1" || exit 2
failed=0
for script in "$1"/completion/frostline*; do
    bash -n "$script" || failed=1
    source "$script" || failed=1
done
PATH=$1/bin:$PATH
# expect FUNCTION WANTED WORDS...: the last word is the one being typed
expect() {
    local function=$1 wanted=$2
    shift 2
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
    "$function" 2>/dev/null
    local got=" ${COMPREPLY[*]} "
    [[ $got == *" $wanted "* ]] && return
    echo "\"$*\" gives \"$got\", without \"$wanted\""
    failed=1
}
expect _frostline_delta inspect frostline-delta ins
expect _frostline_delta --base frostline-delta inspect --b
expect _frostline_delta npy frostline-delta cat x --format n
expect _frostline_delta CMakeCache.txt frostline-delta inspect CMakeC
expect _frostline_learn pretrain frostline-learn pre
expect _frostline_learn experiment frostline-learn exp
expect _frostline_learn --pictures frostline-learn experiment --pic
expect _frostline_learn markdown frostline-learn experiment p.json --format m
expect _frostline_agent --dir frostline-agent run --d
expect _frostline_server publish frostline-server pub
expect _frostline delta frostline del
expect _frostline squash frostline delta squ
expect _frostline --json frostline delta squash --j
expect _frostline ref frostline learn learn --device r
exit $failed' completion "$1"
