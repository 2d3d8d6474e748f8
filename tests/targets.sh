#!/bin/bash
# targets.sh NAME: prints the options by which cargo builds and runs the test programs that have a test, or
# a file of tests, with NAME in its name; what has none is not built. NAME may be a path (file::test).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
name=${1%::}
name=${name##*::}
case $name in "" | *[!A-Za-z0-9_]*) echo "'$1' is no name of a test: T=eviction, T=a_name or T=file::a_name" >&2; exit 2 ;; esac

# Prose, strings and functions that are no tests do not count.
mark='#\[(tokio::)?test'
has() { # DIRECTORY...: a file or a directory with tests, or a test
    [ -n "$(find "$@" \( -name "$name.rs" -o -type d -name "$name" \) -exec grep -rqE "$mark" {} \; -print -quit)" ] ||
        grep -rhE -A 4 --include='*.rs' "$mark" "$@" | grep -E "fn +[a-z0-9_]*$name" >/dev/null
}

targets=()
if has src mount-helper/src bench/src; then targets+=(--lib --bins); fi
for main in tests/*/main.rs; do
    directory=${main%/main.rs}
    if has "$directory"; then targets+=(--test "${directory#tests/}"); fi
done
[ ${#targets[@]} -gt 0 ] || { echo "no test, and no file of tests, has '$name' in its name" >&2; exit 1; }
echo "${targets[@]}"
