#!/usr/bin/env python3
"""Dump into an archive and restore from it, of a process with 1 GiB that can be packed, beside lz4 and zstd -T0 of the same bytes (a plain
tar of the same checkpoint, in memory too). Needs root, lz4 and zstd.

--mib N       another size
--rounds N    how often (3); medians are told
--json        print one JSON object"""
import argparse
import ctypes
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FERMATA = os.path.join(ROOT, "build/src/cli/fermata")
PR_SET_CHILD_SUBREAPER = 36
DEADLINE = 120
# Records as programs have them: numbers that count, words, some noise.
TARGET = """
import os, struct, sys, time
mib = int(sys.argv[2])
part = bytearray()
for i in range(40000):
    part += struct.pack('<QQIf', i * 16, 0x7f0000000000 + i * 48, i % 100, i / 3) + b'name-%d of a record' % (i % 977) + os.urandom(6)
memory = bytearray(mib << 20)
for at in range(0, len(memory), len(part)):
    part[0:8] = at.to_bytes(8, 'little')
    memory[at:at + len(part)] = part[:len(memory) - at]
open(sys.argv[1], 'w').close()
while True:
    time.sleep(1)
"""
FLOORS = {"lz4": ["lz4", "-1", "-f", "-q"], "zstd": ["zstd", "-1", "-T0", "-f", "-q"]}
BACK = {"lz4": ["lz4", "-d", "-f", "-q"], "zstd": ["zstd", "-d", "-f", "-q"]}
OUTPUT = {"lz4": [], "zstd": ["-o"]}


def timed(command):
    start = time.monotonic()
    out = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=DEADLINE, check=True).stdout
    return time.monotonic() - start, out.decode()


def start(work, mib):
    ready = os.path.join(work, "ready")
    task = subprocess.Popen([sys.executable, "-S", "-E", "-c", TARGET, ready, str(mib)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL, start_new_session=True)
    task.returncode = 0  # reaped below
    while not os.path.exists(ready):
        time.sleep(0.01)
    os.unlink(ready)
    return task.pid


def end(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass


def measure(work, kind, mib):
    """Seconds of dump, restore and their floors, and how much smaller it got."""
    pid = start(work, mib)
    plain, packed, back = (os.path.join(work, name) for name in ("plain.tar", "packed", "back"))
    try:
        subprocess.run([FERMATA, "dump", "process", str(pid), "--dir", work, "--name", "plain", "--compression", "tar", "-R"],
                       stdout=subprocess.DEVNULL, check=True)
        floor, _ = timed(FLOORS[kind] + [plain] + OUTPUT[kind] + [packed])
        floor_back, _ = timed(BACK[kind] + [packed] + OUTPUT[kind] + [back])
        os.unlink(back)
        size = os.path.getsize(plain)
        os.unlink(plain)
        os.unlink(packed)
        dump, out = timed([FERMATA, "dump", "process", str(pid), "--dir", work, "--name", "own", "--compression", kind])
        end(pid)
        path = out.split()[-1]
        restore, _ = timed([FERMATA, "restore", "process", "--detach", "--path", path])
        ratio = size / os.path.getsize(path)
        os.unlink(path)
        return dump, floor, restore, floor_back, ratio
    finally:
        end(pid)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if os.geteuid() != 0 or ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        sys.exit("packed: needs root")
    rows = []
    for kind in FLOORS:
        if not shutil.which(kind):
            continue
        with tempfile.TemporaryDirectory(prefix="fermata-bench-", dir="/dev/shm") as work:
            found = [measure(work, kind, args.mib) for _ in range(args.rounds)]
        dump, floor, restore, floor_back, ratio = (statistics.median(column) for column in zip(*found))
        rows.append({"kind": kind, "dump_ms": dump * 1e3, "floor_ms": floor * 1e3, "times_floor": dump / floor, "restore_ms": restore * 1e3,
                     "restore_floor_ms": floor_back * 1e3, "restore_times_floor": restore / floor_back, "ratio": ratio})
    if args.json:
        print(json.dumps({"mib": args.mib, "rows": rows}, indent=1))
        return
    print(f"{args.mib} MiB{'':8}{'dump':>10}{'program':>10}{'times':>7}{'restore':>10}{'program':>10}{'times':>7}{'smaller':>9}")
    for r in rows:
        print(f"{r['kind']:<16}{r['dump_ms']:>7.0f} ms{r['floor_ms']:>7.0f} ms{r['times_floor']:>7.2f}{r['restore_ms']:>7.0f} ms"
              f"{r['restore_floor_ms']:>7.0f} ms{r['restore_times_floor']:>7.2f}{r['ratio']:>9.1f}")


main()
