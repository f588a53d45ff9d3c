#!/usr/bin/env python3
"""Makes the seeds of the fuzz targets from live tests' programs: dumps each, leaves out what is large (pages) and what is of this
machine (paths of programs and libraries), and packs the images as tests/fuzz/checkpoint.c takes them. Run it as root after `make`,
when the images have changed. Arguments select programs."""
import os
import shutil
import signal
import struct
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
CORPUS = os.path.join(HERE, "corpus")
BINARY = os.path.join(ROOT, "build/src/cli/fermata")
SANDBOX = "/mnt"
TCP = ["--tcp-established", "--network-lock", "skip"]
PROGRAMS = ["anon", "chroot", "creds", "epoll", "epoll_more", "epoll_oneshot", "epoll_tree", "eventfd", "fanotify", "fifo", "fifo_unlinked",
            "file_deleted", "file_deleted_dir", "file_deleted_linked", "file_proc", "file_proc_dead", "fork", "inotify",
            "inotify_gone", "inotify_queued", "io_uring", "io_uring_requests", "itimers", "locks_mapped", "map_anon_shared", "map_memfd", "memfd",
            "mempolicy", "mptcp", "mqueue", "mqueue_notify", "orphan", "pidfd", "pipe", "pipe_packet", "pipe_packet_ends", "pipe_tree", "rseq",
            "seccomp_filter", "seccomp_threads", "sem_undo", "sessions", "sessions_gone", "shares", "shares_all", "signalfd", "sigqueue",
            "stopped", "sysv_ipc", "sysv_shm", "tcp_listen", "tcp_opening", "tcp_options", "tcp_waiting", "thread_cwd", "thread_files", "threads", "timerfd", "timers_posix", "udp",
            "unix_backlog", "unix_connected", "unix_creds", "unix_dgram", "unix_listen", "unix_names", "unix_options",
            "unix_pending", "unix_pidfd", "unix_rights", "unix_senders", "unix_tree", "tun", "userfaultfd", "vsock", "zombies"]
OPTIONS = {"file_deleted_linked": ["--link-remap"], "file_deleted_dir": ["--link-remap"], "locks_mapped": ["--file-locks"], "mqueue": ["--host-ipc"], "sem_undo": ["--host-ipc"], "sysv_ipc": ["--host-ipc"],
           "tcp_opening": TCP, "tcp_options": TCP, "tcp_waiting": TCP}
PAGES_MAX = 8192
PACK_MAX = 60000


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def to_varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out + bytes([value]))


def fields(data):
    """A protobuf message as a list of [number, wire type, value]."""
    found, at = [], 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        elif key & 7 == 2:
            size, at = varint(data, at)
            value, at = data[at:at + size], at + size
        else:
            size = 8 if key & 7 == 1 else 4
            value, at = data[at:at + size], at + size
        found.append([key >> 3, key & 7, value])
    return found


def message(found):
    out = bytearray()
    for number, kind, value in found:
        out += to_varint(number << 3 | kind)
        out += to_varint(value) if kind == 0 else to_varint(len(value)) + value if kind == 2 else value
    return bytes(out)


def records(data, head=8):
    at, found = head, []
    while at + 4 <= len(data):
        size = struct.unpack_from("<I", data, at)[0]
        found.append(data[at + 4:at + 4 + size])
        at += 4 + size
    return found


def image(head, found):
    return head + b"".join(struct.pack("<I", len(record)) + record for record in found)


REG, REG_FLAGS, REG_NAME, REG_SIZE, REG_MODE = 3, 2, 6, 8, 10


def remapped(path):
    """The ids of files that have another name or none: those keep theirs."""
    path = os.path.join(path, "remap-fpath.img")
    if not os.path.exists(path):
        return set()
    with open(path, "rb") as file:
        return {next(value for number, _, value in fields(record) if number == 1) for record in records(file.read())}


def inside(data, path, change):
    """A message in which the messages that a path of field numbers leads to are changed."""
    found = fields(data)
    if not path:
        return message(change(found))
    for field in found:
        if field[0] == path[0] and field[1] == 2:
            field[2] = inside(field[2], path[1:], change)
    return message(found)


def set_path(number, value):
    """Puts a name into that field, and leaves out of what type it is."""
    return lambda found: [part for part in found if part[0] not in (number, 1000)] + [[number, 2, value.encode()]]


# What inotify and fanotify watch: the way to a handle or a mount in file_entry, the field of its name, and what that becomes.
WATCHED = [([13, 5, 7], 4, SANDBOX + "/file"), ([14, 6, 7, 2], 4, SANDBOX + "/file"), ([14, 6, 8], 2, SANDBOX)]


def move_file(record, kept):
    """What a file's entry names becomes the sandbox's own file, FIFO or directory."""
    for path, number, name in WATCHED:
        record = inside(record, path, set_path(number, name))
    entry = fields(record)
    for field in entry:
        if field[0] != REG or field[1] != 2:
            continue
        reg = fields(field[2])
        name = next(value for number, _, value in reg if number == REG_NAME)
        mode = next((value for number, _, value in reg if number == REG_MODE), 0o100644)
        if name.startswith(b"/proc/") or next(value for number, _, value in reg if number == 1) in kept:
            continue
        if b"/link_remap." in name:
            next(part for part in reg if part[0] == REG_NAME)[2] = (SANDBOX + "/link_remap.1").encode()
            field[2] = message(reg)
            continue
        directory, fifo = mode & 0o170000 == 0o040000, mode & 0o170000 == 0o010000
        for part in reg:
            if part[0] == REG_NAME:
                part[2] = SANDBOX.encode() if directory else (SANDBOX + ("/fifo" if fifo else "/file")).encode()
            elif part[0] == REG_MODE and not directory and not fifo:
                part[2] = 0o100644
        field[2] = message([part for part in reg if part[0] != REG_SIZE])
    return message(entry)


def images_of(path):
    for name in sorted(os.listdir(path)):
        with open(os.path.join(path, name), "rb") as file:
            data = file.read()
        if name in ("fermata.json", "stats-dump"):
            continue
        if name.startswith("pages-"):
            data = data[:PAGES_MAX] if len(data) <= PAGES_MAX else b""
        elif name == "files.img":
            data = image(data[:8], [move_file(record, remapped(path)) for record in records(data)])
        yield name, data


def save(folder, name, data):
    path = os.path.join(CORPUS, folder)
    os.makedirs(path, exist_ok=True)
    with open(os.path.join(path, name), "wb") as file:
        file.write(data)


def dump(name):
    """Gives the directory of images of a program, dumped where it says that it is ready."""
    work, images, verdict = SANDBOX, f"/tmp/corpus-{os.getpid()}", os.path.join(SANDBOX, "report")
    os.mkdir(images)
    open(verdict, "w").close()
    os.chmod(work, 0o777)
    os.chmod(verdict, 0o666)
    task = subprocess.Popen([os.path.join(ROOT, "build/tests/live_" + name), verdict], stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, cwd=work)
    end = time.monotonic() + 10
    while time.monotonic() < end and not os.path.getsize(verdict):
        time.sleep(0.01)
    time.sleep(0.05)
    done = subprocess.run(["criu", "dump", "-t", str(task.pid), "-D", images] + OPTIONS.get(name, []), executable=BINARY,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=work, check=False)
    try:
        os.killpg(task.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    task.wait()
    if done.returncode:
        print(f"{name}: {done.stderr.strip()}")
        return None
    return images


def main():
    if os.environ.get("CORPUS_SANDBOX") != "1":
        os.environ["CORPUS_SANDBOX"] = "1"
        os.execvp("unshare", ["unshare", "--mount", "--net", sys.executable, os.path.abspath(__file__)] + sys.argv[1:])
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", SANDBOX], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=False)
    seen = {}
    for name in sys.argv[1:] or PROGRAMS:
        images = dump(name)
        if not images:
            continue
        pack = b""
        for file, data in images_of(images):
            pack += bytes([len(file)]) + file.encode() + struct.pack("<I", len(data)) + data
            kind = file.split("-")[0].split(".")[0]
            if not file.startswith("pages-") and seen.setdefault(kind, 0) < 2 and len(data) < 4096:
                seen[kind] += 1
                save("image", f"{name}-{kind}", data)
        if len(pack) <= PACK_MAX:
            save("checkpoint", name, pack)
        else:
            print(f"{name}: {len(pack)} bytes, left out")
        shutil.rmtree(images)
        subprocess.run(["find", SANDBOX, "-mindepth", "1", "-delete"], check=False)


if __name__ == "__main__":
    main()
