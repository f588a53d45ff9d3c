#!/usr/bin/env python3
"""Tests of the command line: help, usage, configuration files, what is installed, check, check process.

Arguments select tests by a part of their names. Runs as root."""
import json
import os
import re
import shutil
import subprocess
import sys

from world import attach_strace, BINARY, descendants, DEADLINE, expect, fermata, main, make_32, NOBODY, read, ROOT, run, Skip, snapshot, state_of, Target, tests_of
from support import PR_SET_CHILD_SUBREAPER


# ---- help and usage ----

VERBS = ["dump process", "dump job", "restore process", "restore job", "run process", "exec", "manage process", "freeze job", "unfreeze process", "attach",
         "job list", "job kill", "job checkpoint list", "ps", "query process", "daemon start", "config show", "verify", "diff", "check", "check process", "inspect", "features", "completion", "manual", "version", "help"]
ACTIONS = ["dump", "pre-dump", "restore", "check", "page-server", "lazy-pages", "service", "swrk", "dedup", "cpuinfo"]


def test_help(w):
    for result in (fermata("--help"), fermata("help")):
        for verb in VERBS:
            expect(f"\n  {verb}" in result.good().out, f"no {verb} in {result}")
    for verb in VERBS:
        for result in (fermata(*verb.split(), "--help"), fermata("help", *verb.split())):
            expect(result.good().out.startswith(f"Usage: fermata {verb}"), result)
            expect("--help" in result.out, result)
    for action in ACTIONS:
        expect(f"\n  {action}" in w.criu("--help").good().out, f"no {action}")
        expect(w.criu(action, "-h").good().out.startswith(f"Usage: criu {action}"), action)


# criu(8): what its manual page has, by action. "=": with an argument, "=?": with one or without.
CRIU_COMMON = ["-v", "-v4", "-vvv", "--verbosity=2", "--verbosity", "--config=", "--no-default-config", "--pidfile=", "-o=", "--log-file=", "--display-stats", "-D=",
               "--images-dir=", "--stream", "--prev-images-dir=", "-W=", "--work-dir=", "-L=", "--libdir=", "--action-script="]
CRIU_BOTH = ["--tcp-established", "--tcp-close", "-l", "--file-locks", "--auto-dedup", "-j", "--shell-job", "--cpu-cap=?", "--lazy-pages", "--file-validation=", "--network-lock=",
             "-s", "--leave-stopped", "--external=", "--manage-cgroups=?", "--cgroup-root=", "--cgroup-props=", "--cgroup-props-file=", "--cgroup-dump-controller=", "--cgroup-yard=",
             "--enable-fs=", "-x", "--ext-unix-sk", "--link-remap", "--evasive-devices", "--force-irmap", "--irmap-scan-path=", "-r=", "--root=", "--enable-external-sharing",
             "--enable-external-masters", "-M=", "--ext-mount-map=", "--skip-mnt=", "--mntns-compat-mode", "--allow-uprobes", "--unprivileged", "--timeout=9", "--log-pid"]
CRIU_NETWORK = ["--address=", "--port=1", "--ps-socket=1", "--tls", "--tls-cacert=", "--tls-cacrl=", "--tls-cert=", "--tls-key=", "--tls-no-cn-verify", "--status-fd=1"]
CRIU_DUMPS = ["--track-mem", "--pre-dump-mode=", "-t=1", "--tree=1", "-R", "--leave-running", "--freeze-cgroup=", "--skip-in-flight", "--page-server", "--ghost-limit=1M",
              "--ghost-fiemap", "--empty-ns="]
CRIU_OPTIONS = {
    "dump": CRIU_COMMON + CRIU_BOTH + CRIU_NETWORK + CRIU_DUMPS,
    "pre-dump": CRIU_COMMON + CRIU_DUMPS + CRIU_NETWORK,
    "restore": CRIU_COMMON + CRIU_BOTH + CRIU_NETWORK + ["--inherit-fd=fd[0]:x", "-d", "--restore-detached", "-S", "--restore-sibling", "-J=", "--join-ns=", "--veth-pair=", "--lsm-profile=",
                                                         "--lsm-mount-context=", "--weak-sysctls", "--skip-file-rwx-check", "--exec-cmd", "--empty-ns=", "--close=5"],
    "check": CRIU_COMMON + ["--extra", "--experimental", "--all", "--feature=", "--unprivileged", "--deprecated"],
    "page-server": CRIU_COMMON + CRIU_NETWORK + ["-d", "--daemon", "--auto-dedup"],
    "lazy-pages": CRIU_COMMON + CRIU_NETWORK + ["-d", "--daemon"],
    "service": CRIU_COMMON + ["-d", "--daemon", "--address=", "--pidfile="],
    "swrk": [], "dedup": CRIU_COMMON, "cpuinfo": CRIU_COMMON + ["--cpu-cap=?"],
}


def test_criu_options(w):
    """Each option that criu has is known, and its help says where it does nothing or is not there."""
    page = "".join(w.criu(action, "--help").good().out for action in CRIU_OPTIONS).replace("[no-]", "")
    for action, options in CRIU_OPTIONS.items():
        words = []
        for option in options:
            name, _, value = option.partition("=")
            plain = "-v" if name.startswith("-v") else name
            expect(re.search(rf"(^|[\s,]){re.escape(plain)}\b", page), f"no criu --help has {name}")
            if plain == "-v" or name == "--verbosity":
                words += [option]
            elif value == "?":
                words += [name, f"{name}=x"]
            else:
                words += [name, value or "x"] if "=" in option else [name]
        # All are known: the one that is not is the first that is complained about.
        w.criu(action, *words, "--no-such-option").error("there is no option --no-such-option")
        w.criu(action, *(f"--no-{word[2:]}" for word in words if word in ("--leave-running", "--tcp-established", "--shell-job")), "--no-such-option").error("--no-such-option")
    idle = re.findall(r'OPTION_IDLE\("([^"]+)".*?\),\n', read(os.path.join(ROOT, "src/cli/criu.c")), re.S)
    expect(len(idle) > 5, idle)
    for name in idle:
        expect(re.search(rf"--{name}\b[^-]*?(\n[^-]*?)*changes nothing", page), f"--{name} does nothing, and its help does not say so")


def test_generated(w):
    for page in ("fermata", "criu"):
        manual = fermata("manual", page).good().out
        expect(manual.count(".SH ") >= 4, f"manual {page}: {manual[:100]}")
        if shutil.which("groff"):
            task = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z"], input=manual.encode(), stderr=subprocess.PIPE)
            expect(not task.stderr, f"groff on {page}: {task.stderr.decode()[:200]}")
    script = fermata("completion", "bash").good().out
    probe = script + "\nCOMP_WORDS=(fermata inspect --j) COMP_CWORD=2\n_fermata\necho \"${COMPREPLY[@]}\"\n"
    task = subprocess.run(["bash", "-c", probe], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    expect(task.stdout.decode().split() == ["--json"] and not task.stderr, f"completion: {task.stdout} {task.stderr}")


def test_version(w):
    expect(re.match(r"fermata \d+\.\d+", fermata("--version").good().out), "fermata --version")
    expect(re.match(r"Version: \d+\.\d+", w.criu("--version").good().out), "criu --version")


def test_usage(w):
    for arguments, words in (
            ((), "needs a command"), (("bogus",), "no command bogus"), (("dump",), "dump"), (("dump", "process"), "needs PID"),
            (("dump", "process", "1", "--bogus"), "--bogus"), (("dump", "process", "1", "--leave"), "several"),
            (("dump", "process", "1", "2"), "2"), (("inspect",), "CHECKPOINT"), (("inspect", "/", "--leave-running"), "--leave-running"),
            (("check", "process"), "PID"), (("restore", "process"), "--path")):
        fermata(*arguments).error(words, status=2)
    for arguments, words in (((), "needs a command"), (("bogus",), "bogus"), (("dump",), "--tree"), (("dump", "-t"), "tree"),
                             (("dump", "-t", "x"), "x"), (("dump", "--bogus"), "--bogus"), (("page-server",), "not there yet"),
                             (("dump", "-t", "1", "--page-server"), "not there yet")):
        w.criu(*arguments).error(words)


def test_features(w):
    out = fermata("features").good().out
    document, table = json.loads(fermata("features", "--json").good().out), fermata("features", "--markdown").good().out
    expect(len(document["kinds"]) > 5 and len(document["state"]) > 5, document)
    for row in document["kinds"] + document["state"]:
        expect(row["name"] in out and row["summary"] in out and f"| {row['name']} | {row['summary']} |\n" in table, row)
    for row in document["refused"]:
        expect(row["name"] in out and row["name"] in table and (row["remedy"] or "") in table, row)
    expect(all(name.split(" ", 1)[-1] in table for name in document["refused_kinds"]), document["refused_kinds"])


def test_documentation(w):
    """What is made from the code is as the code is; every refusal has its row."""
    result = run(os.path.join(ROOT, "scripts/docs.py"), ["--check"], env={"CLI_FERMATA": BINARY})
    expect(result.status == 0, result)


def test_tour(w):
    """The README's tour, as it is pasted."""
    if os.environ.get("CLI_FERMATA"):
        raise Skip("needs the build in this directory")
    tour, blocks = w.work + "/tour", re.findall(r"```sh\n(.*?)```", read(os.path.join(ROOT, "README.md")).partition("## A tour")[2], re.S)
    script = "set -e\nmake() { command make -o all \"$@\"; }\n" + "echo ---\n".join(blocks).replace("/tmp/tour", tour)
    # Who adopts what was restored reaps it, as init does.
    adopting = [sys.executable, "-c", f"import ctypes, os, sys; ctypes.CDLL(None).prctl({PR_SET_CHILD_SUBREAPER}, 1, 0, 0, 0); "
                "os.execvp(sys.argv[1], sys.argv[1:])"]
    out = run("bash", ["-c", script], before=adopting, cwd=ROOT, env={"MAKEFLAGS": "", "DESTDIR": ""}, deadline=6 * DEADLINE).good().out
    expect(len(blocks) == 3 and "can be saved" in out and f"Dumped to {tour}/one" in out and "Restored successfully" in out, out)
    before, after = re.search(rf"Dumped to {tour}/one\n(\d+)\n", out), re.search(r"PID: \d+\n(\d+)\n", out)
    expect(before and after, out)
    numbers = read(tour + "/log").splitlines()[1:]
    expect(numbers == [str(number) for number in range(len(numbers))] and len(numbers) > int(before[1]) + 2, (numbers, out))


def test_install(w):
    """What `make install` installs is there, and a program builds and runs with it, with the shared library and the static one."""
    if os.environ.get("CLI_FERMATA") or not shutil.which("pkg-config"):
        raise Skip("needs the build in this directory, and pkg-config")
    dest, prefix = w.make_dir("dest"), "/opt/fermata"
    for target in ("install-criu", "install"):
        run("make", ["-C", ROOT, "-o", "all", target, f"DESTDIR={dest}", f"PREFIX={prefix}"], env={"MAKEFLAGS": ""}).good()
    root = dest + prefix
    for name in ("bin/fermata", "bin/criu", "share/man/man1/fermata.1", "share/man/man1/criu.1", "share/man/man1/fermata-dump-job.1", "include/fermata/fermata.h",
                 "share/bash-completion/completions/fermata"):
        expect(os.path.getsize(os.path.join(root, name)) > 100, name)
    expect("dump process" in run(os.path.join(root, "bin/fermata"), ["--help"]).good().out, "fermata")
    expect("dump" in run(os.path.join(root, "bin/criu"), ["--help"]).good().out, "criu")
    configured = {"PKG_CONFIG_PATH": root + "/lib/pkgconfig", "PKG_CONFIG_SYSROOT_DIR": dest}
    flags = run("pkg-config", ["--cflags", "--libs", "fermata"], env=configured).good().out.split()
    whole = run("pkg-config", ["--static", "--cflags", "--libs", "fermata"], env=configured).good().out.split()
    # Libraries that are not of the sysroot stand where the compiler looks anyway.
    for kind, words in (("shared", flags), ("static", ["-l:libfermata.a" if word == "-lfermata" else word for word in whole])):
        program, work = os.path.join(w.work, kind), w.make_dir(kind + "-work")
        run("cc", ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror", "-D_GNU_SOURCE", "-o", program, os.path.join(ROOT, "tests/cli/library.c")] + words).good()
        result = run(program, [work], env={"LD_LIBRARY_PATH": root + "/lib"}).good()
        expect(result.out == "ok\n" and not result.err, result)
    for name, command in (("libfermata.so", ["nm", "-D", "--defined-only"]), ("libfermata.a", ["nm", "-g", "--defined-only"])):
        symbols = [line.split()[-1] for line in run(command[0], command[1:] + [os.path.join(root, "lib", name)]).good().out.splitlines()
                   if len(line.split()) == 3]
        expect(len(symbols) >= 5 and all(symbol.startswith("fermata_") for symbol in symbols), f"{name}: {symbols}")


def test_config(w):
    target = Target(w.work, session=False)
    good, bad, images = os.path.join(w.work, "good"), os.path.join(w.work, "bad"), w.make_dir()
    with open(good, "w") as file:
        file.write(f"# a comment\nshell-job\nleave-running # stays\nimages-dir = \"{images}\"\n")
    with open(bad, "w") as file:
        file.write("shell-job\nno-such-thing\n")
    plain = ["dump", "-t", target.pid, "--no-default-config"]
    w.criu(*plain, "-D", images).error("--shell-job")
    w.criu(*plain, "--config", bad).error(f"{bad}, line 2", "no-such-thing")
    w.criu(*plain, "--config", os.path.join(w.work, "none")).error("none", "configuration file")
    w.criu(*plain, env={"CRIU_CONFIG_FILE": bad}).error(f"{bad}, line 2")
    target.unharmed()
    expect(not os.listdir(images), os.listdir(images))
    w.criu(*plain, "--config", good).good()
    target.unharmed()
    fermata("inspect", images).good()
    home = w.make_dir("home")
    os.makedirs(os.path.join(home, ".criu"))
    shutil.copy(good, os.path.join(home, ".criu/default.conf"))
    shutil.rmtree(images)
    os.mkdir(images)
    w.criu("dump", "-t", target.pid, env={"HOME": home}).good()
    target.unharmed()
    fermata("inspect", images).good()


# ---- check ----

def test_check(w):
    result = fermata("check", "--dir", w.work)
    expect(result.status == 0 and "can dump and restore" in result.out.splitlines()[-1], result)
    features = json.loads(fermata("check", "--json").out)["features"]
    names = fermata("check", "--feature", "list").good().out
    expect(len(features) == len(names.splitlines()) > 20, names)
    expect({f["area"] for f in features} == {"kernel", "privileges", "memory", "network", "storage", "GPU"}, features)
    expect(sorted(w.criu("check", "--feature", "list").good().out.split()) == sorted(f["name"] for f in features), "criu's list is another")
    runtimes = json.loads(fermata("check", "--json").out)["runtimes"]
    useful = all(f["works"] for f in features) and all(r.get("works", True) for r in runtimes)
    expect(fermata("check", "--strict", "--full").status == (not useful), "--strict")
    for feature in features:
        expect(feature["works"] or "; needs " in feature["why"], feature)
        for result in (fermata("check", "--feature", feature["name"]), w.criu("check", "--feature", feature["name"])):
            expect((result.status == 0) == feature["works"], result)
        expect(not feature["required"] or feature["works"], feature)
    expect(w.criu("check").good().out == "Looks good.\n", "criu check")
    result = w.criu("check", "--all")
    expect(result.out.startswith("Looks good") and (result.status == 0) == all(f["works"] for f in features), result)
    fermata("check", "--feature", "bogus").error("bogus", "--feature list")
    w.criu("check", "--feature", "bogus").error("bogus", "--feature list")
    expect(os.listdir(w.work) == ["criu"], os.listdir(w.work))


def test_check_runtimes(w):
    """Which are there, of which version, and whether their criu is ours."""
    folder, elsewhere = w.make_dir("bin"), w.make_dir("elsewhere")

    def program(path, script):
        with open(path, "w") as file:
            file.write("#!/bin/sh\n" + script)
        os.chmod(path, 0o755)

    def found(first, *more):
        env = {"PATH": ":".join([first, *more, "/usr/bin:/bin"])}
        result = fermata("check", "--dir", w.work, "--json", env=env)
        rows = {row["name"]: row for row in json.loads(result.out)["runtimes"]}
        area = fermata("check", "--dir", w.work, env=env).out.partition("\nruntimes\n")[2].splitlines()
        expect(len(rows) == 8 and [line.split()[1] for line in area[:8]] == list(rows), area)
        return rows, {line.split()[1]: line for line in area[:8]}

    for name, said in (("runc", "echo runc version 1.2.3"), ("podman", "echo podman version 5.4.0"), ("crun", "echo crun version 1.14; echo +SYSTEMD"),
                       ("crio", "sleep 100"), ("slurmd", "echo slurm 24.05.1"), ("kubelet", "echo Kubernetes v1.32.0; exit 1")):
        program(os.path.join(folder, name), said)
    program(os.path.join(elsewhere, "criu"), "echo another")
    rows, lines = found(folder, elsewhere)
    expect(rows["runc"]["version"] == "1.2.3" and rows["runc"]["path"] == folder + "/runc" and not rows["runc"]["works"], rows)
    expect(elsewhere + "/criu, another program; needs make install-criu" in rows["runc"]["why"] and lines["runc"].startswith("  missing  runc"), rows)
    expect(rows["crun"]["version"] == "1.14" and "without CRIU" in rows["crun"]["why"] and rows["CRI-O"]["version"] == "of an unknown version", rows)
    expect(rows["slurm"]["version"] == "24.05.1" and rows["slurm"]["works"] and rows["kubelet"]["version"] == "1.32.0" and rows["kubelet"]["works"], rows)
    expect(lines["slurm"].startswith("  ok       slurm"), lines)
    for name, row in rows.items():
        expect(row["installed"] or lines[name].split()[0] == "-", lines)
    os.symlink(BINARY, folder + "/criu")
    rows, lines = found(folder, elsewhere)
    expect(rows["runc"]["works"] and rows["podman"]["works"] and "finds our criu, " + folder + "/criu" in lines["runc"], rows)
    os.unlink(folder + "/criu")
    rows, lines = found(folder) if not any(os.path.exists(path + "/criu") for path in ("/usr/bin", "/bin")) else (None, None)
    expect(rows is None or "there is no criu in its PATH; needs make install-criu" in rows["podman"]["why"], rows)


def test_check_lacking(w):
    if not shutil.which("setpriv"):
        raise Skip("needs setpriv")
    result = fermata("check", before=NOBODY)
    expect(result.status == 2 and "MISSING  capabilities" in result.out and "can't" in result.out.splitlines()[-1], result)
    for line in result.out.splitlines()[:-1]:
        expect(not line.startswith(" ") or line.startswith(("  ok ", "  - ")) or "; needs " in line, line)
    result = w.criu("check", before=NOBODY)
    expect(result.status == 1 and result.out == "Does not look good.\n" and "capabilities" in result.err, result)
    result = fermata("check", before=["setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"])
    expect(result.status == 2 and "CAP_SYS_PTRACE" in result.out, result)
    # A directory that no checkpoint can be made in.
    result = fermata("check", "--dir", "/proc")
    expect(result.status == 2 and "MISSING  tmpfile" in result.out and "/proc" in result.out, result)


# ---- check process ----

OBSTACLES = """
held = open(%r, "w")
fcntl.flock(held, fcntl.LOCK_EX)
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 11)
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
client = socket.create_connection(listener.getsockname())
server, _ = listener.accept()
os.mkdir("gone")
gone = os.open("gone", os.O_RDONLY)
os.rmdir("gone")
if not os.fork():
    inner = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    inner.bind(("lo", 0x88b7))
    inner.setsockopt(263, 18, os.getpid() & 0xffff | 6 << 16)
    while True:
        time.sleep(1)
time.sleep(0.2)
"""


def test_process_good(w):
    target = Target(w.work, "if not os.fork():\n    while True: time.sleep(1)\nthreading.Thread(target=time.sleep, args=(1000,)).start()")
    before = snapshot(w.work)
    for _ in range(3):
        expect(fermata("check", "process", target.pid).good().out == f"process {target.pid} can be saved\n", "check process")
        target.unharmed()
    document = json.loads(fermata("check", "process", "--json", target.pid).good().out)
    expect(document == {"pid": target.pid, "can_be_saved": True, "obstacles": []}, document)
    expect(snapshot(w.work) == before, "check process has written something")


def test_process_obstacles(w):
    target = Target(w.work, OBSTACLES % os.path.join(w.work, "locked"))
    child = descendants(target.pid)[0]
    before = snapshot(w.work)
    result = fermata("check", "process", target.pid)
    expect(result.status == 1 and not result.err, result)
    lines = result.out.splitlines()
    for who, what, remedy in ((target.pid, "locked) holds a file lock", "--file-locks"), (target.pid, "is a netlink socket", "close it"),
                              (target.pid, "is a TCP connection", "--tcp-established"),
                              (child, "is a packet socket", "close it")):
        found = [line for line in lines if line.startswith(f"process {who} (") and what in line and remedy in line]
        expect(found, f"no line of {who} {what} in {lines}")
    expect(len(lines) == len(set(lines)) == 6, lines)  # both ends of the connection, the lock of both
    document = json.loads(fermata("check", "process", "--json", target.pid).out)
    expect(document["obstacles"] == lines and not document["can_be_saved"], document)
    target.unharmed()
    # A dump stops at the first of them and does no harm either.
    images = w.make_dir()
    result = w.criu("dump", "-t", target.pid, "-D", images).error(f"cannot dump process {target.pid}")
    expect(any(line in result.err for line in lines), result)
    target.unharmed()
    os.rmdir(images)
    expect(snapshot(w.work) == before, "something was written")


def test_process_writes_nothing(w):
    if not shutil.which("strace"):
        raise Skip("needs strace")
    target = Target(w.work, "deleted = open('deleted', 'w')\ndeleted.write('x')\ndeleted.flush()\nos.link('deleted', 'other')\n"
                            "os.unlink('deleted')\nshared = mmap.mmap(-1, 1 << 20)\nshared[0] = 1\nr, w = os.pipe()\nos.write(w, b'abc')")
    trace = os.path.join(w.work, "trace")
    before = snapshot(w.work)
    fermata("check", "process", "--link-remap", target.pid, before=["strace", "-f", "-o", trace]).good()
    for line in read(trace).splitlines():
        expect(not re.match(r"\d+ +(link|linkat|mkdir|mkdirat|rename\w*|symlink\w*|unlink\w*|ftruncate|truncate|creat)\(", line), line)
        expect(not re.search(r"open.*(O_CREAT|O_TMPFILE)", line), line)
    os.unlink(trace)
    expect(snapshot(w.work) == before, "check process has written something")
    target.unharmed()


def test_process_session(w):
    target = Target(w.work, "held = open('locked', 'w')\nfcntl.flock(held, fcntl.LOCK_EX)", session=False)
    result = fermata("check", "process", target.pid)
    lines = result.out.splitlines()
    expect(result.status == 1 and len(lines) == 2 and "--shell-job" in lines[0] and "file lock" in lines[1], result)
    result = fermata("check", "process", "--shell-job", target.pid)
    expect(result.status == 1 and len(result.out.splitlines()) == 1, result)
    target.unharmed()


def test_process_namespace(w):
    if not shutil.which("unshare"):
        raise Skip("needs unshare")
    target = Target(w.work, before=["unshare", "-u"])
    result = fermata("check", "process", target.pid)
    expect(result.status == 0 and "can be saved" in result.out, result)
    target.unharmed()


def test_process_tree(w):
    """Children that can't be stopped, or can't be looked into, keep nobody from the rest."""
    if not shutil.which("strace"):
        raise Skip("needs strace")
    small = os.path.join(w.work, "small")
    make_32(small)
    target = Target(w.work, "for _ in range(2):\n    if not os.fork():\n        n = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 11)\n"
                            f"        while True: time.sleep(1)\nif not os.fork():\n    os.execv({small!r}, ['small'])\ntime.sleep(0.3)")
    first, second, last = sorted(descendants(target.pid))
    tracer = attach_strace(first)
    lines = fermata("check", "process", target.pid).out.splitlines()
    wanted = {first: f"debugged by process {tracer.pid}", second: "a netlink socket"}
    if state_of(last) == "S":
        wanted[last] = "32-bit"
    for pid, what in wanted.items():
        expect(any(line.startswith(f"process {pid} ") and what in line for line in lines), f"nothing of {pid} {what} in {lines}")
    expect(len(lines) == len(wanted), lines)
    tracer.terminate()
    tracer.wait()
    target.unharmed()


main(tests_of(globals()))
