#!/usr/bin/env python3
"""Runs the corpus of each fuzz target through its runner, which is built with the sanitizers. Arguments select targets."""
import glob
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
CORPUS = os.path.join(HERE, "corpus")
RUNNERS = os.path.join(ROOT, "build-asan/tests")
DEADLINE = 120
NO_SANDBOX = 77
counts = {"ok": 0, "not ok": 0, "skip": 0}


def report(word, name, why=""):
    counts[word] += 1
    print(f"{word} {name}{': ' + why if why else ''}", flush=True)


def run(target, group, files):
    """Runs files one after the other; the first that was not told of is the one that failed, and the rest goes on without it."""
    name = f"fuzz_{target} {group}"
    options = "allocator_may_return_null=1:max_allocation_size_mb=1024:hard_rss_limit_mb=3000:detect_leaks=1:exitcode=99"
    environment = dict(os.environ, ASAN_OPTIONS=options, UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1")
    failed = []
    while files:
        try:
            done = subprocess.run([os.path.join(RUNNERS, f"fuzz_{target}")], input="\n".join(files), capture_output=True, text=True,
                                  errors="replace", timeout=DEADLINE, env=environment, cwd=ROOT, check=False)
            status, said, errors = done.returncode, done.stdout, done.stderr
        except subprocess.TimeoutExpired as late:
            status, said, errors = "deadline", (late.stdout or b"").decode(errors="replace"), ""
        if status == NO_SANDBOX:
            report("skip", name, errors.strip())
            return
        if not status:
            break
        through = said.count("\nok ") + said.startswith("ok ")
        if through < len(files):
            failed.append(f"{os.path.relpath(files[through], HERE)} ({status})")
        else:
            failed.append(f"something leaks ({status})")
        print(errors[-6000:])
        files = files[through + 1:]
    report("not ok" if failed else "ok", name, ", ".join(failed))


def main():
    targets = sorted(os.path.basename(path) for path in glob.glob(f"{CORPUS}/*"))
    for target in targets:
        if sys.argv[1:] and not any(word in f"fuzz_{target}" for word in sys.argv[1:]):
            continue
        if not os.path.exists(os.path.join(RUNNERS, f"fuzz_{target}")):
            report("not ok", f"fuzz_{target}", "the runner is not built: ninja -C build-asan fuzz-tests")
            continue
        files = sorted(path for path in glob.glob(f"{CORPUS}/{target}/*") if os.path.isfile(path))
        found = [path for path in files if os.path.basename(path).startswith("found-")]
        run(target, "seeds", [path for path in files if path not in found])
        if found:
            run(target, "found", found)
    print("{ok} passed, {not ok} failed, {skip} skipped".format(**counts), flush=True)
    return 1 if counts["not ok"] or not sum(counts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
