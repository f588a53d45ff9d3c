#!/usr/bin/env python3
"""Tests of GPUs with a driver of the tests' own (fake.h): every way through dump and restore, and each call of the driver failing, hanging or
dying. After all of it the program's numbers on the "device" and its own count must agree.

Arguments select tests by a part of their names. Runs as root."""
import contextlib
import glob
import json
import os
import random
import shutil
import signal
import stat as stat_module
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from support import ROOT, Failure, Skip, adopt, expect, read, reap, reporter, verdict  # noqa: E402

report = reporter("gpu_")

BUILD = os.environ.get("GPU_BUILD") or os.path.join(ROOT, "build")
BINARY = os.path.join(BUILD, "src/cli/fermata")
FAKES = os.path.join(ROOT, "build/tests/gpu")
DEADLINE = 20       # s, for anything to end or to come
KILLS = int(os.environ.get("GPU_KILLS", "40"))


def stat_of(pid):
    try:
        return read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    except OSError:
        return None


def alive(pid):
    stat = stat_of(pid)
    return stat is not None and stat[0] not in "ZX"


def untraced(path):
    try:
        expect("TracerPid:\t0\n" in read(path), f"{path} is traced")
    except OSError:  # a thread that has ended
        pass


def children_of(pid):
    found = []
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        try:
            found += [int(word) for word in read(path).split()]
        except OSError:
            pass
    return found


def wait_for(what, why):
    end = time.monotonic() + DEADLINE
    while not what():
        expect(time.monotonic() < end, why)
        time.sleep(0.005)


class World:
    def __init__(self, work, custom):
        self.work, self.dev, self.out, self.custom = work, work + "/dev", work + "/out", custom
        os.mkdir(self.dev)
        self.pid = None

    def environment(self, more=None):
        return {**os.environ, "FAKE_GPU_DIR": self.dev, "LD_LIBRARY_PATH": FAKES, "ASAN_OPTIONS": "detect_leaks=0",
                **({"FAKE_CUSTOM": "1"} if self.custom else {}), **(more or {})}

    def start(self, *arguments):
        task = subprocess.Popen([os.path.join(FAKES, "gpu_app"), *arguments, self.out], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL, start_new_session=True,
                                env=self.environment({"LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH_APP", FAKES)}))
        task.returncode = 0  # reaped below
        self.pid = task.pid
        processes = int(arguments[arguments.index("-n") + 1]) if "-n" in arguments else 1
        wait_for(lambda: len(self.rounds()) == processes, "the program does not start")
        return self.pid

    def rounds(self):
        """The last round of each process that uses a GPU."""
        found = {}
        for line in (read(self.out) if os.path.exists(self.out) else "").splitlines():
            pid, _, text = line.partition(" ")
            expect(not text.startswith("wrong"), f"process {pid} says: {text}")
            if text:
                found[int(pid)] = int(text)
        return found

    def goes_on(self):
        """All processes work, none is held, and nothing of ours is left."""
        before = self.rounds()
        wait_for(lambda: all(self.rounds()[pid] > n + 2 for pid, n in before.items()), f"the program does not go on ({before}, {self.states()})")
        for pid in [self.pid] + children_of(self.pid):
            for status in glob.glob(f"/proc/{pid}/task/*/status"):
                untraced(status)
        self.no_helper()

    def states(self):
        return {pid: (stat_of(pid) or ["gone"])[0] for pid in self.rounds()}

    def no_helper(self):
        def none():
            for path in glob.glob("/proc/[0-9]*/comm"):
                try:
                    if read(path) == "fermata-gpu\n" and f"FAKE_GPU_DIR={self.dev}\0" in read(path[:-4] + "environ"):
                        return False
                except OSError:
                    pass
            return True
        wait_for(none, "the helper does not end")

    def fail(self, *lines):
        for path in glob.glob(self.dev + "/failed-*"):
            os.unlink(path)
        with open(self.dev + "/fail", "w") as file:
            file.write("".join(line + "\n" for line in lines))

    def command(self, *arguments, env=None, background=False):
        task = subprocess.Popen([BINARY, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                env=self.environment(env), text=True)
        if background:
            return task
        out = task.communicate(timeout=3 * DEADLINE)[0]
        return task.returncode, out

    def dump(self, *more, name="one", env=None):
        return self.command("dump", "process", self.pid, "--gpu", "on", "--dir", self.work, "--name", name, *more, env=env)

    def restore(self, *more, name="one", env=None):
        return self.command("restore", "process", "--path", f"{self.work}/{name}", "--gpu", "on", "--detach", *more, env=env)

    def dumped(self, *more, name="one"):
        status, out = self.dump(*more, name=name)
        expect(status == 0, f"dump: {out}")
        self.end_wait()

    def end_wait(self):
        wait_for(lambda: (reap(), not alive(self.pid))[1], "it does not end")

    def restored(self, *more, name="one", env=None):
        status, out = self.restore(*more, name=name, env=env)
        expect(status == 0, f"restore: {out}")
        self.goes_on()

    def refused(self, result, *words):
        """It failed, in one line with these words, and the program runs on with no checkpoint left."""
        status, out = result
        expect(status == 1 and out.startswith("Error: ") and out.count("\n") == 1, f"{status}, {out!r}")
        for word in words:
            expect(word in out, f"no {word!r} in {out!r}")
        expect(not glob.glob(self.work + "/one/inventory.img"), "there is a checkpoint")
        self.fail()

    def end(self):
        for pid in [self.pid, *self.rounds_of_dead()] if self.pid else []:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        wait_for(lambda: (reap(), not self.pid or all(stat_of(pid) is None for pid in [self.pid, *self.rounds_of_dead()]))[1], "it does not end")

    def rounds_of_dead(self):
        try:
            return list(self.rounds())
        except Failure:
            return []


# ---- it works ----

def rounds(w, *arguments):
    w.start(*arguments)
    for name in ("one", "two", "three"):
        w.dumped(name=name)
        w.restored(name=name)


def test_one(w):
    rounds(w)


def test_processes(w):
    """Several with a GPU, on both devices, and children without."""
    rounds(w, "-n", "4", "-c", "3")


def test_signals(w):
    """A timer of the program's fires all the time; the driver's thread is not disturbed by it."""
    rounds(w, "-s")


def test_work_under_way(w):
    """What was given to the device before the lock is finished first."""
    rounds(w, "-l", "200")


def test_leave_running(w):
    w.start("-n", "3")
    for name in ("one", "two"):
        status, out = w.dump("--leave-running", name=name)
        expect(status == 0, out)
        w.goes_on()
    os.kill(w.pid, signal.SIGKILL)
    wait_for(lambda: (reap(), all(stat_of(pid) is None for pid in w.rounds()))[1], "it does not end")
    os.rename(w.out, w.out + ".old")
    status, out = w.restore(name="two")
    expect(status == 0, out)
    wait_for(lambda: len(w.rounds()) == 3, "not all of it goes on")
    w.goes_on()


def test_leave_stopped(w):
    w.start()
    status, out = w.dump("--leave-stopped")
    expect(status == 0, out)
    wait_for(lambda: stat_of(w.pid)[0] == "T", "it is not stopped")
    os.kill(w.pid, signal.SIGCONT)
    w.goes_on()


def test_archive_has_memory(w):
    """What the checkpoint says of GPUs."""
    w.start()
    w.dumped()
    status, out = w.command("inspect", w.work + "/one")
    expect(status == 0 and "GPU" in out and "Fake H200" in out and "580.65.06" in out, out)
    status, out = w.command("inspect", w.work + "/one", "--json")
    expect(status == 0 and '"gpu"' in out, out)
    w.restored()


def test_already_checkpointed(w):
    """One that somebody else has put to rest stays so."""
    w.start()
    script = ("import ctypes, os, sys; c = ctypes.CDLL('libcuda.so.1'); pid = int(sys.argv[1]); z = (ctypes.c_char * 64)()\n"
              "sys.exit(any(getattr(c, 'cuCheckpointProcess' + name)(pid, z) for name in sys.argv[2:]))")
    def driver(*names):
        expect(subprocess.run([sys.executable, "-c", script, str(w.pid), *names], env=w.environment()).returncode == 0, names)
    driver("Lock", "Checkpoint")
    w.dumped()
    status, out = w.restore()
    expect(status == 0, out)
    before = w.rounds()
    time.sleep(0.2)
    expect(w.rounds() == before, "it was woken")
    driver("Restore", "Unlock")
    w.goes_on()


def test_tool(w):
    """A driver without the calls: its program makes them. It is found in PATH, and loads a library of its own."""
    w.start("-n", "2")
    # The program must find the library with the calls, and we the one without.
    tool = w.work + "/bin"
    os.mkdir(tool)
    with open(tool + "/cuda-checkpoint", "w") as file:
        file.write(f"#!/bin/sh\nLD_LIBRARY_PATH={FAKES} exec {FAKES}/cuda-checkpoint \"$@\"\n")
    os.chmod(tool + "/cuda-checkpoint", 0o755)
    old = {"LD_LIBRARY_PATH": FAKES + "/old:" + FAKES}
    w.refused(w.dump(env=old), "install 570")
    old["PATH"] = tool + ":" + os.environ["PATH"]
    for _ in range(2):
        w.goes_on()
        status, out = w.dump(env=old)
        expect(status == 0, out)
        w.end_wait()
        w.restored(env=old)
        subprocess.run(["rm", "-r", w.work + "/one"], check=True)
    w.fail("lock 801")
    w.refused(w.dump(env=old), "can't be saved")


def test_check(w):
    w.start("-c", "1")
    status, out = w.command("check", "process", w.pid, "--gpu", "on")
    expect(status == 0 and "can be saved" in out, out)
    status, out = w.command("check", "process", w.pid, "--gpu", "on", env={"FAKE_MIG": "1"})
    expect(status == 1 and "MIG" in out, out)
    w.goes_on()


# ---- it is refused ----

def test_off(w):
    """Without the driver's help a CUDA process is not saved, never mind what of it could be."""
    w.start()
    status, out = w.command("dump", "process", w.pid, "--gpu", "off", "--dir", w.work, "--name", "one")
    w.refused((status, out), "/dev/loop-control")
    w.goes_on()


def test_no_driver(w):
    w.start()
    os.mkdir(w.work + "/empty")
    w.refused(w.dump(env={"LD_LIBRARY_PATH": w.work + "/empty"}), "uses CUDA", "can't be loaded")
    w.fail("init 100")
    w.refused(w.dump(), "uses CUDA", "does not start")
    w.goes_on()


def test_lock_timeout(w):
    w.start("-l", "3000")
    w.refused(w.dump("--gpu-timeout", "1"), "did not end within 1000 ms", "--gpu-timeout")
    w.goes_on()


def test_mig(w):
    w.start()
    w.refused(w.dump(env={"FAKE_MIG": "1"}), "MIG")
    w.goes_on()


def test_errors(w):
    """Each call fails, in the first process and in another."""
    w.start("-n", "2")
    other = max(w.rounds())
    for call in ("state", "lock", "checkpoint"):
        for code, word in ((801, "can't be saved" if call != "state" else "state"), (2, ""), (999, "")):
            for pid in ("", f" {w.pid}", f" {other}"):
                w.fail(f"{call} {code}{pid}")
                w.refused(w.dump(), word)
                w.goes_on()


def test_hangs(w):
    """The driver does not answer; the program must not hang with it, as far as that is in our hands."""
    w.start("-n", "2")
    for call in ("lock", "checkpoint"):
        w.fail(f"{call} hang {w.pid}")
        status, out = w.dump("--gpu-deadline", "1")
        expect(status == 1 and "did not finish" in out, out)
        expect(all(alive(pid) for pid in w.rounds()), "it has ended")
        for pid in w.rounds():
            for path in glob.glob(f"/proc/{pid}/task/*/status"):
                untraced(path)
        w.end()
        w.no_helper()  # it has waited for the driver
        os.unlink(w.out)
        w.fail()
        w.start("-n", "2")


def test_dies(w):
    """The process ends in the middle of a call of the driver's."""
    for call in ("lock", "checkpoint"):
        w.start()
        w.fail(f"{call} die")
        status, out = w.dump("--gpu-deadline", "5")
        expect(status == 1 and out.startswith("Error: "), out)
        expect(not glob.glob(w.work + "/one/inventory.img"), "there is a checkpoint")
        w.no_helper()
        w.fail()
        wait_for(lambda: (reap(), not alive(w.pid))[1], "it does not end")
        os.unlink(w.out)


def test_resume_fails(w):
    """The checkpoint is whole, and the program can't be given its GPU again: both is said."""
    w.start()
    w.fail("restore 999")
    status, out = w.dump("--leave-running")
    expect(status == 1 and "the checkpoint is written" in out and "cuda-checkpoint" in out, out)
    w.end()
    w.fail()
    w.restored()


def test_restore_errors(w):
    """A restore that fails leaves no process and no helper behind, and can be tried again."""
    w.start("-n", "2")
    pids = list(w.rounds())
    w.dumped()
    for line in ("restore 999", "restore 2", f"unlock 999 {max(pids)}", f"restore die {w.pid}", f"restore hang {max(pids)}", "init 100"):
        w.fail(line)
        status, out = w.restore("--gpu-deadline", "1")
        expect(status == 1 and out.startswith("Error: ") and out.count("\n") == 1, (line, status, out))
        reap()
        expect(not any(alive(pid) for pid in pids), f"{line}: something runs")
        w.no_helper()
    w.fail()
    for env, word in (({"FAKE_GPU_NAME": "Other"}, "another model"), ({"FAKE_FREE_MIB": "0"}, "free"),
                      ({"FAKE_GPU_FIRST": "4", "FAKE_GPU_NAME": "Other"}, "--gpu-map"),
                      ({"FAKE_GPU_FIRST": "4", "FAKE_CUDA_VERSION": "12080"}, "580")):
        status, out = w.restore(env=env)
        expect(status == 1 and word in out, (env, out))
    w.restored()


def uuid(n):
    return f"GPU-01234567-89ab-cdef-0123-4567890000{n:02x}"


def test_other_gpus(w):
    """GPUs of another machine take the place of those of the checkpoint, by themselves or as told."""
    w.start("-n", "2")
    w.dumped()
    w.restored(env={"FAKE_GPU_FIRST": "4"})
    expect(sorted(int(read(path).split()[0]) for path in glob.glob(w.dev + "/user-*")) == [4, 5], "the devices in use")
    w.end()
    for path in glob.glob(w.dev + "/user-*"):
        os.unlink(path)
    w.restored("--gpu-map", f"{uuid(0)}={uuid(1)}", "--gpu-map", f"{uuid(1)}={uuid(0)}")
    expect(sorted(int(read(path).split()[0]) for path in glob.glob(w.dev + "/user-*")) == [0, 1], "the devices in use")
    w.end()
    status, out = w.restore("--gpu-map", f"{uuid(0)}={uuid(9)}")
    expect(status == 1 and uuid(9) in out, out)


# ---- device memory that the helper copies ----

MORE = ("-m", "22", "-b")   # on each of both devices; a third of it zeroes


def gpu_images(w, name="one"):
    return sorted(glob.glob(f"{w.work}/{name}/gpu-*.img"))


def verified(w, where):
    status, out = w.command("verify", where)
    expect(status == 0, out)


def test_custom_amounts(w):
    """What several processes have on both devices, several times; zeroes take no room."""
    w.start(*MORE, "-n", "2")
    for name in ("one", "two", "three"):
        w.dumped(name=name)
        expect(len(gpu_images(w, name)) == 2, "there are no images of device memory")
        for path in gpu_images(w, name):
            stat = os.stat(path)
            expect(stat.st_blocks * 512 < stat.st_size * 3 // 4, f"{path}: {stat.st_blocks * 512} of {stat.st_size}")
        verified(w, f"{w.work}/{name}")
        w.restored(name=name)
    status, out = w.command("inspect", w.work + "/three")
    expect(status == 0 and "gpu-" in out and out.count("of it in gpu-") == 4, out)


def test_custom_packed(w):
    """In archives and in a store; and without the helper's way on the same driver."""
    w.start(*MORE)
    for number, options in enumerate((["--compression", "tar"], ["--compression", "zstd"], ["--compression", "gzip"], ["--compression", "lz4", "--streams", "3"])):
        w.dumped(*options, name=f"p{number}")
        path = glob.glob(f"{w.work}/p{number}*")[0]
        verified(w, path)
        w.restored(name=os.path.basename(path))
    status, out = w.command("dump", "process", w.pid, "--gpu", "on", "--dir", f"store:{w.work}/store", "--name", "s")
    expect(status == 0, out)
    w.end_wait()
    status, out = w.command("restore", "process", "--path", f"store:{w.work}/store/s", "--gpu", "on", "--detach")
    expect(status == 0, out)
    w.goes_on()
    w.dumped("--gpu-staged", name="staged")
    expect(not gpu_images(w, "staged"), "it has an image of device memory")
    w.restored(name="staged")


def test_custom_no_live(w):
    """It stands still until all is written, and goes on."""
    w.start(*MORE)
    for options in (["--no-live"], ["--no-live", "--compression", "zstd"]):
        status, out = w.dump("--leave-running", *options, name=f"n{len(options)}")
        expect(status == 0, out)
        w.goes_on()
    w.end()
    w.restored(name="n1")


def behind(w, *options):
    """A live dump: the program must get on while the checkpoint is being written. Packing is slow enough to see it."""
    task = w.command("dump", "process", w.pid, "--gpu", "on", "--dir", w.work, "--name", "one", "--leave-running", "--compression", "zstd:9", "-v4", *options,
                     background=True)
    said, before = [], None
    for line in task.stdout:
        said.append(line)
        if "It stood still" in line:
            before = w.rounds()
            break
    expect(before, "".join(said))
    wait_for(lambda: task.poll() is not None or all(w.rounds()[pid] > n + 3 for pid, n in before.items()), "it does not get on")
    running = task.poll() is None
    rest = task.communicate(timeout=3 * DEADLINE)[0]
    expect(task.returncode == 0, rest)
    expect(running and not any("Dumping finished" in line for line in said), "the program went on only when all was written")
    w.goes_on()
    w.end()
    status, out = w.restore(name="one.tar.zst")
    expect(status == 0, out)
    w.goes_on()


def test_behind(w):
    w.start("-m", "12")
    behind(w)


def test_custom_damaged(w):
    """A byte of device memory is another: nothing runs."""
    w.start(*MORE)
    w.dumped()
    path = gpu_images(w)[0]
    with open(path, "r+b") as file:
        file.seek(9 << 20)
        byte = file.read(1)
        file.seek(9 << 20)
        file.write(bytes([byte[0] ^ 1]))
    before = w.rounds()
    status, out = w.restore()
    expect(status == 1 and os.path.basename(path) in out and "damaged" in out, out)
    expect(w.rounds() == before and not alive(w.pid), "something ran")
    with open(path, "r+b") as file:
        file.seek(9 << 20)
        file.write(byte)
    os.truncate(path, os.path.getsize(path) - 4096)
    status, out = w.restore()
    expect(status == 1 and os.path.basename(path) in out and "damaged" in out, out)
    os.unlink(path)
    status, out = w.restore()
    expect(status == 1 and os.path.basename(path) in out, out)
    w.no_helper()


def test_custom_damaged_archive(w):
    w.start(*MORE)
    w.dumped("--compression", "tar")
    path = w.work + "/one.tar"
    with open(path, "r+b") as file:
        file.seek(12 << 20)
        byte = file.read(1)
        file.seek(12 << 20)
        file.write(bytes([byte[0] ^ 1]))
    status, out = w.restore(name="one.tar")
    expect(status == 1 and "damaged" in out and not alive(w.pid), out)


def test_custom_copies_fail(w):
    """A copy fails in the middle: what is on the devices is kept, and the process has it again."""
    w.start(*MORE, "-n", "2")
    for line in ("copy 2*1", "copy 700*1", "host 2*1", "retain 2", "checkpoint 801", "checkpoint 2", "complete 999*1"):
        w.fail(line)
        status, out = w.dump(name="one")
        expect(status == 1 and out.startswith("Error: "), f"{line}: {status} {out}")
        expect(not os.path.exists(w.work + "/one/inventory.img"), "there is a checkpoint")
        w.fail()
        if "complete" in line:
            w.end()  # the driver itself stands in the middle of it: no way back is known
            break
        try:
            w.goes_on()
        except Failure as why:
            raise Failure(f"{line}: {why} {out}")


def test_custom_restore_fails(w):
    w.start(*MORE)
    w.dumped()
    for line in ("copy 2", "copy die", "complete 999", "complete die", "complete hang", "restore 2", "host 2", "retain 2"):
        w.fail(line)
        status, out = w.restore("--gpu-deadline", "1")
        expect(status == 1 and out.startswith("Error: ") and out.count("\n") == 1, (line, status, out))
        reap()
        expect(not alive(w.pid), f"{line}: something runs")
    w.fail()
    w.restored()
    w.end()
    w.fail("copy hang")
    status, out = w.restore("--gpu-deadline", "1")
    expect(status == 1 and "did not finish" in out and not alive(w.pid), out)


def test_custom_other_driver(w):
    """Without custom storage it can't be restored, and that is said before anything is made."""
    w.start()
    w.dumped()
    w.custom = False
    status, out = w.restore()
    expect(status == 1 and "615" in out and "--gpu-staged" in out and not alive(w.pid), out)
    w.custom = True
    w.restored()


def test_custom_hangs_copying(w):
    """The bus stands still: the dump gives up, and the process waits in its next call, alive."""
    w.start(*MORE)
    w.fail("copy hang")
    status, out = w.dump("--gpu-deadline", "1")
    expect(status == 1 and "did not finish" in out, out)
    expect(alive(w.pid), "it has ended")
    for path in glob.glob(f"/proc/{w.pid}/task/*/status"):
        untraced(path)


def test_custom_helper_dies(w):
    """In the middle of a copy: the driver has no way back from there, which is said; the program itself is let go. Later: a new helper puts it back."""
    w.start(*MORE)
    w.fail("copy die")
    status, out = w.dump()
    expect(status == 1 and "can't be put back" in out and not os.path.exists(w.work + "/one/inventory.img"), out)
    expect(alive(w.pid), "it has ended")
    for path in glob.glob(f"/proc/{w.pid}/task/*/status"):
        untraced(path)
    w.end()
    w.fail()
    os.unlink(w.out)
    w.start(*MORE)
    later_dies(w)


def later_dies(w):
    """The helper dies when all is checkpointed: another one, which asks the driver where it stands, goes on."""
    task = w.command("dump", "process", w.pid, "--gpu", "on", "--dir", w.work, "--name", "one", "--leave-running", "--no-live", "--compression", "zstd:9", "-v4",
                     background=True)
    said = []
    for line in task.stdout:
        said.append(line)
        if "The GPU state" in line:
            break
    helper = next(pid for pid in children_of(task.pid) if comm_of(pid) == "fermata-gpu")
    os.kill(helper, signal.SIGKILL)
    rest = task.communicate(timeout=3 * DEADLINE)[0]
    expect(task.returncode == 0 and "another one goes on" in rest, "".join(said) + rest)
    w.goes_on()


def test_helper_dies(w):
    w.start("-m", "22")
    later_dies(w)


def full_disk(w, mib, *options, env=None):
    disk = w.work + "/disk"
    os.mkdir(disk)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "fermata-test", disk], check=True)
    try:
        return w.command("dump", "process", w.pid, "--gpu", "on", "--dir", disk, "--name", "one", *options, env=env)
    finally:
        subprocess.run(["umount", disk], check=True)
        os.rmdir(disk)


@contextlib.contextmanager
def nvidia_device():
    """The driver's device has a name as NVIDIA's have."""
    device = f"/dev/nvidia-test{os.getpid()}"
    os.mknod(device, 0o600 | stat_module.S_IFCHR, os.stat("/dev/loop-control").st_rdev)
    os.environ["FAKE_DEVICE"] = device
    try:
        yield device
    finally:
        del os.environ["FAKE_DEVICE"]
        os.unlink(device)


def test_bystanders(w):
    """A child that has a device of the GPU open and does not use CUDA: said before anything is touched."""
    with nvidia_device() as device:
        w.start("-i", "1")
        w.fail("lock 999")  # it does not come to that
        w.refused(w.dump(), device, "without using CUDA", "close it there")
        status, out = w.command("check", "process", w.pid, "--gpu", "on")
        expect(status == 1 and "without using CUDA" in out, out)
        w.goes_on()


def test_latecomer(w):
    """A process begins to use a GPU while the tree is being locked and stopped: it is in the checkpoint with its GPU, or not yet using one."""
    with nvidia_device():
        join_at_all_times(w)


def join_at_all_times(w):
    for number in range(12):
        w.start("-j", str(number * 400))
        status, out = w.dump("--leave-running", "-v3", name=f"l{number}")
        expect(status == 0, f"{number}: {out}")
        wait_for(lambda: len(w.rounds()) == 2, "the second does not begin")
        w.goes_on()
        pids = list(w.rounds())
        w.end()
        os.unlink(w.out)
        for path in glob.glob(w.dev + "/locked-*"):
            os.unlink(path)
        status, out = w.restore(name=f"l{number}")
        expect(status == 0, f"{number}: {out}")
        open(f"{w.dev}/locked-{w.pid}", "w").close()  # for one that was not using it yet
        wait_for(lambda: sorted(w.rounds()) == sorted(pids), f"{number}: not both go on")
        w.goes_on()
        w.end()
        os.unlink(w.out)
        for path in glob.glob(w.dev + "/locked-*"):
            os.unlink(path)


def test_bench(w):
    task = subprocess.run([sys.executable, os.path.join(ROOT, "bench/gpu.py"), "--fake", "--sizes", "0.01", "--dir", w.work], stdout=subprocess.PIPE, text=True,
                          timeout=6 * DEADLINE, stdin=subprocess.DEVNULL)
    rows = [line for line in task.stdout.splitlines() if line.startswith("| 0.01 |")]
    expect(task.returncode == 0 and "say nothing of a GPU" in task.stdout and len(rows) == 2, task.stdout)
    expect(not any("–" in row for row in rows), rows)  # every phase was found


def test_unsaveable(w):
    """MPS, memory of other machines, a debugger: told before anything is touched."""
    mps = w.work + "/nvidia-cuda-mps-server"
    shutil.copy("/bin/sleep", mps)
    server = subprocess.Popen([mps, "1000"])
    folder = "/dev/nvidia-caps-imex-channels"
    made = not os.path.exists(folder)
    device = f"{folder}/test{os.getpid()}"
    try:
        w.start()
        w.fail("lock 999")  # it does not come to that
        with open(f"{w.dev}/user-{server.pid}", "w") as file:
            file.write("0 1000\n")
        w.refused(w.dump(), "MPS", "nvidia-cuda-mps-control")
        os.unlink(f"{w.dev}/user-{server.pid}")
        w.goes_on()
        tracer = subprocess.Popen(["strace", "-p", str(w.pid), "-o", "/dev/null"], stderr=subprocess.DEVNULL)
        wait_for(lambda: f"TracerPid:\t{tracer.pid}\n" in read(f"/proc/{w.pid}/status"), "strace does not begin")
        w.fail("lock 999")
        w.refused(w.dump(), "debugged by process", str(tracer.pid))
        tracer.terminate()
        tracer.wait()
        w.end()
        os.unlink(w.out)
        os.makedirs(folder, exist_ok=True)
        os.mknod(device, 0o600 | stat_module.S_IFCHR, os.stat("/dev/loop-control").st_rdev)
        os.environ["FAKE_DEVICE"] = device
        w.start()
        w.fail("lock 999")
        w.refused(w.dump(), device, "other machines")
        w.goes_on()
    finally:
        os.environ.pop("FAKE_DEVICE", None)
        server.kill()
        server.wait()
        if os.path.exists(device):
            os.unlink(device)
        if made and os.path.exists(folder):
            os.rmdir(folder)


def test_smi(w):
    """Without NVML nvidia-smi tells: versions of any number of parts, memory, who uses which GPU."""
    libraries, programs = w.work + "/libraries", w.work + "/bin"
    os.mkdir(libraries)
    os.mkdir(programs)
    os.symlink(f"{FAKES}/libcuda.so.1", libraries + "/libcuda.so.1")
    w.start()
    script = f"""#!/bin/sh
case "$1" in
  --query-gpu*) echo "{uuid(0)}, Fake H200, 4096, 4000, 580.65.06.1.2, [N/A]"; echo "{uuid(1)}, Fake H200, 4096, 4096, 580.65.06.1.2, Disabled" ;;
  *) echo "{w.pid}, {uuid(0)}, 17" ;;
esac
"""
    with open(programs + "/nvidia-smi", "w") as file:
        file.write(script)
    os.chmod(programs + "/nvidia-smi", 0o755)
    env = {"LD_LIBRARY_PATH": libraries, "PATH": programs + ":" + os.environ["PATH"]}
    status, out = w.dump(env=env)
    expect(status == 0, out)
    w.end_wait()
    status, out = w.command("inspect", w.work + "/one")
    expect("580.65.06.1.2" in out and "17.0 MiB on GPU" in out.replace("17 MiB", "17.0 MiB") and uuid(0) in out, out)
    w.restored(env=env)


def test_seen(w):
    """What check, inspect and job list tell of GPUs, their software and CDI."""
    cdi = w.work + "/cdi"
    os.mkdir(cdi)
    library = f"{FAKES}/libcuda.so.1"
    with open(cdi + "/nvidia.yaml", "w") as file:
        file.write("cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ncontainerEdits:\n  mounts:\n"
                   f"  - hostPath: {library}\n    containerPath: /usr/lib/libcuda.so.1\n  hooks:\n  - hookName: createContainer\n    path: /usr/bin/nvidia-cdi-hook\n"
                   f"    args: [nvidia-cdi-hook, enable-cuda-compat, --host-driver-version=580.65.06]\ndevices:\n"
                   + "".join(f"- name: {uuid(n)}\n  containerEdits:\n    deviceNodes: [{{path: /dev/loop-control}}]\n" for n in (0, 1)))
    on = {"FERMATA_GPU": "on", "FERMATA_CDI_DIRS": cdi}
    status, out = w.command("check", "--full", env=on)
    part = out[out.index("\nGPU\n"):out.index("\nruntimes")]
    expect("Fake H200" in part and uuid(1) in part and "4096 MiB" in part and "580.65.06, CUDA 13.0" in part and "2 devices" in part and "missing" not in part, part)
    status, out = w.command("check", "--full", env={**on, "FAKE_DRIVER": "615.43.02.7"})
    expect("it is of driver 580.65.06, and 615.43.02.7 is loaded" in out and "nvidia-ctk cdi generate" in out, out)
    status, out = w.command("check", "--full", "--json", env={**on, "FAKE_GPU_FIRST": "1"})
    gpus = json.loads(out)["gpus"]
    expect(gpus[-1]["name"] == "CDI" and not gpus[-1]["works"] and uuid(0) in gpus[-1]["why"] and gpus[1]["path"] == uuid(1), gpus)
    w.start()
    w.dumped()
    status, out = w.command("inspect", w.work + "/one")
    expect(f"{library}" in out.replace(os.path.realpath(library), library) and "build id" in out and "not saved" in out, out)
    status, out = w.command("inspect", w.work + "/one", "--json")
    externals = json.loads(out)["gpu"]["externals"]
    expect(any("libcuda.so" in one["path"] and len(one["build_id"]) >= 32 for one in externals), externals)
    status, out = w.restore("-v3", env={"FAKE_DRIVER": "590.44.01"})
    expect(status == 0 and "compatible: driver 590.44.01 here, 580.65.06 then" in out, out)
    w.goes_on()


def test_other_library(w):
    """The process has the code of its libcuda mapped: another build of it is refused before any process is made."""
    own = w.work + "/lib"
    os.mkdir(own)
    shutil.copy(f"{FAKES}/libcuda.so.1", own)
    os.environ["LD_LIBRARY_PATH_APP"] = own
    try:
        w.start()
    finally:
        del os.environ["LD_LIBRARY_PATH_APP"]
    w.dumped()
    status, out = w.restore("-v3")
    expect(status == 0 and "GPU software is identical" in out, out)
    w.end()
    shutil.copy(f"{FAKES}/old/libcuda.so.1", own + "/other")
    os.rename(own + "/other", own + "/libcuda.so.1")
    status, out = w.restore()
    expect(status == 1 and "incompatible" in out and "build id" in out and not alive(w.pid), out)
    os.unlink(own + "/libcuda.so.1")
    with open(own + "/x.yaml", "w") as file:
        file.write(f"cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ncontainerEdits:\n  mounts:\n  - hostPath: /somewhere/else\n    containerPath: {own}/libcuda.so.1\n")
    status, out = w.restore(env={"FERMATA_CDI_DIRS": own})
    expect(status == 1 and "not here" in out and "/somewhere/else (CDI)" in out and not alive(w.pid), out)


def test_disk_full(w):
    """What is known to have no room is refused before anything is touched; what turns out to have none, put back."""
    w.start("-m", "22")
    for options, env, words in (([], None, ("has room for", "--compression")), ([], {"FAKE_NO_AMOUNTS": "1"}, ("No space left",)),
                                (["--leave-running"], {"FAKE_NO_AMOUNTS": "1"}, ("No space left",))):
        status, out = full_disk(w, 8, *options, env=env)
        expect(status == 1 and all(word in out for word in words), out)
        w.goes_on()


def test_custom_both_gpus(w):
    """Both devices of a process become the two of another machine, crosswise."""
    w.start(*MORE)
    w.dumped()
    w.restored("--gpu-map", f"{uuid(0)}={uuid(5)}", "--gpu-map", f"{uuid(1)}={uuid(4)}", env={"FAKE_GPU_FIRST": "4"})
    expect(sorted(int(line.split()[0]) for path in glob.glob(w.dev + "/user-*") for line in read(path).splitlines()) == [4, 5], "the devices in use")


# ---- by the daemon, whose helper has the driver loaded ----

class Daemon:
    def __init__(self, w):
        self.w, self.address = w, w.work + "/daemon.sock"
        self.settings = {"FERMATA_ADDRESS": self.address, "FERMATA_DB_PATH": w.work + "/state/db", "FERMATA_LOG_DIR": w.work,
                         "FERMATA_CHECKPOINT_DIR": w.work, "FERMATA_GPU_HELPER": "on", "FERMATA_GPU": "on"}
        self.task = subprocess.Popen([BINARY, "daemon", "start"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=open(w.work + "/log", "w"),
                                     env=w.environment(self.settings), start_new_session=True)
        wait_for(lambda: os.path.exists(self.address) and self.helper(), "the daemon does not start")

    def helper(self):
        return next((pid for pid in children_of(self.task.pid) if (stat_of(pid) or ["gone"])[0] != "Z" and comm_of(pid) == "fermata-gpud"), None)

    def command(self, *arguments):
        return self.w.command(*arguments, env=self.settings)

    def end(self):
        self.task.terminate()
        self.task.wait(timeout=DEADLINE)


def comm_of(pid):
    try:
        return read(f"/proc/{pid}/comm").strip()
    except OSError:
        return None


def test_resident(w):
    """The daemon's helper has called cuInit: later it would fail. Without the helper each dump starts the driver itself."""
    w.start("-n", "2")
    daemon = Daemon(w)
    try:
        helper = daemon.helper()
        for name in ("one", "two"):
            status, out = daemon.command("dump", "process", w.pid, "--gpu", "on", "--dir", w.work, "--name", name, "--leave-running")
            expect(status == 0, f"{out} {read(w.work + '/log')}")
            w.goes_on()
            w.fail("init 100")
        status, out = w.dump("--leave-running", name="three")
        expect(status == 1 and "does not start" in out, out)
        w.fail("init 100", "checkpoint 999")
        status, out = daemon.command("dump", "process", w.pid, "--gpu", "on", "--dir", w.work, "--name", "four")
        expect(status == 1 and daemon.helper() == helper, out)
        w.goes_on()
        w.fail("init 100", f"checkpoint hang {w.pid}")
        status, out = daemon.command("dump", "process", w.pid, "--gpu", "on", "--dir", w.work, "--name", "five", "--gpu-deadline", "1")
        expect(status == 1 and "did not finish" in out and daemon.helper() == helper, out)
        w.end()
        w.fail()
        os.unlink(w.out)
        w.start("-n", "2")
        os.kill(helper, signal.SIGKILL)
        status, out = daemon.command("dump", "process", w.pid, "--gpu", "on", "--dir", w.work, "--name", "six", "--leave-running")
        expect(status == 0, out)
        w.goes_on()
    finally:
        daemon.end()


def test_job_list(w):
    """The column of GPUs, and a job's checkpoint with a GPU."""
    daemon = Daemon(w)
    try:
        status, out = daemon.command("run", "process", "--jid", "g", os.path.join(FAKES, "gpu_app"), w.out)
        expect(status == 0, out)
        wait_for(lambda: w.rounds(), "the job does not start")
        status, out = daemon.command("run", "process", "--jid", "plain", "sleep", "1000")
        expect(status == 0, out)
        head, *lines = [line for line in daemon.command("job", "list")[1].splitlines() if line.startswith(("JOB", "g ", "plain "))]
        column = {line.split()[0]: line[head.index("GPU"):].split()[0] for line in lines}
        expect(column == {"g": "yes", "plain": "no"}, column)
        # Below the job's first process too.
        status, out = daemon.command("run", "process", "--jid", "below", "--", "sh", "-c", f"{os.path.join(FAKES, 'gpu_app')} {w.out}.below; true")
        expect(status == 0, out)
        wait_for(lambda: json.loads(daemon.command("job", "inspect", "below", "--json")[1])["gpu"] == "yes", "a process below is not seen")
        for jid in ("plain", "below"):
            status, out = daemon.command("job", "kill", jid)
            expect(status == 0, out)
        expect(json.loads(daemon.command("job", "inspect", "below", "--json")[1])["gpu"] == "no", "one that has ended")
        status, out = daemon.command("dump", "job", "g", *(["--gpu-staged"] if w.custom else []))
        expect(status == 0, out)
        status, out = daemon.command("restore", "job", "g")
        expect(status == 0, out)
        w.goes_on()
        status, out = daemon.command("job", "kill", "g")
        expect(status == 0, out)
    finally:
        daemon.end()


def test_resident_killed(w):
    """SIGKILL at any moment to who dumps for the daemon: the helper puts back what was done, and stays."""
    w.start("-n", "2", "-c", "1")
    daemon = Daemon(w)
    try:
        helper = daemon.helper()
        for number in range(KILLS):
            task = subprocess.Popen([BINARY, "dump", "process", str(w.pid), "--no-server", "--gpu", "on", "--dir", w.work, "--name", f"k{number}",
                                     "--leave-running"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                    env=w.environment({"FERMATA_GPU_SOCKET": w.work + "/state/gpu.sock"}))
            time.sleep(random.uniform(0, 0.3))
            task.kill()
            task.wait()
            w.goes_on()
        expect(daemon.helper() == helper, "the helper has ended")
    finally:
        daemon.end()
    wait_for(lambda: (reap(), stat_of(helper) is None)[1], "the helper stays when the daemon has ended")


# ---- it is killed ----

def test_killed(w):
    """SIGKILL at any moment of a dump: the helper puts back what was done."""
    w.start("-n", "2", "-c", "1")
    start = time.monotonic()
    status, out = w.dump("--leave-running", name="first")
    expect(status == 0, out)
    length = time.monotonic() - start
    finished = 0
    for number in range(KILLS):
        task = w.command("dump", "process", w.pid, "--gpu", "on", "--dir", w.work, "--name", f"k{number}", "--leave-running", background=True)
        time.sleep(random.uniform(0, 1.1) * length)
        task.kill()
        task.communicate()
        finished += task.returncode == 0
        w.goes_on()
    expect(finished < KILLS, "every dump had ended before it was killed")


# The others are run again on a driver with custom storage, where the helper copies device memory.
ONE_WAY = ("helper_dies", "unsaveable", "smi", "bench", "seen", "other_library", "bystanders", "tool", "already_checkpointed", "off", "no_driver", "mig")


def main():
    if not os.path.exists(os.path.join(FAKES, "gpu_app")):
        print("not ok gpu: not built\n0 passed, 1 failed, 0 skipped")
        return 1
    adopt()
    tests = [(name[5:], f) for name, f in globals().items() if name.startswith("test_")]
    for custom, name, test in [(custom, name, f) for custom in (False, True) for name, f in tests]:
        if (name.startswith("custom_") or name in ONE_WAY) and name.startswith("custom_") != custom:
            continue
        name = "custom_" + name if custom and not name.startswith("custom_") else name
        if not all(word in "gpu_" + name for word in sys.argv[1:]):
            continue
        with tempfile.TemporaryDirectory(prefix="fermata-gpu-", dir="/tmp") as work:
            world = World(work, custom)
            try:
                if not os.path.exists("/dev/loop-control"):
                    raise Skip("needs /dev/loop-control, which stands for a GPU")
                test(world)
                report("passed", name)
            except Skip as why:
                report("skipped", name, str(why))
            except (Failure, subprocess.TimeoutExpired, OSError) as why:
                report("failed", name, str(why)[:600])
            finally:
                world.end()
    return verdict()


if __name__ == "__main__":
    sys.exit(main())
