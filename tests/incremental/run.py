#!/usr/bin/env python3
"""Chains of checkpoints: each has only what was written since its parent. A program changes its memory in every way on command and says what all of it
holds; after each dump of a chain the restored tree must say what the dumped one did. Arguments select tests by a part of their name."""
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
from support import ROOT, Failure, Skip, adopt, expect, read, reap, reporter, state_of, verdict  # noqa: E402

BUILD = os.environ.get("BUILD", os.path.join(ROOT, "build"))
FERMATA = os.environ.get("LIVE_CRIU", os.path.join(BUILD, "src/cli/fermata"))
WRITER = os.path.join(BUILD, "tests/incremental_writer")
HOLDERS = "/run/fermata-track"
report = reporter("incremental ")
TESTS = []


def test(function):
    TESTS.append(function)
    return function


class Tree:
    """The program, in a folder of its own, and its checkpoints."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="incremental-")
        self.work = os.path.join(self.folder, "work")
        os.mkdir(self.work)
        self.criu_link = os.path.join(self.folder, "criu")
        os.symlink(FERMATA, self.criu_link)
        self.pids, self.free = [], []
        process = subprocess.Popen([WRITER, self.work], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   start_new_session=True)
        self.root = process.pid
        self.pids.append(self.root)
        self.answer(self.root)

    def answer(self, pid, seconds=20):
        path, end = os.path.join(self.work, f"reply.{pid}"), time.time() + seconds
        while time.time() < end:
            if os.path.exists(path):
                text = read(path).strip()
                os.unlink(path)
                return text
            time.sleep(0.001)
        raise Failure(f"process {pid} ({state_of(pid)}, {read(f'/proc/{pid}/stat').split()[-1] if state_of(pid) else ''}) does not answer")

    def ask(self, pid, command):
        path = os.path.join(self.work, f"cmd.{pid}")
        with open(path + ".new", "w") as file:
            file.write(command + "\n")
        os.rename(path + ".new", path)
        return self.answer(pid)

    def step(self, seed, count=30):
        for pid in self.pids:
            self.ask(pid, f"step {seed + pid} {count}")

    def fork(self, pid):
        child = int(self.ask(pid, "fork"))
        self.pids.append(child)
        return child

    def run(self):
        child = int(self.ask(self.root, "run"))
        self.free.append(child)
        return child

    def state(self):
        return {pid: self.ask(pid, "digest") for pid in self.pids}

    def check_runner(self, pid):
        for name in ("check", "checked"):
            path = os.path.join(self.work, f"{name}.{pid}")
            if os.path.exists(path):
                os.unlink(path)
        open(os.path.join(self.work, f"check.{pid}"), "w").close()
        end = time.time() + 20
        while time.time() < end:
            if os.path.exists(os.path.join(self.work, f"checked.{pid}")):
                bad, number = map(int, read(os.path.join(self.work, f"checked.{pid}")).split())
                expect(bad == 0, f"{bad} pages of the program that writes all the time are not as it left them (number {number})")
                return number
            time.sleep(0.005)
        raise Failure(f"process {pid} ({state_of(pid)}), which writes all the time, does not answer")

    def path(self, name):
        return os.path.join(self.folder, name)

    def call(self, *arguments, fails=False, timeout=120):
        result = subprocess.run(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout)
        if fails:
            expect(result.returncode != 0, f"{' '.join(arguments)} succeeded")
        elif result.returncode:
            raise Failure(f"{' '.join(arguments)}: {result.stdout}{result.stderr}")
        return result.stdout + result.stderr

    def dump(self, name, *more, fails=False):
        return self.call(FERMATA, "dump", "process", str(self.root), "--no-server", "--dir", self.folder, "--name", name, *more, fails=fails)

    def criu(self, verb, name, *more, fails=False):
        os.makedirs(self.path(name), exist_ok=True)
        return self.call(self.criu_link, verb, "-D", self.path(name), *more, fails=fails)

    def end(self):
        for pid in [*self.pids, *self.free]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for pid in [*self.pids, *self.free]:
            for _ in range(2000):
                reap()
                if state_of(pid) is None:
                    break
                time.sleep(0.001)

    def restore(self, name, wanted, free=(), more=()):
        self.end()
        for leftover in os.listdir(self.work):
            if leftover.startswith(("cmd.", "reply.", "check")):
                os.unlink(os.path.join(self.work, leftover))
        self.call(FERMATA, "restore", "process", "--no-server", "--detach", "--path", self.path(name), *more)
        self.pids, self.free = list(wanted), list(free)
        found = self.state()
        wrong = {pid: (wanted[pid], found[pid]) for pid in wanted if wanted[pid] != found[pid]}
        expect(not wrong, f"the memory restored from {name} is not what it was: {wrong}")
        for pid in free:
            self.check_runner(pid)

    def remove(self):
        self.end()
        shutil.rmtree(self.folder, ignore_errors=True)


def pages_in(path):
    return sum(os.path.getsize(os.path.join(path, name)) for name in os.listdir(path) if name.startswith("pages-")) // 4096


def holders():
    """Of our trees, by their names in the directory."""
    try:
        return [name for name in os.listdir(HOLDERS) if name.startswith("holder-")]
    except OSError:
        return []


def holder_of(pid):
    """The pid of the process that watches a process."""
    try:
        names = [name for name in os.listdir(HOLDERS) if name.split("-")[1:2] == [str(pid)]]
    except OSError:
        return None
    if not names:
        return None
    socket = os.path.join(HOLDERS, os.readlink(os.path.join(HOLDERS, names[0])))
    for line in read("/proc/net/unix").splitlines():
        if line.endswith(socket) or line.endswith(os.path.basename(socket)):
            inode = line.split()[6]
            for entry in os.listdir("/proc"):
                if entry.isdigit():
                    try:
                        if any(os.readlink(f"/proc/{entry}/fd/{fd}") == f"socket:[{inode}]" for fd in os.listdir(f"/proc/{entry}/fd")):
                            return int(entry)
                    except OSError:
                        pass
    return None


def parent_of(path):
    return os.readlink(os.path.join(path, "parent")) if os.path.islink(os.path.join(path, "parent")) else None


@test
def chain_of_fermata(tree):
    """Ten checkpoints, each on the last; every one of them is right."""
    states = []
    for i in range(10):
        tree.step(1000 * i, 60)
        if i == 3:
            tree.fork(tree.root)
        if i == 5:
            tree.fork(tree.pids[-1])
        states.append(tree.state())
        tree.dump(f"d{i}", "--leave-running", *(("--parent", tree.path(f"d{i - 1}")) if i else ("--track-mem",)))
        expect(tree.state() == states[-1], "the dump changed the tree")
        if i:
            expect(parent_of(tree.path(f"d{i}")) == f"../d{i - 1}", f"d{i} is not based on d{i - 1}")
    for i in (9, 0, 4, 6, 9):
        tree.restore(f"d{i}", states[i])


@test
def chain_of_criu(tree):
    """pre-dump, pre-dump, dump."""
    tree.step(1, 200)
    tree.fork(tree.root)
    tree.step(2, 50)
    tree.criu("pre-dump", "d1", "-t", str(tree.root))
    tree.step(3, 30)
    tree.criu("pre-dump", "d2", "-t", str(tree.root), "--track-mem", "--prev-images-dir", "../d1")
    tree.step(4, 30)
    state = tree.state()
    tree.criu("dump", "d3", "-t", str(tree.root), "--track-mem", "--prev-images-dir", "../d2")
    expect(parent_of(tree.path("d2")) == "../d1" and parent_of(tree.path("d3")) == "../d2", "the links are wrong")
    for _ in range(300):
        if holder_of(tree.root) is None:
            break
        reap()
        time.sleep(0.01)
    expect(holder_of(tree.root) is None, "something watches a tree that has ended")
    text = tree.call(FERMATA, "restore", "process", "--no-server", "--detach", "--path", tree.path("d2"), fails=True)
    expect("pre-dump" in text, text)
    tree.restore("d3", state)


@test
def figures(tree):
    """One percent written: about that much stored."""
    tree.ask(tree.root, "big 256")
    tree.dump("d0", "--leave-running", "--track-mem")
    tree.ask(tree.root, "touch 1 7")
    state = tree.state()
    tree.dump("d1", "--leave-running", "--parent", tree.path("d0"))
    full, part = pages_in(tree.path("d0")), pages_in(tree.path("d1"))
    expect(full > 65536, f"the whole has {full} pages")
    expect(part < full * 0.01 * 3, f"of {full} pages {part} were written, with one in a hundred changed")
    print(f"# of {full} pages {part} were written, with one in a hundred changed", flush=True)
    tree.restore("d1", state)


@test
def file_mappings(tree):
    """What was written of a private mapping of a file is saved once; what is dropped of it again is the file's."""
    tree.ask(tree.root, "share")  # or its pages would come when it is read
    tree.ask(tree.root, "file")
    tree.dump("d0", "--leave-running", "--track-mem")
    for i in range(1, 7):
        tree.step(i, 150)
        tree.dump(f"d{i}", "--leave-running", "--parent", tree.path(f"d{i - 1}"), *(("--no-live",) if i % 2 else ()))
    state = tree.state()
    for way in ((), ("--no-live",)):
        i += 1
        tree.dump(f"d{i}", "--leave-running", "--parent", tree.path(f"d{i - 1}"), *way)
        full, part = pages_in(tree.path("d0")), pages_in(tree.path(f"d{i}"))
        expect(full > 2048 and part < 200, f"of {full} pages {part} were written once more, with none of the file's changed")
        expect(tree.state() == state, "the dump changed the tree")
    tree.restore(f"d{i}", state)


@test
def huge_pages(tree):
    """Private memory of huge pages: what was not written is not saved again, also when some of it was emptied in between."""
    if tree.ask(tree.root, "huge 40") != "ok":
        raise Skip("no huge pages are reserved (/proc/sys/vm/nr_hugepages)")
    tree.dump("d0", "--leave-running", "--track-mem")
    for i in range(1, 9):
        tree.step(i, 120)
        state = tree.state() if i % 3 else None
        tree.dump(f"d{i}", "--leave-running", "--parent", tree.path(f"d{i - 1}"), *(("--no-live",) if i % 2 else ()))
        expect(state in (None, tree.state()), "the dump changed the tree")
    tree.restore(f"d{i}", tree.state())
    tree.dump("d0again", "--leave-running", "--track-mem")
    tree.ask(tree.root, "huge 40")
    last, state = "d0again", tree.state()
    for way in ((), (), ("--no-live",)):
        i += 1
        tree.dump(f"d{i}", "--leave-running", "--parent", tree.path(last), *way)
        full, part = pages_in(tree.path("d9")), pages_in(tree.path(f"d{i}"))
        expect(full > 10240 and (i == 9 or part < 1200), f"of {full} pages {part} were written once more, with none of the huge ones changed")
        expect(tree.state() == state, "the dump changed the tree")
        last = f"d{i}"
    tree.restore(f"d{i}", state)


@test
def marks_of_an_earlier_watch(tree):
    """An area that another joins is watched no more, and its pages keep marks with which they would look unchanged for ever after."""
    tree.ask(tree.root, "big 8")
    for way in ((), ("--no-live",)):
        name = "still" if way else "live"
        tree.ask(tree.root, "part")
        tree.dump(name + "0", "--leave-running", "--track-mem", *way)
        if tree.ask(tree.root, "join") != "1":
            raise Skip("this kernel does not join the areas")
        tree.ask(tree.root, "touch 300 1")
        tree.dump(name + "1", "--leave-running", "--track-mem", *way)
        tree.ask(tree.root, "touch 300 2")
        tree.dump(name + "2", "--leave-running", "--parent", tree.path(name + "1"), *way)
        tree.restore(name + "2", tree.state())


@test
def random_chains(tree):
    """Any order of dumps and pre-dumps, of either program, with forks and ends of processes, and restores in between."""
    seed = int(os.environ.get("SEED", "0")) or random.randrange(1 << 30)
    dice, name, last = random.Random(seed), 0, None
    made = {}
    try:
        for turn in range(24):
            tree.step(dice.randrange(1 << 20), dice.choice((5, 40, 150)))
            if dice.random() < 0.15 and len(tree.pids) < 5:
                tree.fork(dice.choice(tree.pids))
            if dice.random() < 0.1:
                tree.ask(dice.choice(tree.pids), "exec")
            what, name = dice.random(), name + 1
            wanted = tree.state() if dice.random() < 0.5 else None  # which reads all of its memory
            parent = ["--prev-images-dir", tree.path(last)] if last and dice.random() < 0.9 else []
            if what < 0.35:
                tree.criu("pre-dump", f"r{name}", "-t", str(tree.root), "--track-mem", *parent)
            elif what < 0.75 or not made:
                tree.criu("dump", f"r{name}", "-t", str(tree.root), "-R", "--track-mem", *parent)
                made[f"r{name}"] = wanted = wanted or tree.state()
            else:
                wanted = wanted or tree.state()
                tree.criu("dump", f"r{name}", "-t", str(tree.root), *parent)
                made[f"r{name}"] = wanted
                tree.restore(f"r{name}", wanted)
                last = None
                continue
            expect(wanted in (None, tree.state()), "the dump changed the tree")
            last = f"r{name}"
        for name in dice.sample(sorted(made), min(len(made), 5)):
            tree.restore(name, made[name])
    except Failure as failure:
        raise Failure(f"seed {seed}: {failure}") from None


@test
def running(tree):
    """A program that writes a sequence number everywhere all the time: each checkpoint is of one moment."""
    runner = tree.run()
    tree.step(1, 100)
    states = []
    for i in range(6):
        time.sleep(0.1)
        tree.step(10 * i, 10)
        states.append(tree.state())
        parent = ("--parent", tree.path(f"d{i - 1}")) if i else ("--track-mem",)
        tree.dump(f"d{i}", "--leave-running", *parent, *(("--no-live",) if i == 3 else ()))
        expect(not i or parent_of(tree.path(f"d{i}")), "no parent")
        tree.check_runner(runner)
    for i in range(3):
        tree.criu("pre-dump", f"p{i}", "-t", str(tree.root), "--track-mem", "--prev-images-dir", f"../p{i - 1}" if i else "../d5")
        time.sleep(0.05)
    states.append(tree.state())
    tree.criu("dump", "d6", "-t", str(tree.root), "--prev-images-dir", "../p2")
    for i in (6, 4, 3, 0, 2):
        tree.restore(f"d{i}", states[i], [runner])


@test
def holder_killed(tree):
    """Without the process that watches, the next dump saves all, and says so."""
    tree.step(1, 200)
    tree.dump("d0", "--leave-running", "--track-mem")
    tree.step(2, 20)
    holder = holder_of(tree.root)
    expect(holder, "nothing watches the tree")
    os.kill(holder, signal.SIGKILL)
    time.sleep(0.2)
    tree.step(3, 20)
    state = tree.state()
    text = tree.dump("d1", "--leave-running", "--parent", tree.path("d0"))
    expect("was not watched since" in text, f"the dump does not say that it is a whole one: {text}")
    expect(parent_of(tree.path("d1")) is None, "the whole checkpoint has a parent")
    tree.step(4, 20)
    states = tree.state()
    tree.dump("d2", "--leave-running", "--parent", tree.path("d1"))
    expect(parent_of(tree.path("d2")) == "../d1", "the chain does not go on")
    tree.restore("d1", state)
    tree.restore("d2", states)
    # What killed holders leave is cleared away by the next one.
    tree.dump("d3", "--leave-running", "--track-mem")
    holder = holder_of(tree.root)
    left = [name for name in os.listdir(HOLDERS) if name.split("-")[1:2] == [str(tree.root)]]
    left.append(os.readlink(os.path.join(HOLDERS, left[0])))
    os.kill(holder, signal.SIGKILL)
    os.utime(os.path.join(HOLDERS, left[1]), (0, 0))
    other = Tree()
    try:
        other.dump("d0", "--leave-running", "--track-mem")
        end = time.time() + 5
        while time.time() < end and any(os.path.lexists(os.path.join(HOLDERS, name)) for name in left):
            time.sleep(0.01)
        expect(not any(os.path.lexists(os.path.join(HOLDERS, name)) for name in left), f"{left} are left")
    finally:
        other.remove()


@test
def holder_ends(tree):
    """With the tree, or when a dump that is no part of a chain finds it."""
    tree.step(1, 50)
    tree.dump("d0", "--leave-running", "--track-mem")
    holder = holder_of(tree.root)
    expect(holder, "nothing watches the tree")
    tree.call(FERMATA, "check", "process", str(tree.root))
    expect(holder_of(tree.root) == holder, "a check ended the watch")
    tree.dump("other", "--leave-running", "--no-live")
    expect(holder_of(tree.root) == holder, "a dump that stops the tree ended the watch")
    tree.step(2, 20)
    state = tree.state()
    tree.dump("next", "--leave-running", "--parent", tree.path("d0"))
    expect(parent_of(tree.path("next")) == "../d0", "the chain does not go on")
    holder = holder_of(tree.root)
    tree.step(3, 20)
    state = tree.state()
    tree.dump("d1", "--leave-running")
    for _ in range(200):
        if state_of(holder) is None:
            break
        reap()
        time.sleep(0.01)
    expect(holder_of(tree.root) is None and state_of(holder) is None, "a plain dump leaves the watch")
    text = tree.dump("d2", "--leave-running", "--parent", tree.path("d0"))
    expect("was not watched since" in text, text)
    holder = holder_of(tree.root)
    tree.restore("d1", state)
    for _ in range(200):
        reap()
        if state_of(holder) is None:
            break
        time.sleep(0.01)
    expect(state_of(holder) is None, "the holder outlives its tree")
    tree.restore("d2", state)


@test
def dumper_killed(tree):
    """At any moment: the tree goes on, and the next dump is right."""
    tree.ask(tree.root, "big 32")
    tree.step(1, 200)
    tree.dump("d0", "--leave-running", "--track-mem")
    last = "d0"
    for i in range(1, 25):
        tree.step(100 + i, 30)
        tree.ask(tree.root, f"touch 10 {i}")
        victim = subprocess.Popen([FERMATA, "dump", "process", str(tree.root), "--no-server", "--dir", tree.folder, "--name", f"k{i}",
                                   "--leave-running", "--parent", tree.path(last)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        time.sleep(0.002 * i)
        victim.kill()
        victim.wait()
        tree.step(200 + i, 10)
        state = tree.state()
        tree.dump(f"d{i}", "--leave-running", "--parent", tree.path(last))
        last = f"d{i}"
    tree.restore(last, state)


@test
def dump_fails(tree):
    """One that fails before it has touched anything leaves the chain as it is; the parent may not be any checkpoint."""
    tree.step(1, 50)
    tree.dump("d0", "--leave-running", "--track-mem")
    tree.step(2, 10)
    expect("another process" in tree.dump("x", "--leave-running", "--parent", other_checkpoint(tree), fails=True), "a parent of another process is taken")
    expect("no parent checkpoint" in tree.dump("x", "--leave-running", "--parent", tree.path("none"), fails=True), "a missing parent is taken")
    expect("archive" in tree.dump("x", "--leave-running", "--compression", "lz4", "--parent", tree.path("d0"), fails=True), "an archive has a parent")
    tree.dump("arc", "--leave-running", "--compression", "lz4", "--track-mem")
    expect("archive" in tree.dump("x", "--leave-running", "--parent", tree.path("arc.tar.lz4"), fails=True), "an archive is a parent")
    state = tree.state()
    tree.dump("d1", "--leave-running", "--parent", tree.path("d0"))
    tree.restore("d1", state)


@test
def dump_withdrawn(tree):
    """One that fails when all is written: what it had protected is in no checkpoint, so the next is a whole one."""
    tree.step(1, 100)
    tree.criu("dump", "d0", "-t", str(tree.root), "-R", "--track-mem")
    tree.step(2, 30)
    script = tree.path("script")
    with open(script, "w") as file:
        file.write("#!/bin/sh\n[ $CRTOOLS_SCRIPT_ACTION != post-dump ]\n")
    os.chmod(script, 0o755)
    for more in ((), ("--live",)):
        tree.criu("dump", "failed", "-t", str(tree.root), "-R", "--track-mem", "--prev-images-dir", "../d0", "--action-script", script, *more, fails=True)
        expect(not os.path.exists(tree.path("failed/inventory.img")) and not os.path.lexists(tree.path("failed/parent")), "it is there")
        tree.step(3, 5)
        state = tree.state()
        text = tree.criu("dump", f"d1{len(more)}", "-t", str(tree.root), "-R", "--track-mem", "--prev-images-dir", "../d0")
        expect("was not watched since" in text, text)
        tree.step(4, 5)
        last = tree.state()
        shutil.rmtree(tree.path("d0"))
        tree.criu("dump", "d0", "-t", str(tree.root), "-R", "--track-mem", "--prev-images-dir", f"../d1{len(more)}")
        expect(parent_of(tree.path("d0")), "the chain does not go on")
    tree.restore("d11", state)
    tree.restore("d0", last)


@test
def hostile_chains(tree):
    """A chain that is damaged or made up is refused before anything runs, by inspect and verify as well."""
    tree.ask(tree.root, "big 4")
    tree.step(1, 100)
    tree.dump("d0", "--leave-running", "--track-mem")
    tree.step(2, 20)
    tree.dump("d1", "--leave-running", "--parent", tree.path("d0"))
    tree.step(3, 20)
    state = tree.state()
    tree.dump("d2", "--leave-running", "--parent", tree.path("d1"))
    tree.dump("whole", "--leave-running")
    other = other_checkpoint(tree)
    root = tree.root
    tree.end()
    grand, parent = (os.path.join(tree.path(name), "parent") for name in ("d1", "d2"))

    def refused(words, *more):
        for command in (("restore", "process", "--no-server", "--detach", "--path", tree.path("d2"), *more), ("inspect", tree.path("d2"), *more),
                        ("verify", tree.path("d2"))):
            if command[0] == "verify" and more:
                continue
            text = tree.call(FERMATA, *command, fails=True)
            expect(words in text, f"{command[0]} does not say \"{words}\": {text}")
        expect(state_of(root) is None, "something was restored")

    def link(path, to):
        os.unlink(path)
        if to:
            os.symlink(to, path)

    link(grand, None)
    refused("is missing")
    link_again = lambda: (os.path.lexists(grand) and os.unlink(grand), os.symlink("../d0", grand))  # noqa: E731
    os.symlink("../none", grand)
    refused("is missing")
    link(grand, "../d2")
    refused("own parent")
    link(grand, ".")
    refused("own parent")
    link(grand, "../whole")
    refused("another checkpoint")
    link(grand, os.path.relpath(other, tree.path("d1")))
    refused("another checkpoint")
    # Nobody's ids any more: the pagemaps are looked at.
    for name in ("d0", "d1", "d2", "whole", "other"):
        manifest = os.path.join(tree.path(name), "fermata.json")
        shutil.copy(manifest, manifest + ".kept")
        os.unlink(manifest)
    for words in ("of another process",):
        for command in (("restore", "process", "--no-server", "--detach", "--path", tree.path("d2")), ("inspect", tree.path("d2"))):
            text = tree.call(FERMATA, *command, fails=True)
            expect(words in text, text)
    # The parent has another's pages only: its pagemap has none of them.
    shutil.copytree(tree.path("d0"), tree.path("poor"))
    poor = os.path.join(tree.path("poor"), f"pagemap-{root}.img")
    with open(poor, "rb") as file:
        head = file.read(8 + 4 + 2)
    with open(poor, "wb") as file:
        file.write(head)
    link(grand, "../poor")
    text = tree.call(FERMATA, "restore", "process", "--no-server", "--detach", "--path", tree.path("d2"), fails=True)
    expect("does not have" in text, text)
    for name in ("d0", "d1", "d2", "whole", "other"):
        manifest = os.path.join(tree.path(name), "fermata.json")
        os.rename(manifest + ".kept", manifest)
    link_again()
    # A page of the first is altered.
    pages = max((os.path.join(tree.path("d0"), name) for name in os.listdir(tree.path("d0")) if name.startswith("pages-")), key=os.path.getsize)
    with open(pages, "r+b") as file:
        file.seek(4096 * 5)
        byte = file.read(1)
        file.seek(4096 * 5)
        file.write(bytes([byte[0] ^ 1]))
    refused("damaged")
    with open(pages, "r+b") as file:
        file.seek(4096 * 5)
        file.write(byte)
    # And without any of that, and moved away as a whole.
    os.mkdir(tree.path("elsewhere"))
    for name in ("d0", "d1", "d2"):
        os.rename(tree.path(name), os.path.join(tree.path("elsewhere"), name))
    tree.restore("elsewhere/d2", state)


@test
def live_between(tree):
    """A live dump that is no part of the chain takes the watch from the holder once, and does not wait for it a second time while the tree stands still."""
    tree.dump("a", "--leave-running", "--track-mem")
    start = time.time()
    tree.dump("b", "--leave-running")
    took = time.time() - start
    expect(took < 2.5, f"it took {took:.1f} s")
    expect(holder_of(tree.root) is None, "it is still watched, though that dump was no part of the chain")


@test
def packed_parent(tree):
    """What CRIU's format allows, and a dump does not make: a parent that is an archive, below one that is a directory."""
    tree.ask(tree.root, "big 16")
    tree.step(1, 100)
    tree.dump("d0", "--leave-running", "--track-mem")
    tree.step(2, 20)
    tree.ask(tree.root, "touch 10 3")
    state = tree.state()
    tree.dump("d1", "--leave-running", "--parent", tree.path("d0"))
    tree.end()
    for kind, flag in (("tar", "cf"), ("gz", "czf")):
        archive = tree.path(f"d0.tar.{kind}")
        subprocess.run(["tar", flag, archive, "-C", tree.path("d0"), *sorted(os.listdir(tree.path("d0")))], check=True)
        link = os.path.join(tree.path("d1"), "parent")
        os.unlink(link)
        os.symlink(f"../d0.tar.{kind}", link)
        tree.restore("d1", state)
        tree.restore("d1", state, more=("--lazy=all",))
        tree.call(FERMATA, "verify", tree.path("d1"))


def is_watched(pid):
    return any(line.startswith("VmFlags:") and " um " in line for line in read(f"/proc/{pid}/smaps").splitlines())


def alter(path):
    """A byte in the middle of the pages."""
    pages = max((os.path.join(path, name) for name in os.listdir(path) if name.startswith("pages-")), key=os.path.getsize)
    with open(pages, "r+b") as file:
        file.seek(os.path.getsize(pages) // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


@test
def lazily(tree):
    """Pages of a chain come when they are touched; what then runs is dumped and brought back again, while they come, and becomes a chain of its own."""
    tree.ask(tree.root, "big 64")
    states = []
    for i in range(6):
        tree.step(100 * i, 60)
        tree.ask(tree.root, f"touch 10 {i}")
        states.append(tree.state())
        tree.dump(f"d{i}", "--leave-running", *(("--parent", tree.path(f"d{i - 1}")) if i else ("--track-mem",)))
    lazy = ("--lazy=all",)
    for i in (5, 0, 3, 5):
        tree.restore(f"d{i}", states[i], more=lazy)
    tree.end()
    tree.call(FERMATA, "restore", "process", "--no-server", "--detach", "--path", tree.path("d5"), *lazy)
    tree.pids = list(states[5])
    expect(is_watched(tree.root), "its memory was there at once")
    tree.dump("e0", "--leave-running", "--track-mem")
    expect(tree.state() == states[5], "a dump while pages came has changed the tree")
    tree.step(1000, 60)
    state = tree.state()
    tree.dump("e1", "--leave-running", "--parent", tree.path("e0"))
    expect(parent_of(tree.path("e1")) == "../e0", "e1 is not based on e0")
    tree.restore("e1", state, more=lazy)
    # One that is damaged further up is found behind the program, which is ended.
    tree.end()
    alter(tree.path("d0"))
    tree.call(FERMATA, "restore", "process", "--no-server", "--detach", "--path", tree.path("d5"), *lazy)
    for _ in range(1000):
        reap()
        if state_of(tree.root) is None:
            return
        time.sleep(0.01)
    raise Failure("it runs on with memory that was altered in a parent")


def chain_of_four(tree):
    states = []
    tree.ask(tree.root, "big 16")
    for i in range(4):
        tree.step(10 * i, 60)
        tree.ask(tree.root, f"touch 10 {i}")
        if i == 1:
            tree.fork(tree.root)
        states.append(tree.state())
        tree.dump(f"d{i}", "--leave-running", *(("--parent", tree.path(f"d{i - 1}")) if i else ("--track-mem",)))
    return states


@test
def shared_memory(tree):
    """Shared memory that was not written is not saved again, whoever has written to the rest, and has ended since."""
    states, sizes = [], []
    tree.ask(tree.root, "share")
    child = tree.fork(tree.root)
    for i in range(4):
        if i == 2:
            tree.ask(child, "step 7 100")
            os.kill(child, signal.SIGKILL)
            tree.pids.remove(child)
            reap()
        tree.step(100 * i, 10)
        states.append(tree.state())
        tree.dump(f"d{i}", "--leave-running", *(("--parent", tree.path(f"d{i - 1}")) if i else ("--track-mem",)))
        sizes.append(sum(os.path.getsize(os.path.join(tree.path(f"d{i}"), name)) for name in os.listdir(tree.path(f"d{i}")) if name.startswith("pages-")))
    expect(sizes[0] > 4 << 20 and max(sizes[1:]) < 3 << 20, f"the parts have {sizes} bytes of memory")
    tree.end()
    tree.call(FERMATA, "verify", tree.path("d3"))
    for i in range(4):
        tree.restore(f"d{i}", states[i])
    tree.end()
    tree.call(FERMATA, "checkpoint", "flatten", tree.path("d3"))
    for i in range(3):
        shutil.rmtree(tree.path(f"d{i}"))
    tree.restore("d3", states[3])


@test
def flatten(tree):
    """One that needs no parent any more; those above it can go, those below it still have their pages."""
    states = chain_of_four(tree)
    tree.end()
    text = tree.call(FERMATA, "checkpoint", "delete", tree.path("d1"), fails=True)
    expect("is the parent of" in text and "d2" in text, text)
    tree.call(FERMATA, "checkpoint", "flatten", tree.path("d2"))
    expect(parent_of(tree.path("d2")) is None, "it still has a parent")
    expect("already" in tree.call(FERMATA, "checkpoint", "flatten", tree.path("d2")), "it is not seen to need none")
    for name in ("d1", "d0"):
        tree.call(FERMATA, "checkpoint", "delete", tree.path(name))
        expect(not os.path.exists(tree.path(name)), f"{name} is still there")
    expect(not [name for name in os.listdir(tree.folder) if name.startswith(".fermata")], "something is left")
    for name in ("d2", "d3"):
        tree.call(FERMATA, "verify", tree.path(name))
    tree.restore("d2", states[2])
    tree.restore("d3", states[3])


@test
def dedup(tree):
    """Parents with nothing but what the last needs; they are refused on their own."""
    states = chain_of_four(tree)
    tree.end()
    before = [pages_in(tree.path(f"d{i}")) for i in range(4)]
    tree.criu("dedup", "d3")
    after = [pages_in(tree.path(f"d{i}")) for i in range(4)]
    expect(all(a < b for a, b in zip(after[:3], before[:3])) and after[3] == before[3], f"{before} pages became {after}")
    text = tree.call(FERMATA, "restore", "process", "--no-server", "--detach", "--path", tree.path("d1"), fails=True)
    expect("dedup" in text, text)
    tree.call(FERMATA, "verify", tree.path("d3"))
    tree.criu("dedup", "d3")
    tree.restore("d3", states[3])
    tree.end()
    tree.call(FERMATA, "checkpoint", "flatten", tree.path("d3"))
    tree.restore("d3", states[3])
    # A checkpoint that two have pages in stays as it is.
    tree.end()
    shutil.rmtree(tree.path("d2"))


@test
def auto_dedup(tree):
    """As criu has it; the chain goes on from what is left."""
    tree.ask(tree.root, "big 16")
    for i in range(4):
        tree.step(10 * i, 40)
        tree.ask(tree.root, f"touch 20 {i}")
        state = tree.state()
        tree.criu("dump" if i == 3 else "pre-dump", f"d{i}", "-t", str(tree.root), "--track-mem",
                  *(("--prev-images-dir", f"../d{i - 1}") if i else ()), *(("--auto-dedup",) if i == 3 else ()))
    tree.restore("d3", state)


def other_checkpoint(tree):
    other = subprocess.Popen(["sleep", "1000"], start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        tree.call(FERMATA, "dump", "process", str(other.pid), "--no-server", "--dir", tree.folder, "--name", "other")
    finally:
        other.kill()  # where the dump has not ended it
        other.wait()
    return tree.path("other")


def main():
    if os.geteuid():
        print("# needs root")
        return verdict()
    adopt()
    for function in TESTS:
        if sys.argv[1:] and not any(word in function.__name__ for word in sys.argv[1:]):
            continue
        tree = Tree()
        try:
            function(tree)
            report("passed", function.__name__)
        except Skip as why:
            report("skipped", function.__name__, str(why))
        except (Failure, subprocess.TimeoutExpired, OSError) as why:
            report("failed", function.__name__, str(why))
        finally:
            tree.remove()
            reap()
    return verdict()


if __name__ == "__main__":
    sys.exit(main())
