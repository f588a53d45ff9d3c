#!/usr/bin/env python3
"""Tests of the store: checkpoints as chunks that are kept once. A program keeps memory of which it tells a checksum when it is asked, and writes
some of it anew when it is asked; so after a restore nothing but the very same memory gives the same answer.

Arguments select tests by a part of their names. STORE_KILLS=N: how many writers are killed (12). STORE_FERMATA=PATH takes another binary.
Runs as root."""
import glob
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from support import ROOT, Failure, Skip, adopt, expect, read, reap, reporter, state_of, verdict  # noqa: E402

report = reporter("store_")

BINARY = os.environ.get("STORE_FERMATA") or os.path.join(ROOT, "build/src/cli/fermata")
KILLS = int(os.environ.get("STORE_KILLS", "12"))
DEADLINE = 30
PAGE = 4096
# SIGUSR1: pages written anew, 5% of them, anywhere. SIGUSR2: what it has.
PROGRAM = """
import hashlib, mmap, os, random, signal, sys
mib, seed, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
chance = random.Random(seed)
memory = mmap.mmap(-1, mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, mib << 20, 1 << 20):
    memory[at:at + (1 << 20)] = chance.randbytes(1 << 20)
zeros = mmap.mmap(-1, 4 << 20)
zeros[:] = bytes(4 << 20)
asked = 0
fresh = random.Random(os.getpid())
while True:
    with open(out + ".new", "w") as file:
        file.write("%d %s %d\\n" % (asked, hashlib.sha256(memory).hexdigest(), zeros[:].count(0) != len(zeros)))
    os.rename(out + ".new", out)
    which = signal.sigwait([signal.SIGUSR1, signal.SIGUSR2])
    asked += 1
    if which == signal.SIGUSR1:
        for page in fresh.sample(range(mib * 256), mib * 256 // 20):
            memory[page * 4096:page * 4096 + 4096] = fresh.randbytes(4096)
"""


def wait_for(what, why):
    end = time.monotonic() + DEADLINE
    while not what():
        expect(time.monotonic() < end, why)
        reap()
        time.sleep(0.005)


def run(*arguments, status=0, deadline=DEADLINE):
    task = subprocess.run([BINARY, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=deadline)
    out, err = task.stdout.decode(errors="replace"), task.stderr.decode(errors="replace")
    expect(status is None or task.returncode == status, f"{' '.join(map(str, arguments))}: {task.returncode}, said {out!r} {err!r}")
    return out if status == 0 else err or out


class Program:
    programs = []

    def __init__(self, work, name, mib=16, seed="all the same"):
        self.out, self.size = os.path.join(work, name + ".out"), mib << 20
        block = [signal.SIGUSR1, signal.SIGUSR2]
        with open(os.path.join(work, name + ".err"), "wb") as err:
            task = subprocess.Popen([sys.executable, "-S", "-E", "-c", PROGRAM, str(mib), seed, self.out], stdin=subprocess.DEVNULL, stdout=err, stderr=err,
                                    cwd=work, start_new_session=True, preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, block))
        task.returncode = 0
        self.pid = task.pid
        Program.programs.append(self)
        wait_for(lambda: os.path.exists(self.out), "the program does not start")

    def ask(self, which=signal.SIGUSR2):
        """What it answers: a checksum of its memory."""
        os.unlink(self.out)
        os.kill(self.pid, which)
        wait_for(lambda: os.path.exists(self.out), "the program does not answer")
        count, checksum, wrong = read(self.out).split()
        expect(wrong == "0", "its zeroes are none")
        return checksum

    def rewrite(self):
        return self.ask(signal.SIGUSR1)

    def alive(self):
        return state_of(self.pid) in ("S", "R", "D")

    def end(self):
        if state_of(self.pid):
            os.kill(self.pid, signal.SIGKILL)
        wait_for(lambda: state_of(self.pid) is None, "it does not end")

    def dump(self, place, name, *more, status=0):
        out = run("dump", "process", self.pid, "--dir", place, "--name", name, *more, status=status)
        if status == 0 and "-R" not in more:
            wait_for(lambda: state_of(self.pid) is None, "the dump does not end it")
        return out

    def restore(self, path, *more, status=0):
        self.end()
        return run("restore", "process", "--path", path, "--detach", *more, status=status)


def disk(store):
    return sum(os.stat(path).st_size for path in glob.glob(store + "/*/*") + glob.glob(store + "/*") if os.path.isfile(path))


def listed(store, verb, status=0):
    return json.loads(run("store", verb, "--json", store, status=status))


def whole(store):
    found = listed(store, "verify", status=None)
    expect(found["damaged"] == 0, found)


def test_round(work):
    """Each packing, stopped and live: memory is right after it."""
    store = work + "/store"
    for kind in ("none", "lz4", "zstd", "gzip:3", "zlib", "tar"):
        p = Program(work, "one", 12)
        want = p.ask()
        p.dump("store:" + store, kind[:4], "--compression", kind, *(["-R"] if kind in ("zstd", "tar") else []))
        path = f"store:{store}/{kind[:4]}"
        expect("is whole" in run("verify", path), "verify")
        shown = json.loads(run("inspect", "--json", path))
        expect([one["pid"] for one in shown["processes"]] == [p.pid], shown["processes"])
        p.restore(path)
        expect(p.ask() == want, f"memory is not the same after {kind}")
        p.end()
        os.unlink(p.out)  # the next has it again
    names = [one["name"] for one in listed(store, "ls")["checkpoints"]]
    expect(sorted(names) == ["gzip", "lz4", "none", "tar", "zlib", "zstd"], names)
    # The same seed: six times the same memory, once on disk.
    figures = listed(store, "stats")
    expect(figures["bytes"] > 6 * (12 << 20) and figures["stored"] < 2 * figures["bytes"] / 6, figures)
    error = run("dump", "process", os.getpid(), "--dir", "store:" + store, "--name", "lz4", status=1)
    expect(error.startswith("Error: "), error)
    whole(store)


def test_names(work):
    """What is refused, and how."""
    store = work + "/store"
    p = Program(work, "one", 4)
    p.dump("store:" + store, "one", "-R")
    expect("is there already" in p.dump("store:" + store, "one", "-R", status=1), "the same name")
    expect("begins with a dot" in p.dump("store:" + store, ".one", "-R", status=1), "a dot")
    expect("no streams" in p.dump("store:" + store, "two", "-R", "--streams", "2", status=1), "streams")
    os.mkdir(work + "/other")
    with open(work + "/other/file", "w"):
        pass
    expect("no store" in p.dump(f"store:{work}/other", "two", "-R", status=1), "not a store")
    expect("no such checkpoint" in run("restore", "process", "--path", f"store:{store}/none", status=1), "none")
    expect("no store" in run("store", "ls", work + "/other", status=1), "ls")
    expect("no checkpoint" in run("store", "rm", f"store:{store}/none", status=1), "rm")
    expect(p.alive(), "it ended")
    run("diff", f"store:{store}/one", f"store:{store}/one")


def test_twenty(work):
    """20 checkpoints, 5% written between them: at most 1.2 times what was ever written, and any of them comes back."""
    store = work + "/store"
    p = Program(work, "one", 48)
    sums = [p.ask()]
    p.dump("store:" + store, "0", "-R", "--no-live")
    first = json.loads(run("inspect", "--json", f"store:{store}/0"))["totals"]
    base = p.size + (4 << 20)  # what the interpreter has comes on top
    for i in range(1, 21):
        sums.append(p.rewrite())
        p.dump("store:" + store, str(i), "-R", *(["--no-live"] if i % 2 else []))
    used, limit = disk(store), 1.2 * p.size * (1 + 20 * 0.05)
    print(f"# {used >> 10} KiB for 21 checkpoints of {p.size >> 10} KiB of memory and an interpreter; 1.2 × (1 + 20 × 5%) is {int(limit) >> 10} KiB", flush=True)
    expect(used <= limit, f"{used} bytes, more than {limit} ({first}, {base})")
    whole(store)
    for i in (7, 20, 0):
        p.restore(f"store:{store}/{i}", *(["--lazy"] if i == 7 else []))
        expect(p.ask() == sums[i], f"checkpoint {i} has another memory")


def test_damage(work):
    """A damaged chunk is found and named, nothing of it runs; a dump that has the same page stores it again, and then the old one is good too."""
    store = work + "/store"
    p = Program(work, "one", 12)
    want = p.ask()
    p.dump("store:" + store, "one", "-R", "--no-live")
    pack = max(glob.glob(store + "/packs/*"), key=os.path.getsize)
    with open(pack, "r+b") as file:
        file.seek(6 << 20)
        byte = file.read(1)
        file.seek(6 << 20)
        file.write(bytes([byte[0] ^ 1]))
    found = json.loads(run("store", "verify", "--json", store, status=1))
    expect(found["damaged"] == 1 and found["found"][0]["checkpoint"] == "one", found)
    expect(os.path.basename(pack) in found["found"][0]["what"], found)
    chunk = found["found"][0]["what"].split()[1]
    copy = Program(work, "two", 12)  # has the same pages
    for more in ([], ["--skip-verify"]):
        error = p.restore(f"store:{store}/one", *more, status=1)
        expect(chunk[:16] in error and "damaged" in error, error)
        expect(state_of(p.pid) is None, "it runs")
    expect(chunk[:16] in run("verify", f"store:{store}/one", status=1), "verify does not name it")
    copy.dump("store:" + store, "two", "-R")
    p.restore(f"store:{store}/one")
    expect(p.ask() == want, "the good copy is not used")
    expect(copy.ask() == want, "the copy")


def test_lazy_damage(work):
    """What is damaged is met when the program runs already: it is ended, and never sees anything else."""
    store = work + "/store"
    p = Program(work, "one", 48)
    p.dump("store:" + store, "one", "--compression", "lz4")
    pack = max(glob.glob(store + "/packs/*"), key=os.path.getsize)
    with open(pack, "r+b") as file:
        file.seek(24 << 20)
        file.write(b"damaged")
    run("restore", "process", "--path", f"store:{store}/one", "--detach", "--lazy")
    wait_for(lambda: not p.alive(), "it goes on with damaged memory")


def test_recipe_damage(work):
    store = work + "/store"
    p = Program(work, "one", 4)
    p.dump("store:" + store, "one", "-R")
    p.dump("store:" + store, "two", "-R")
    path = store + "/checkpoints/one"
    data = bytearray(open(path, "rb").read())
    for at in (3, 40, len(data) // 2, len(data) - 1):
        altered = bytearray(data)
        altered[at] ^= 4
        with open(path, "wb") as file:
            file.write(altered)
        expect("damaged" in run("verify", f"store:{store}/one", status=1), at)
        found = json.loads(run("store", "verify", "--json", store, status=1))
        expect([one["checkpoint"] for one in found["found"]] == ["one"], found)
        expect("can't be read" in run("store", "prune", store, status=1), "prune goes on")
    with open(path, "wb") as file:
        file.write(data[:len(data) // 2])
    run("verify", f"store:{store}/one", status=1)
    pack = glob.glob(store + "/packs/*")[0]
    os.rename(pack, work + "/pack")
    expect("damaged" in run("verify", f"store:{store}/two", status=1), "a pack is missing")
    os.rename(work + "/pack", pack)
    run("verify", f"store:{store}/two")


def resealed(data):
    return data + hashlib.sha256(data).digest()


def altered(chance, data, where):
    """Some numbers of it made others, of the sort that break things."""
    data = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        size = chance.choice((1, 4, 8))
        at = where(chance, len(data) - size)
        old = int.from_bytes(data[at:at + size], "little")
        new = chance.choice((0, 1, old + 1, old - 1, old ^ 1 << chance.randrange(8 * size), (1 << 8 * size) - 1, 1 << 8 * size - 1, chance.getrandbits(8 * size)))
        data[at:at + size] = (new % (1 << 8 * size)).to_bytes(size, "little")
    return bytes(data)


def hostile_pack(chance, data):
    """A pack with another table or foot, and all hashes right again. Gives it with its name."""
    foot = bytearray(data[-56:])
    frames, table = (int.from_bytes(foot[i:i + 8], "little") for i in (0, 8))
    records = altered(chance, data[table:table + frames * 528], lambda c, n: c.randrange(n // 528 + 1) * 528 + c.choice((0, 4, 8, 12)) if c.random() < .7 else c.randrange(n))
    foot = altered(chance, foot, lambda c, n: c.randrange(min(n, 30))) if chance.random() < .5 else bytes(foot)
    leaves = b"".join(hashlib.sha256(records[i:i + 64 * 528]).digest() for i in range(0, len(records), 64 * 528))
    return data[:table] + records + leaves + foot, hashlib.sha256(leaves + foot).hexdigest()


def test_hostile(work):
    """Recipes, packs and index files that someone has made, with all hashes right: refused or read, never an end by a signal."""
    store = work + "/store"
    p = Program(work, "one", 4)
    p.dump("store:" + store, "one", "-R", "--compression", "lz4")
    recipe, pack = store + "/checkpoints/one", glob.glob(store + "/packs/*")[0]
    index = glob.glob(store + "/index/*")[0]
    good, packed, indexed = (open(path, "rb").read() for path in (recipe, pack, index))
    chance, seen = random.Random(5), set()

    def look(*verb):
        task = subprocess.run([BINARY, *verb], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=DEADLINE)
        expect(task.returncode in (0, 1) and b"Sanitizer" not in task.stderr and b"runtime error" not in task.stderr, f"{verb}: {task.returncode} {task.stderr[-800:]}")
        seen.add(task.returncode)
    for i in range(60):
        if i % 3 == 0:
            with open(recipe, "wb") as file:
                file.write(resealed(altered(chance, good[:-32], lambda c, n: c.randrange(min(n, 64 if c.random() < .5 else n)))))
        elif i % 3 == 1:
            data, name = hostile_pack(chance, packed)
            with open(os.path.join(store, "packs", name), "wb") as file:
                file.write(data)
            with open(recipe, "wb") as file:
                file.write(resealed(good[:-32].replace(bytes.fromhex(os.path.basename(pack)), bytes.fromhex(name))))
        else:
            with open(recipe, "wb") as file:
                file.write(good)
            with open(index, "wb") as file:
                file.write(altered(chance, indexed, lambda c, n: c.randrange(min(n, 32 if c.random() < .5 else n))))
            p.dump("store:" + store, f"h{i}", "-R", "--no-live", "--compression", "lz4")
            look("verify", f"store:{store}/h{i}")
        look("verify", f"store:{store}/one")
        look("store", "verify", store)
        look("store", "prune", store) if i % 3 == 0 else look("store", "stats", store)
        for path in glob.glob(store + "/packs/*") + glob.glob(store + "/index/*"):
            if path not in (pack, index) and i % 3 == 1:
                os.unlink(path)
        if not os.path.exists(pack):
            with open(pack, "wb") as file:
                file.write(packed)
        with open(index, "wb") as file:
            file.write(indexed)
    expect(seen == {0, 1}, seen)
    expect(p.alive(), "the program")


def test_key(work):
    """With a key nothing of the program is on disk in the clear, nothing is read without it, and what was changed is found."""
    store, key, other, short = work + "/store", work + "/key", work + "/other", work + "/short"
    for path, size in ((key, 32), (other, 64), (short, 31)):
        with open(path, "wb") as file:
            file.write(os.urandom(size))
    given = ("--store-key", key)
    p = Program(work, "one", 8, "a word that is in its memory")
    want = p.ask()
    expect("--live" in p.dump("store:" + store, "one", "-R", "--live", *given, status=1), "live")
    p.dump("store:" + store, "one", "-R", *given)
    p.dump("store:" + store, "two", "-R", "--compression", "zstd", *given)
    figures = json.loads(run("store", "stats", "--json", store, *given))
    expect(figures["stored"] < 1.3 * figures["bytes"] / 2, figures)
    for path in glob.glob(store + "/*/*"):
        with open(path, "rb") as file:
            data = file.read()
        expect(b"a word that is in its memory" not in data and b"pages-1.img" not in data, f"{path} tells what it holds")
    path = f"store:{store}/one"
    for verb in (("verify", path), ("inspect", path), ("restore", "process", "--path", path), ("store", "ls", store), ("store", "verify", store), ("store", "prune", store)):
        for wrong in ((), ("--store-key", other), ("--store-key", short), ("--store-key", work + "/none")):
            error = run(*verb, *wrong, status=1)
            expect("key" in error, f"{verb} {wrong}: {error}")
    expect("key" in p.dump("store:" + store, "three", "-R", status=1), "a dump without")
    p.dump(f"store:{work}/plain", "one", "-R")
    expect("key" in run("verify", f"store:{work}/plain/one", *given, status=1), "a plain store with a key")
    run("verify", path, *given)
    for more in ([], ["--lazy"]):
        p.restore(path, *given, *more)
        expect(p.ask() == want, "memory")
    p.end()
    os.environ["FERMATA_CHECKPOINT_STORE_KEY"] = key
    try:
        run("restore", "process", "--path", f"store:{store}/two", "--detach")
        expect(p.ask() == want, "memory, by the setting")
        whole(store)
        pack = max(glob.glob(store + "/packs/*"), key=os.path.getsize)
        with open(pack, "r+b") as file:  # two frames change places
            file.seek(16)
            a, b = file.read(65552), file.read(65552)
            file.seek(16)
            file.write(b + a)
        found = json.loads(run("store", "verify", "--json", store, status=1))
        expect(found["damaged"] == 32, found["damaged"])
        expect("damaged" in p.restore(path, status=1), "restore")
    finally:
        del os.environ["FERMATA_CHECKPOINT_STORE_KEY"]


def test_prune(work):
    """What nobody needs goes; what is needed stays, also out of a pack that is written anew."""
    store = work + "/store"
    p = Program(work, "one", 16)
    sums = []
    for i in range(5):
        sums.append(p.rewrite())
        if i == 4:
            for _ in range(30):  # little of the first is left
                sums[4] = p.rewrite()
        p.dump("store:" + store, str(i), "-R", "--compression", "lz4")
    run("store", "prune", store)
    before = disk(store)
    run("store", "rm", *(f"store:{store}/{i}" for i in range(4)))
    pruned = listed(store, "prune")
    after = disk(store)
    expect(pruned["packs"] >= 4 and pruned["rewritten"] >= 1 and pruned["bytes"] > 12 << 20, pruned)
    expect(after < before - (12 << 20), f"{before} → {after}")
    whole(store)
    figures = listed(store, "stats")
    expect(figures["unused"] == 0, figures)
    p.restore(f"store:{store}/4")
    expect(p.ask() == sums[4], "memory")
    run("store", "rm", f"store:{store}/4")
    run("store", "prune", store)
    expect(not glob.glob(store + "/packs/*") and disk(store) < 8192, os.listdir(store + "/packs"))
    p.dump("store:" + store, "new", "-R")
    p.restore(f"store:{store}/new")
    expect(p.ask() == sums[4], "memory")


def test_killed(work):
    """A writer that is killed at any moment: the program goes on, the store is whole, and the next dump is good."""
    store = work + "/store"
    p = Program(work, "one", 24)
    start = time.monotonic()
    p.dump("store:" + store, "timed", "-R", "--no-live")
    took = time.monotonic() - start
    for i in range(KILLS):
        p.rewrite()
        task = subprocess.Popen([BINARY, "dump", "process", str(p.pid), "--dir", "store:" + store, "--name", f"killed{i}", "-R",
                                 *(["--no-live"] if i % 2 else [])], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(random.random() * took * 1.1)
        task.kill()
        task.wait()
        p.ask()
        whole(store)
    for one in listed(store, "ls")["checkpoints"]:
        run("verify", f"store:{store}/{one['name']}")
    want = p.ask()
    p.dump("store:" + store, "last", "-R")
    run("store", "prune", store)
    whole(store)
    expect(not glob.glob(store + "/*/.new-*"), "something is left behind")
    p.restore(f"store:{store}/last")
    expect(p.ask() == want, "memory")


def test_writers(work):
    """Several write at once, with the same pages and others, while somebody removes and prunes all the time."""
    store = work + "/store"
    programs = [Program(work, f"p{i}", 8) for i in range(3)]
    wants, kept = {}, []
    for turn in range(4):
        tasks = []
        for i, p in enumerate(programs):
            wants[(i, turn)] = p.rewrite() if turn else p.ask()
            tasks.append(subprocess.Popen([BINARY, "dump", "process", str(p.pid), "--dir", "store:" + store, "--name", f"{i}.{turn}", "-R", "--compression",
                                           ("none", "lz4", "zstd")[i]], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
        pruner = subprocess.Popen([BINARY, "store", "prune", store], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) if turn else None
        for task in tasks:
            said = task.communicate(timeout=DEADLINE)[1]
            expect(task.returncode == 0, said)
        if pruner:
            said = pruner.communicate(timeout=DEADLINE)[1]
            expect(pruner.returncode == 0, said)
        kept += [(i, turn) for i in range(3)]
        for i, old in [one for one in kept if one[1] == turn - 2]:
            run("store", "rm", f"store:{store}/{i}.{old}")
    run("store", "prune", store)
    whole(store)
    for i, p in enumerate(programs):
        p.restore(f"store:{store}/{i}.{3 - i % 2}", *(["--lazy"] if i == 1 else []))
        expect(p.ask() == wants[(i, 3 - i % 2)], f"program {i}")


def test_full(work):
    """A disk that fills up during the dump: the program goes on, and the store is whole."""
    small = work + "/small"
    os.mkdir(small)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "small", small], stderr=subprocess.DEVNULL).returncode:
        raise Skip("no tmpfs can be mounted")
    try:
        store = small + "/store"
        less, more = Program(work, "less", 2), Program(work, "more", 24, "another")
        want = less.ask()
        less.dump("store:" + store, "one", "-R", "--compression", "lz4")
        for how in ("--live", "--no-live"):
            before = more.ask()
            error = more.dump("store:" + store, "two", "-R", how, status=1)
            expect("No space left" in error, error)
            expect(more.ask() == before, "it is not as it was")
            whole(store)
        expect([one["name"] for one in listed(store, "ls")["checkpoints"]] == ["one"], "something was left")
        run("store", "prune", store)
        less.restore(f"store:{store}/one")
        expect(less.ask() == want, "memory")
    finally:
        for p in Program.programs:
            p.end()
        subprocess.run(["umount", "-l", small], check=False)


def test_daemon(work):
    """Through the daemon: a job's checkpoints in a store; removing one there."""
    store, config = work + "/store", work + "/config"
    os.mkdir(config)
    os.mkdir(work + "/logs")
    with open(config + "/config.json", "w") as file:
        json.dump({"address": work + "/socket", "db": {"path": work + "/state/fermata.db"}, "log_dir": work + "/logs",
                   "checkpoint": {"dir": "store:" + store, "compression": "lz4"}}, file)
    with open(work + "/daemon", "wb") as out:
        daemon = subprocess.Popen([BINARY, "daemon", "start", "--config-dir", config], stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def ask(*arguments):
        at = arguments.index("--") if "--" in arguments else len(arguments)
        return run(*arguments[:at], "--config-dir", config, *arguments[at:])
    try:
        wait_for(lambda: subprocess.run([BINARY, "daemon", "check", "--config-dir", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                        timeout=DEADLINE).returncode == 0, "the daemon does not start")
        ask("run", "process", "--jid", "job", "--", "sh", "-c", "i=0; while true; do echo $i; i=$((i+1)); sleep 0.02; done")
        wait_for(lambda: "5" in read(work + "/logs/job.log") if os.path.exists(work + "/logs/job.log") else glob.glob(work + "/logs/*"), "the job does not run")
        ask("dump", "job", "job")
        names = [one["name"] for one in listed(store, "ls")["checkpoints"]]
        expect(len(names) == 1, names)
        ask("restore", "job", "job")
        ask("dump", "job", "job", "--dir", "store:" + store, "--name", "second")
        shown = json.loads(ask("checkpoints", "--json"))
        paths = sorted(one["path"] for one in shown)
        expect(paths == sorted([f"store:{store}/{names[0]}", f"store:{store}/second"]), paths)
        expect(all(one["size"] > 1000 for one in shown), shown)
        for one in shown:
            if one["path"].endswith("/second"):
                ask("job", "checkpoint", "delete", one["id"])
        expect([one["name"] for one in listed(store, "ls")["checkpoints"]] == names, "it is still there")
        before = len(glob.glob(store + "/packs/*"))
        wait_for(lambda: len(glob.glob(store + "/packs/*")) < before, "the daemon does not prune")
        whole(store)
        run("verify", f"store:{store}/{names[0]}")
    finally:
        daemon.terminate()
        daemon.wait(DEADLINE)


def main():
    if os.geteuid() != 0:
        raise SystemExit("run as root")
    adopt()
    tests = {name[5:]: function for name, function in globals().items() if name.startswith("test_")}
    for name, function in tests.items():
        if not all(word in "store_" + name for word in sys.argv[1:]):
            continue
        with tempfile.TemporaryDirectory(prefix="fermata-store-") as work:
            try:
                function(work)
                report("passed", name)
            except Skip as why:
                report("skipped", name, str(why))
            except (Failure, OSError, subprocess.TimeoutExpired, ValueError, KeyError, IndexError) as why:
                report("failed", name, str(why)[:600])
            finally:
                for p in Program.programs:
                    try:
                        p.end()
                    except (Failure, OSError):
                        pass
                Program.programs.clear()
    return verdict()


if __name__ == "__main__":
    sys.exit(main())
