#!/bin/bash
# timed.sh NAME COMMAND...: runs a tier of the tests, and says at the end which steps were slowest, how long
# the whole took, and what every test that failed said. The exit status is that of the command; it is 1 if tests were looked for and none
# was found.
#
# A step is a test that says its time (libtest's --report-time), or a line that begins with "ok", which
# then took the time since the line before.
set -uo pipefail
name=$1; shift
steps=$(mktemp) failures=$(mktemp)
trap 'rm -f "$steps" "$failures"' EXIT

note() { # reads the output, prints it, and writes the steps
    local line now last=${EPOCHREALTIME/[.,]/} micros said=0
    while IFS= read -r line || [ -n "$line" ]; do
        printf '%s\n' "$line"
        now=${EPOCHREALTIME/[.,]/}
        if [[ $line =~ ^test\ (.*)\ \.\.\.\ .*\<([0-9.]+)s\>$ ]]; then
            echo "${BASH_REMATCH[2]} ${BASH_REMATCH[1]}" >&3
        elif [[ $line =~ ^running\ ([0-9]+)\ tests?$ ]]; then
            echo "tests ${BASH_REMATCH[1]}" >&3
        elif [[ $line =~ ^thread\ .*\ panicked\ at\  ]]; then
            said=8
        elif [[ $line == ok* ]]; then
            micros=$((now - last))
            printf '%d.%03d %s\n' $((micros / 1000000)) $((micros / 1000 % 1000)) "$line" >&3
        fi
        # A test that failed says where and why; the lines of the stack are above.
        if [[ $said -gt 0 && -n $line && $line != "stack backtrace:" ]]; then
            printf '%s\n' "${line:0:1000}" >&4
            said=$((said - 1))
        else
            said=0
        fi
        last=$now
    done 3>>"$steps" 4>>"$failures"
}

SECONDS=0
"$@" </dev/null 2>&1 | note
status=${PIPESTATUS[0]} took=$SECONDS

if grep -q '^tests ' "$steps"; then
    tests=$(awk '/^tests / { n += $2 } END { print n }' "$steps")
    [ "$tests" != 0 ] || { echo "$name: no test has this name" >&2; exit 1; }
fi
slowest=$(grep -v '^tests ' "$steps" | LC_ALL=C sort -rn | head -n 10 | awk '{ printf "%9.1f s  ", $1; $1 = ""; print substr($0, 2, 90) }')
[ -z "$slowest" ] || printf 'The slowest of %s:\n%s\n' "$name" "$slowest"
[ ! -s "$failures" ] || [ "$status" = 0 ] || { echo "What failed in $name:"; cat "$failures"; }
result=passed
[ "$status" = 0 ] || result=FAILED
printf '%s: %s%s, %d min %02d s\n' "$name" "${tests:+$tests tests, }" "$result" $((took / 60)) $((took % 60))
exit "$status"
