#!/usr/bin/env python3
"""Takes applications through dump and restore and checks that they go on; arguments select tests by a part of their name.

--keep       keeps the working directories
--no-dump    leaves dump and restore out: proves the tests right
LIVE_CRIU=PATH uses another binary that takes criu's options."""
import ctypes
import glob
import importlib
import os
import shutil
import signal
import sys
import tempfile
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True

import app as common  # noqa: E402

PR_SET_CHILD_SUBREAPER = 36
counts = {"ok": 0, "not ok": 0, "skip": 0}


def report(word, name, why=""):
    counts[word] += 1
    print(f"{word} {name}{': ' + why if why else ''}", flush=True)


def over(signum, frame):
    raise common.Failure("the test's deadline is over")


def run(cls, name, mode, binary, keep):
    work = tempfile.mkdtemp(prefix="fermata-app-")
    os.chmod(work, 0o777)
    test = cls(work, mode)
    word, why = "ok", ""
    signal.alarm(cls.deadline)
    try:
        missing = [program for program in cls.programs if not shutil.which(program)]
        if missing or test.missing():
            raise common.Skip(f"{', '.join(missing)} is not installed" if missing else test.missing())
        test.start()
        if binary:
            common.through(test, binary)
        else:
            test.check(test.state())
    except common.Skip as skip:
        word, why = "skip", str(skip)
    except common.Failure as failure:
        word, why = "not ok", f"{failure}\n{test.errors()}".rstrip()
    except Exception:
        word, why = "not ok", f"{traceback.format_exc()}\n{test.errors()}".rstrip()
    finally:
        signal.alarm(0)
        try:
            common.clean_up()
        except common.Failure as failure:
            word, why = "not ok", f"{why}\n{failure}".strip()
        if keep:
            why = f"{why}\nkept: {work}".strip()
        else:
            shutil.rmtree(work, ignore_errors=True)
    report(word, name, why)


def main():
    flags = {word for word in sys.argv[1:] if word.startswith("--")}
    wanted = [word for word in sys.argv[1:] if word not in flags]
    if flags - {"--keep", "--no-dump"}:
        print(__doc__, file=sys.stderr)
        return 2
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        print("cannot become the reaper of restored trees", file=sys.stderr)
        return 2
    signal.signal(signal.SIGALRM, over)
    names = sorted(os.path.basename(path)[:-len(".py")] for path in glob.glob(os.path.join(HERE, "*.py")))
    binary = os.path.abspath(os.environ.get("LIVE_CRIU") or os.path.join(ROOT, "build/src/cli/fermata"))
    with tempfile.TemporaryDirectory(prefix="fermata-bin-") as bin_dir:
        link = os.path.join(bin_dir, "criu")
        os.symlink(binary, link)
        for name in names:
            if name in ("app", "run"):
                continue
            cls = importlib.import_module(name).Test
            for mode in cls.modes if "--no-dump" not in flags else ("no-dump",):
                label = f"apps_{name}_{mode}"
                if wanted and not any(word in label for word in wanted):
                    continue
                if os.geteuid() != 0:
                    report("skip", label, "needs root")
                else:
                    run(cls, label, mode, None if "--no-dump" in flags else link, "--keep" in flags)
    print(f"{counts['ok']} passed, {counts['not ok']} failed, {counts['skip']} skipped")
    return 1 if counts["not ok"] else 0


if __name__ == "__main__":
    sys.exit(main())
