#!/usr/bin/env python3
"""fuzz.py BUILD SECONDS [TARGET…]: runs each fuzz target for so long from the corpus, which it leaves as it is. What was found is kept in
BUILD/found/TARGET; inputs that reach new code in BUILD/grown/TARGET, for the next time."""
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
OPTIONS = ["-timeout=10", "-rss_limit_mb=2500", "-malloc_limit_mb=1024", "-max_len=65536", "-use_value_profile=0", "-print_final_stats=1"]
SANITIZERS = {"ASAN_OPTIONS": "allocator_may_return_null=1:detect_leaks=1", "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"}


def main():
    build, seconds = os.path.abspath(sys.argv[1]), sys.argv[2]
    failed = []
    for target in sys.argv[3:] or sorted(os.listdir(os.path.join(HERE, "corpus"))):
        found, grown = (os.path.join(build, name, target) for name in ("found", "grown"))
        os.makedirs(found, exist_ok=True)
        os.makedirs(grown, exist_ok=True)
        before = set(os.listdir(found))
        status = subprocess.run([os.path.join(build, "tests", f"fuzz_{target}"), f"-max_total_time={seconds}", f"-artifact_prefix={found}/"] +
                                OPTIONS + [grown, os.path.join(HERE, "corpus", target)], stdin=subprocess.DEVNULL,
                                env=dict(os.environ, **SANITIZERS), check=False).returncode
        new = sorted(set(os.listdir(found)) - before)
        print(f"{'not ok' if status else 'ok'} fuzz_{target}: {', '.join(os.path.join(found, name) for name in new) or status}", flush=True)
        if status:
            failed.append(target)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
