#!/bin/bash
# A counter is dumped, is gone, is restored, and counts on with the same pid. Run as root.
set -euo pipefail
cd "$(dirname "$0")/.."
fermata=$PWD/build/src/cli/fermata
say() { echo "== $*"; }
die() { echo "demo: $*" >&2; exit 1; }
[ -x "$fermata" ] || die "no $fermata: run make first"
[ "$(id -u)" -eq 0 ] || die "run it as root"
dir=$(mktemp -d /tmp/fermata-demo.XXXXXX)
pid=""
cleanup() { [ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true; rm -rf "$dir"; }
trap cleanup EXIT

running() { [ -e "/proc/$1/stat" ] && [ "$(sed 's/.*) //; s/ .*//' "/proc/$1/stat" 2>/dev/null)" != Z ]; }
last() { tail -n 1 "$dir/numbers" 2>/dev/null || true; }
wait_past() { # the counter gets beyond $1 within 10 s
  local end=$((SECONDS + 10)) now
  while now=$(last); [ "${now:--1}" -le "$1" ]; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.05
  done
}

cat > "$dir/counter.py" <<'P'
import itertools, os, sys, time
open(sys.argv[1] + ".pid", "w").write(str(os.getpid()))
with open(sys.argv[1], "a", buffering=1) as out:
    for number in itertools.count():
        out.write(f"{number}\n")
        time.sleep(0.2)
P
say "start a counter: a number every 0.2 s into $dir/numbers"
(cd "$dir" && for fd in /proc/self/fd/*; do n=${fd##*/}; [ "$n" -gt 2 ] && [ "$n" != 255 ] && eval "exec $n>&-"; done; exec setsid python3 "$dir/counter.py" "$dir/numbers") < /dev/null > /dev/null 2>&1 &
wait_past 4 || die "the counter does not count"
pid=$(cat "$dir/numbers.pid")
say "process $pid has counted to $(last)"

say "fermata dump process $pid --dir $dir --name counter --no-server"
"$fermata" dump process "$pid" --dir "$dir" --name counter --no-server || die "the dump failed"
wait 2>/dev/null || true
! running "$pid" || die "process $pid is still there"
before=$(last)
sleep 0.6
[ "$(last)" = "$before" ] || die "something still counts"
say "process $pid is gone; the last number is $before"

say "fermata restore process --path $dir/counter --no-server"
"$fermata" restore process --path "$dir/counter" --no-server < /dev/null &
wait_past $((before + 4)) || die "the counter does not count on"
running "$pid" || die "process $pid is not there"
tr '\0' ' ' < "/proc/$pid/cmdline" | grep -q counter.py || die "process $pid is not the counter"
[ "$(cat "$dir/numbers")" = "$(seq 0 "$(last)")" ] || [ "$(head -n $((before + 4)) "$dir/numbers")" = "$(seq 0 $((before + 3)))" ] ||
  die "numbers are missing or doubled"
say "process $pid counts on, from $before to $(last), with none missing and none doubled"
