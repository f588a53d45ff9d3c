#!/bin/sh
# all.sh OUT [SECONDS]: all that is to be seen on a machine with a GPU, at once, for somebody who has one for a quarter of an hour (720 s): the tests, then the
# figures. It needs no network; the programs come from `make`, or from build-gpu (bundle.sh) where they were brought along.
#
# In OUT: tests.txt, tests.md (times), bench.md (for docs/GPU.md), check.txt, machine.txt. Its status is that of the tests.
set -u
out=${1:?where the results go}
budget=${2:-720}
cd "$(dirname "$0")/../.."
begun=$(date +%s)
left() { echo $((budget - $(date +%s) + begun)); }
mkdir -p "$out"
if [ -d build-gpu ]; then
  export GPU_BUILD="$PWD/build-gpu" LD_LIBRARY_PATH="$PWD/build-gpu/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
fi
fermata="${GPU_BUILD:-$PWD/build}/src/cli/fermata"
{ nvidia-smi || echo "no nvidia-smi"; uname -a; nproc; free -g; df -h "${TMPDIR:-/tmp}"; } > "$out/machine.txt" 2>&1
timeout 60 "$fermata" check --full > "$out/check.txt" 2>&1
GPU_REPORT="$out/tests.md" timeout $((budget * 6 / 10)) tests/gpu/real.py > "$out/tests.txt" 2>&1
status=$?
cat "$out/tests.txt"
[ "$(left)" -gt 30 ] && timeout "$(left)" bench/gpu.py --markdown --budget $(($(left) / 2)) > "$out/bench.md" 2>&1
cat "$out/bench.md" 2>/dev/null
exit $status
