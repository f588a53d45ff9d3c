#!/usr/bin/env python3
"""Images that lie: about paths, ghosts, links, files of /proc, tables, registers, locks and watches. Each is refused before anything runs, with the reason.
The rest is as in run.py."""
import glob
import os
import shutil
import sys

from world import ROOT, Skip, Target, expect, main, read, restore_refused, tests_of, wait_gone


def packer():
    """The reader and writer of protobuf that the fuzz seeds are made with."""
    sys.path.insert(0, os.path.join(ROOT, "tests/fuzz"))
    import make_corpus
    return make_corpus


REG, GHOST, LINKED, PROCFS = 3, 1, 0, 2


def change(images, name, changer):
    """Gives each record of an image, as a list of [number, wire type, value], to `changer`."""
    pack = packer()
    path = os.path.join(images, name)
    with open(path, "rb") as file:
        data = file.read()
    found = [pack.fields(record) for record in pack.records(data)]
    for entry in found:
        changer(entry)
    with open(path, "wb") as file:
        file.write(pack.image(data[:8], [pack.message(entry) for entry in found]))
    if os.path.exists(os.path.join(images, "fermata.json")):
        os.unlink(os.path.join(images, "fermata.json"))


def change_files(images, old, changer):
    """The message of the regular file with that name."""
    pack, seen = packer(), []

    def one(entry):
        for field in entry:
            if field[0] == REG and field[1] == 2:
                reg = pack.fields(field[2])
                name = next(part for part in reg if part[0] == 6)
                if name[2] == old.encode():
                    changer(reg, name)
                    field[2] = pack.message(reg)
                    seen.append(name)
    change(images, "files.img", one)
    expect(seen, f"no file {old} in the images")


def rename_file(images, old, new):
    def changer(reg, name):
        name[2] = new.encode()
    change_files(images, old, changer)


def refused_copy(w, images, lie, *words):
    """Restores a copy of the images in which something is not true."""
    copy = images + ".lie"
    shutil.copytree(images, copy)
    try:
        lie(copy)
        restore_refused(w, copy, *words)
    finally:
        shutil.rmtree(copy)


def test_hostile_paths(w):
    w.known = []
    os.mkdir(os.path.join(w.work, "dir"))
    images, target = w.checkpoint("data = open('dir/data', 'w+')\ndata.write('12345')\ndata.flush()")
    where, path = os.path.join(w.work, "dir"), os.path.join(w.work, "dir/data")
    for name in (f"{where}/../dir/data", "dir/data", f"{where}/./data", "../../etc/passwd", path + "/.."):
        refused_copy(w, images, lambda copy, name=name: rename_file(copy, path, name), "the images are damaged", name)
    # The way leads elsewhere now.
    os.rename(where, where + ".away")
    os.symlink("dir.away", where)
    restore_refused(w, images, path, "symbolic link")
    os.unlink(where)
    os.rename(where + ".away", where)
    # Something else stands there: it is not opened.
    os.rename(path, path + ".away")
    for make in (lambda: os.mkfifo(path), lambda: os.mkdir(path), lambda: os.symlink("data.away", path),
                 lambda: os.mknod(path, 0o060600, os.makedev(7, 0)), lambda: os.mknod(path, 0o020600, os.makedev(10, 130))):
        make()
        restore_refused(w, images, path, "of another kind")
        (os.rmdir if os.path.isdir(path) and not os.path.islink(path) else os.unlink)(path)

    def untyped(reg, name):
        reg[:] = [part for part in reg if part[0] not in (8, 10)]
    os.mknod(path, 0o020600, os.makedev(10, 130))
    refused_copy(w, images, lambda copy: change_files(copy, path, untyped), path, "of another kind")
    os.unlink(path)
    os.rename(path + ".away", path)
    w.criu("restore", "-d", "-D", images).good()
    Target.wait(target)


def test_hostile_call(w):
    """What a thread is to go on with."""
    w.known = []
    images, target = w.checkpoint("")
    pack, name = packer(), f"core-{target.pid}.img"

    def lie(error, nr, left):
        def one(entry):
            thread = next(part for part in entry if part[0] == 5)
            inner = [part for part in pack.fields(thread[2]) if part[0] != 1040]
            call = [[1, 0, error], [2, 0, nr]] + ([[3, 0, left]] if left is not None else [])
            thread[2] = pack.message(inner + [[1040, 2, pack.message(call)]])
        return one
    with open(os.path.join(images, name), "rb") as file:
        core = pack.fields(pack.records(file.read())[0])
    registers = pack.fields(next(part for part in pack.fields(next(part for part in core if part[0] == 2)[2]) if part[0] == 2)[2])
    nr = next(part for part in registers if part[0] == 11)[2]
    for error, number, left in ((516, nr + 1, 5), (77, nr, None), (516, nr, None), (516, nr, 1 << 63), (514, nr + 1, None), (0, nr, 0)):
        refused_copy(w, images, lambda copy, one=lie(error, number, left): change(copy, name, one), "has a system call that can't be gone on with")
    w.criu("restore", "-d", "-D", images).good()
    Target.wait(target)


def test_hostile_registers(w):
    """States that no processor takes; the thread loads them itself."""
    w.known = []
    images, target = w.checkpoint("")
    pack, name = packer(), f"core-{target.pid}.img"

    def part(fields, number):
        return next(field for field in fields if field[0] == number)

    def lie(mxcsr=None, states=0):
        def one(entry):
            info = part(entry, 2)
            inner = pack.fields(info[2])
            fpu = part(inner, 3)
            registers = pack.fields(fpu[2])
            if mxcsr is not None:
                part(registers, 7)[2] = mxcsr
            xsave = part(registers, 13)
            more = pack.fields(xsave[2])
            part(more, 1)[2] |= states
            xsave[2] = pack.message(more)
            fpu[2] = pack.message(registers)
            info[2] = pack.message(inner)
        return one
    for one, word in ((lie(mxcsr=0xffff0000), "is damaged"), (lie(states=1 << 18), "registers that this processor lacks"),
                      (lie(states=1 << 63), "registers that this processor lacks"), (lie(states=1 << 8), "registers that this processor lacks")):
        refused_copy(w, images, lambda copy, one=one: change(copy, name, one), "FPU state" if word == "is damaged" else "thread", word)
    w.criu("restore", "-d", "-D", images).good()
    Target.wait(target)


def test_hostile_ghosts(w):
    w.known = []
    where = os.path.join(w.work, "dir")
    os.mkdir(where)
    images, target = w.checkpoint("data = open('dir/gone', 'w+')\ndata.write('12345')\ndata.flush()\nos.unlink('dir/gone')\n"
                                  "null = os.open('/dev/null', os.O_RDONLY)")
    path, other = os.path.join(where, "gone"), os.path.join(w.work, "other")
    os.mkdir(other)
    for name in (f"{where}/../other/gone", "gone", "../gone", f"{where}/.."):
        refused_copy(w, images, lambda copy, name=name: rename_file(copy, path, name), "the images are damaged", name)
    os.rename(where, where + ".away")
    os.symlink("other", where)
    restore_refused(w, images, path, "symbolic link")
    expect(not os.listdir(other), os.listdir(other))
    os.unlink(where)
    os.rename(where + ".away", where)
    # A ghost that is a disk, or a device that acts when it is opened.
    for mode, device in ((0o060600, 0x700), (0o020600, 0xa82)):
        def kind(entry, mode=mode, device=device):
            for field in entry:
                if field[0] == 3:
                    field[2] = mode
            entry.append([6, 0, device])
        ghost = os.path.basename(glob.glob(os.path.join(images, "ghost-file-*"))[0])

        def lie(copy, kind=kind):
            pack, full = packer(), os.path.join(copy, ghost)
            with open(full, "rb") as file:
                data = file.read()
            head = pack.fields(pack.records(data)[0])
            kind(head)
            with open(full, "wb") as file:
                file.write(pack.image(data[:8], [pack.message(head)]))
            os.unlink(os.path.join(copy, "fermata.json"))
        refused_copy(w, images, lie, "damaged")
    # A way for a ghost, to any file.
    for kind, words in ((LINKED, "that no dump makes"), (PROCFS, "no name that a file was saved under"), (7, "not known")):
        def retype(entry, kind=kind):
            for field in entry:
                if field[0] == 3:
                    field[2] = kind
        refused_copy(w, images, lambda copy, retype=retype: change(copy, "remap-fpath.img", retype), words)
    w.criu("restore", "-d", "-D", images).good()
    Target.wait(target)


def test_hostile_links(w):
    w.known = []
    images = w.make_dir()
    target = Target(w.work, "data = open('first', 'w+')\ndata.write('12345')\ndata.flush()\nos.link('first', 'second')\nos.unlink('first')")
    w.criu("dump", "-t", target.pid, "-D", images, "--link-remap").good()
    wait_gone(target.pid)
    link = glob.glob(os.path.join(w.work, "link_remap.*"))[0]
    precious = os.path.join(w.work, "precious")
    with open(precious, "w") as file:
        file.write("12345")
    os.chmod(precious, os.stat(link).st_mode & 0o777)
    os.mkdir(os.path.join(w.work, "dir"))
    refused_copy(w, images, lambda copy: rename_file(copy, link, precious), "another name", "no dump makes")
    refused_copy(w, images, lambda copy: rename_file(copy, link, f"{w.work}/dir/../{os.path.basename(link)}"), "the images are damaged")
    refused_copy(w, images, lambda copy: rename_file(copy, link, os.path.basename(link)), "no dump makes")
    expect(os.path.exists(precious) and os.path.exists(link), os.listdir(w.work))
    w.criu("restore", "-d", "-D", images).good()
    Target.wait(target)
    expect(not os.path.exists(link) and os.path.exists(precious), os.listdir(w.work))


def test_hostile_proc(w):
    w.known = []
    images, target = w.checkpoint("comm = open('/proc/self/comm')")
    own = f"/proc/{target.pid}"
    for name in ("/root/etc/passwd", "/cwd/ticks", "/exe", "/fd/3", "/../1/comm"):
        refused_copy(w, images, lambda copy, name=name: rename_file(copy, own + "/comm", own + name), own + name)
    w.criu("restore", "-d", "-D", images).good()
    Target.wait(target)


def test_hostile_tables(w):
    """Descriptors that can't be, a million of them, and locks on what is not there."""
    w.known, pack = [], packer()
    images = w.make_dir()
    target = Target(w.work, "data = open('data', 'w+')\nfcntl.flock(data, fcntl.LOCK_EX)")
    w.criu("dump", "-t", target.pid, "-D", images, "--file-locks").good()
    wait_gone(target.pid)
    table = os.path.basename(glob.glob(os.path.join(images, "fdinfo-*"))[0])

    def more(numbers):
        def lie(copy):
            path = os.path.join(copy, table)
            with open(path, "rb") as file:
                data = file.read()
            found = pack.records(data)
            entry = pack.fields(found[0])
            number = next(field for field in entry if field[0] == 4)
            added = []
            for number[2] in numbers:
                added.append(pack.message(entry))
            with open(path, "wb") as file:
                file.write(pack.image(data[:8], found + added))
            os.unlink(os.path.join(copy, "fermata.json"))
        return lie
    refused_copy(w, images, more([1 << 20]), table, "damaged")
    refused_copy(w, images, more([(1 << 32) - 1]), table, "damaged")
    refused_copy(w, images, more([1]), table, "descriptor 1 twice")
    limit = int(read("/proc/sys/fs/nr_open"))
    if limit <= 1 << 20:
        refused_copy(w, images, more([(1 << 20) - 1]), "descriptors are needed", "ulimit -n")
        refused_copy(w, images, more(range(1000, 1 << 20)), "descriptors are needed", "ulimit -n")

    def lock(number, value):
        def changer(entry):
            for field in entry:
                if field[0] == number:
                    field[2] = value
        return lambda copy: change(copy, "filelocks.img", changer)
    for number, value in ((4, 999), (3, 1), (1, 77), (2, 9), (5, 1 << 63)):
        refused_copy(w, images, lock(number, value), "filelocks.img", "that can't be")

    def mapped(file):
        return lambda copy: change(copy, "filelocks.img", lambda entry: entry.append([1000, 0, file]))
    refused_copy(w, images, mapped(9999), "filelocks.img", "that can't be")
    w.criu("restore", "-d", "-D", images).good()
    Target.wait(target)


def change_inside(images, kind, changer):
    """The message of the one file of a kind, by its field of file_entry."""
    pack, seen = packer(), []

    def one(entry):
        for field in entry:
            if field[0] == kind and field[1] == 2:
                inner = pack.fields(field[2])
                changer(inner)
                field[2] = pack.message(inner)
                seen.append(kind)
    change(images, "files.img", one)
    expect(seen, f"no file of kind {kind}")


def test_hostile_memory_of_descriptors(w):
    """Rings of packet sockets and userfaultfds: sizes, places and areas that can't be."""
    w.known, pack = [], packer()
    packet, uffd = 6, 1007
    images, target = w.checkpoint("import ctypes, mmap, struct\nlibc = ctypes.CDLL(None)\ns = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)\n"
                                  "s.setsockopt(263, 10, 1)\ns.setsockopt(263, 5, struct.pack('IIII', 8192, 2, 512, 32))\ns.bind(('lo', 0x88b7))\n"
                                  "for i in range(3): s.sendto(b'x', ('lo', 0x88b7))\nring = mmap.mmap(s.fileno(), 16384)\n"
                                  "memory = mmap.mmap(-1, 65536)\nat = ctypes.addressof(ctypes.c_char.from_buffer(memory))\nwatch = libc.syscall(323, 1)\n"
                                  "api = ctypes.create_string_buffer(struct.pack('QQQ', 0xaa, 0, 0))\nassert libc.ioctl(watch, 0xc018aa3f, api) == 0\n"
                                  "area = ctypes.create_string_buffer(struct.pack('QQQQ', at, 65536, 1, 0))\nassert libc.ioctl(watch, 0xc020aa00, area) == 0\n")

    def inside(kind, outer, number, value):
        def lie(entry):
            for part in entry:
                if part[0] == outer:
                    inner = [field for field in pack.fields(part[2]) if field[0] != number]
                    part[2] = pack.message(inner + [[number, 0, value]])
        return lambda copy: change_inside(copy, kind, lie)
    for number, value in ((1, 0), (1, 8191), (1, (1 << 32) - 4096), (2, 0), (2, (1 << 32) - 1), (3, 0), (3, 16384), (4, 1 << 20), (4, 31)):
        refused_copy(w, images, inside(packet, 18, number, value), "with a ring that can't be")
    for value in (32, (1 << 32) - 1):
        refused_copy(w, images, inside(packet, 1001, 1, value), "with a ring that can't be")

    def piece(entry):
        for part in entry:
            if part[0] == 1 and part[1] == 0:  # behind it stands what is no message
                part[2] = 1 << 40
    refused_copy(w, images, lambda copy: change(copy, os.path.basename(glob.glob(os.path.join(copy, "packet-ring-*.img"))[0]), piece), "cannot fill the ring")
    for number, value in ((1, 1), (2, 4096), (3, 0), (3, 8)):
        refused_copy(w, images, inside(uffd, 5, number, value), "a userfaultfd that can't be")

    def other(entry):
        for part in entry:
            if part[0] == 3:
                part[2] = 1
    refused_copy(w, images, lambda copy: change_inside(copy, uffd, other), "which does not hold it")
    w.criu("restore", "-d", "-D", images).good()
    Target.wait(target)


def test_hostile_states(w):
    """States of the processor that a process is said to have asked for: there is no such."""
    w.known, pack = [], packer()
    images, target = w.checkpoint("pass")

    def states(bits):
        def one(entry):
            for field in entry:
                if field[0] == 3 and field[1] == 2:
                    field[2] = pack.message(pack.fields(field[2]) + [[1011, 0, bits]])
        return lambda copy: change(copy, f"core-{target.pid}.img", one)
    for bits in (1 << 62, 1 << 40 | 1):
        refused_copy(w, images, states(bits), f"process {target.pid} has asked for states of the processor")


def test_hostile_ring(w):
    """Requests of io_uring that can't be, or that another could not have submitted."""
    w.known, pack, uring = [], packer(), 1005
    images, target = w.checkpoint(
        "import ctypes, mmap, struct\nlibc = ctypes.CDLL(None)\np = (ctypes.c_uint32 * 30)()\nring = libc.syscall(425, 4, p)\nr, wr = os.pipe()\n"
        "m = mmap.mmap(ring, p[16] + 16)\nsqes = mmap.mmap(ring, 256, offset=0x10000000)\nsqes[:32] = struct.pack('<BBHiQQII', 6, 0, 0, r, 0, 0, 0, 1)\n"
        "m[p[11]:p[11] + 4] = struct.pack('<I', 1)\nassert libc.syscall(426, ring, 1, 0, 0, 0, 0) == 1")

    def requests(changer):
        def lie(inner):
            found = [part for part in inner if part[0] == 18]
            if pack.message(inner) and not found:
                raise Skip("this kernel does not let requests be seen")
            for part in found:
                request = pack.fields(part[2])
                changer(request)
                part[2] = pack.message(request)
        return lambda copy: change_inside(copy, uring, lie)

    def entry(changer):
        def lie(request):
            field = next(part for part in request if part[0] == 2)
            data = bytearray(field[2])
            field[2] = bytes(changer(data) or data)
        return requests(lie)

    def byte(at, value):
        def changer(data):
            data[at] = value
        return entry(changer)
    for lie in (byte(0, 18), byte(0, 255), byte(0, 11), byte(1, 4), byte(42, 1), entry(lambda data: data[:60]), entry(lambda data: data + b"1234"),
                requests(lambda request: request.append([3, 2, b"x" * 16])), requests(lambda request: request.append([4, 2, b"x" * 16])),
                requests(lambda request: request.append([4, 2, b"x"]))):
        refused_copy(w, images, lie, "ring that can't be")

    def number(field, value):
        return lambda copy: change_inside(copy, uring, lambda inner: inner.append([field, 0, value]))
    refused_copy(w, images, number(9, 0), "ring that can't be")
    refused_copy(w, images, number(3, 2 | 1 << 13), "ring that can't be")
    refused_copy(w, images, number(3, 1 << 1 | 1 << 6), "ring that can't be")
    refused_copy(w, images, number(3, 1 << 6), "ring that can't be")

    def other(request):
        next(part for part in request if part[0] == 1)[2] = 1
    refused_copy(w, images, requests(other), "thread 1, which")


def test_hostile_watches(w):
    w.known, pack = [], packer()
    os.mkdir(os.path.join(w.work, "dir"))
    images, target = w.checkpoint("import ctypes\nlibc = ctypes.CDLL(None)\nnotify = libc.inotify_init1(0o4000)\n"
                                  "assert libc.inotify_add_watch(notify, b'dir', 0x100) == 1\nopen('dir/name', 'w').close()")
    where, inotify = os.path.join(w.work, "dir"), 13

    def events(*values):
        def lie(inner):
            if pack.message(inner) and not [part for part in inner if part[0] == 1000]:
                raise Skip("this kernel does not let the events be seen")
            inner[:] = [part for part in inner if part[0] != 1000]
            for event in values:
                inner.append([1000, 2, pack.message(event)])
        return lambda copy: change_inside(copy, inotify, lie)

    def event(wd, mask, name):
        return [[1, 0, 2 * wd if wd >= 0 else -2 * wd - 1], [2, 0, mask], [4, 2, name]]
    for bad in (event(1, 0x100, b"../x"), event(1, 0x100, b".."), event(1, 0x100, b"/etc/x"), event(1, 0x100, b""), event(0, 0x100, b"x"),
                event(1, 0x2000, b""), event(1, 0x300, b"x"), event(1, 0x100, b"x" * 256), event(-5, 0x100, b"x"), event(1, 0, b"x")):
        refused_copy(w, images, events(bad), "events that can't be")

    def watch(changer):
        def lie(inner):
            for part in inner:
                if part[0] == 5:
                    watch = pack.fields(part[2])
                    changer(watch)
                    part[2] = pack.message(watch)
        return lambda copy: change_inside(copy, inotify, lie)

    def path(name):
        def changer(watch):
            handle = next(part for part in watch if part[0] == 7)
            inner = [part for part in pack.fields(handle[2]) if part[0] != 4]
            handle[2] = pack.message(inner + ([[4, 2, name]] if name else []))
        return watch(changer)

    def number(value):
        def changer(watch):
            next(part for part in watch if part[0] == 6)[2] = value
        return watch(changer)
    refused_copy(w, images, path(where.encode() + b"/../dir"), "the images are damaged")
    refused_copy(w, images, path(b"dir"), "the images are damaged")
    refused_copy(w, images, number(0), "number that can't be")
    refused_copy(w, images, number((1 << 32) - 1), "number that can't be")
    refused_copy(w, images, watch(lambda inner: inner.append([1000, 0, 9999])), "files.img lacks file 9999")
    os.rename(where, where + ".away")
    os.symlink("dir.away", where)
    restore_refused(w, images, where, "of another kind")
    os.unlink(where)
    os.rename(where + ".away", where)
    w.criu("restore", "-d", "-D", images).good()
    Target.wait(target)


if __name__ == "__main__":
    main(tests_of(globals()))
