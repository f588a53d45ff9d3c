#!/usr/bin/env python3
"""Runs the unit and live tests under other kernels, in guests of qemu without KVM, so that it works everywhere and takes its time.

    tests/kernels/run.py [--modes=stop,leave,lazy] [--exchange] [--jobs=N] KERNEL... [-- WORD...]

A KERNEL is a package (.deb) of one, a folder to which its packages were unpacked (boot/vmlinuz-*, lib/modules), or the beginning of a version, 6.1 say, for
the newest linux-image of it that apt-get finds. The words behind -- select tests by a part of their names. --exchange runs exchange.py too: checkpoints that go to
and come from CRIU. All that a guest says is kept in build/kernels/RELEASE.log; with several kernels, N guests at a time (1)."""
import concurrent.futures
import glob
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import machine  # noqa: E402

LINE = re.compile(r"(ok|not ok|skip) (.*)")
KINDS = {"ok": "passed", "not ok": "failed", "skip": "skipped"}
PATIENCE = 6  # everything takes so many times longer than here
NEEDED = {"qemu-system-x86_64": "qemu-system-x86", "mke2fs": "e2fsprogs", "zstd": "zstd", "/bin/busybox": "busybox-static"}


def fetch(version):
    """The newest package of that version, unpacked. Gives the folder."""
    names = machine.run(["apt-cache", "search", "--names-only", rf"^linux-image-{re.escape(version)}[.-][0-9].*-(amd64|generic)$"]).splitlines()
    names = [name.split()[0] for name in names if not re.search(r"-(cloud|rt)-|dbg|unsigned", name)]
    if not names:
        sys.exit(f"{version}: apt-cache finds no such linux-image; give a package or a folder")
    name = sorted(names, key=lambda name: [int(word) for word in re.findall(r"\d+", name)])[-1]
    to = os.path.join(machine.PLACE, "packages", name)
    if not glob.glob(os.path.join(to, "boot/vmlinuz-*")):
        os.makedirs(to, exist_ok=True)
        # What stands beside the image in a package of its own, as Ubuntu has the modules.
        for package in (name, name.replace("-image-", "-modules-")):
            subprocess.run(["apt-get", "download", package], cwd=to, check=package == name, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for package in glob.glob(os.path.join(to, "*.deb")):
            subprocess.run(["dpkg", "-x", package, to], check=True)
    return to


def folder_of(kernel):
    if os.path.isdir(kernel):
        return kernel
    if not os.path.isfile(kernel):
        return fetch(kernel)
    to = os.path.join(machine.PLACE, "packages", os.path.basename(kernel).partition("_")[0])
    subprocess.run(["dpkg", "-x", kernel, to], check=True)
    return to


def job_of(modes, exchange, words):
    quoted = " ".join(f"'{word}'" for word in words)
    lines = [f"export LIVE_PATIENCE={PATIENCE}", "uname -r", "build/src/cli/fermata check", f"python3 tests/run.py --modes={modes} {quoted}"]
    if exchange:
        lines.append("python3 tests/kernels/exchange.py")
    return "\n".join(lines) + "\n"


def run_kernel(kernel, root, job):
    """Gives what was counted, and whether the guest came to its end."""
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    with open(os.path.join(machine.PLACE, f"{kernel.release}.log"), "w") as log:
        def on_line(line):
            print(line, file=log, flush=True)
            found = LINE.match(line)
            if found:
                counts[KINDS[found.group(1)]] += 1
                print(f"{found.group(1)} {kernel.release} {found.group(2)}", flush=True)
            elif line.startswith("Error: "):
                print("    " + line, flush=True)
        status = machine.boot(kernel, root, job, on_line)
    if status is None:
        counts["failed"] += 1
        print(f"not ok {kernel.release}: the guest came to no end; see {log.name}", flush=True)
    return counts


def parse(arguments):
    modes, exchange, jobs, kernels, words = "stop,leave,lazy", False, 1, [], []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, words = arguments[:at], arguments[at + 1:]
    for word in arguments:
        if word.startswith("--modes="):
            modes = word.partition("=")[2]
        elif word.startswith("--jobs="):
            jobs = int(word.partition("=")[2])
        elif word == "--exchange":
            exchange = True
        elif word.startswith("-"):
            sys.exit(__doc__)
        else:
            kernels.append(word)
    if not kernels:
        sys.exit(__doc__)
    return modes, exchange, jobs, kernels, words


def main():
    modes, exchange, jobs, names, words = parse(sys.argv[1:])
    missing = [package for program, package in NEEDED.items() if not machine.shutil.which(program)]
    if missing:
        sys.exit(f"packages are missing: {' '.join(missing)}; scripts/install-deps.sh kernels installs them")
    kernels = [machine.Kernel(folder_of(name)) for name in names]
    root = machine.make_root()
    job = job_of(modes, exchange, words)
    sums = {"passed": 0, "failed": 0, "skipped": 0}
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for counts in pool.map(lambda kernel: run_kernel(kernel, root, job), kernels):
            for kind, number in counts.items():
                sums[kind] += number
    print("{passed} passed, {failed} failed, {skipped} skipped".format(**sums), flush=True)
    return 1 if sums["failed"] or not sum(sums.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
