#!/usr/bin/env python3
"""Runs every suite, one after the other; the last line counts the results of all. A suite is a program whose last line is
"N passed, N failed, N skipped"; one that ends without it counts as a failure. Arguments select suites by a part of their path."""
import codecs
import os
import re
import select
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
SUITES = (
    "run.py",
    "incremental/run.py",
    "cli/run.py",
    "cli/inspecting.py",
    "cli/completion.py",
    "cli/errors.py",
    "cli/hostile.py",
    "cli/mounts.py",
    "cli/namespaces.py",
    "daemon/run.py",
    "daemon/terminals.py",
    "daemon/recovery.py",
    "daemon/callers.py",
    "daemon/tls.py",
    "daemon/upkeep.py",
    "daemon/endurance.py",
    "cli/external.py",
    "cli/how.py",
    "cli/rpc.py",
    "cli/shmfile.py",
    "cli/archives.py",
    "store/run.py",
    "network/run.py",
    "network/namespaces.py",
    "runtimes/run.py",
    "fuzz/run.py",
    "fault/run.py",
    "fault/lazy.py",
    "fault/flood.py",
    "fault/memory.py",
    "gpu/run.py",
    "gpu/real.py",
    "apps/run.py",
)
TOTAL = re.compile(r"(\d+) passed, (\d+) failed, (\d+) skipped$")


def lines_of(suite):
    """Until the suite ends: a process that it left behind may hold its output open."""
    text, rest, ended = codecs.getincrementaldecoder("utf-8")("replace"), "", False
    while not ended:
        ended = suite.poll() is not None
        while select.select([suite.stdout], [], [], 0 if ended else 0.5)[0]:
            data = os.read(suite.stdout.fileno(), 65536)
            *lines, rest = (rest + text.decode(data)).split("\n")
            yield from (line + "\n" for line in lines)
            if not data:
                suite.wait()
                ended = True
                break
    if rest:
        yield rest + "\n"


def run(path):
    """Gives what the suite counted, and the lines that say what failed or was left out."""
    last, told = "", []
    with subprocess.Popen([sys.executable, path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as suite:
        for line in lines_of(suite):
            print(line, end="", flush=True)
            last = line.strip()
            if line.startswith(("not ok ", "skip ")):
                told.append(last)
    found = TOTAL.match(last)
    numbers = [int(number) for number in found.groups()] if found else [0, 1, 0]
    if suite.returncode and not numbers[1]:
        numbers[1] += 1
    if not found or suite.returncode < 0:
        told.append(f"not ok {os.path.relpath(path, HERE)}: ended with {suite.returncode}")
    return numbers, told


def main():
    sums, told = [0, 0, 0], []
    for suite in SUITES:
        path = os.path.join(HERE, suite)
        if not os.path.exists(path) or not all(word in suite for word in sys.argv[1:]):
            continue
        print(f"== tests/{suite}", flush=True)
        numbers, lines = run(path)
        sums = [a + b for a, b in zip(sums, numbers)]
        told += lines
    for line in told:
        print(line)
    print("{} passed, {} failed, {} skipped".format(*sums), flush=True)
    return 1 if sums[1] or not sum(sums) else 0


if __name__ == "__main__":
    sys.exit(main())
