#!/usr/bin/env python3
"""Tests of a daemon on TCP with mutual TLS: who may, who may not, and each verb of the command line through it. The certificates are made here, by openssl.

Arguments select tests by a part of their names. Runs as root."""
import http.client
import json
import os
import pty
import shutil
import socket
import ssl
import subprocess
import time

from world import BINARY, COUNT, DEADLINE, Skip, alive, expect, main, read, tests_of

SETTINGS = ("--protocol", "tcp")


def make_certificates(w):
    def openssl(*words):
        subprocess.run(["openssl", *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=w.work)

    for authority in ("ca", "other"):
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", authority + ".key", "-out", authority + ".pem", "-subj", "/CN=" + authority, "-days", "2")
    for name, authority, names in (("server", "ca", "DNS:localhost,IP:127.0.0.1"), ("named", "ca", "DNS:somewhere.example"), ("client", "ca", "DNS:client"),
                                   ("stranger", "other", "DNS:localhost,IP:127.0.0.1")):
        with open(f"{w.work}/{name}.ext", "w") as file:
            file.write(f"subjectAltName={names}\n")
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", name + ".key", "-out", name + ".csr", "-subj", "/CN=" + name)
        openssl("x509", "-req", "-in", name + ".csr", "-CA", authority + ".pem", "-CAkey", authority + ".key", "-CAcreateserial", "-out", name + ".pem", "-days", "2",
                "-extfile", name + ".ext")


def tls(w, name, authority="ca"):
    return {"cert": f"{w.work}/{name}.pem", "key": f"{w.work}/{name}.key", "ca": f"{w.work}/{authority}.pem"}


def prepare(w):
    """A free address, certificates, and the configuration of the daemon."""
    if not shutil.which("openssl"):
        raise Skip("needs openssl")
    make_certificates(w)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        w.port = probe.getsockname()[1]
    w.address = f"127.0.0.1:{w.port}"


def ask(w, name):
    """The status that a client gets who has the certificate `name`, or none; None: it is turned away."""
    context = ssl.create_default_context(cafile=w.work + "/ca.pem")
    context.check_hostname = False
    if name:
        context.load_cert_chain(f"{w.work}/{name}.pem", f"{w.work}/{name}.key")
    made = http.client.HTTPSConnection("127.0.0.1", w.port, context=context, timeout=DEADLINE)
    try:
        made.request("GET", "/v1/health")
        return made.getresponse().status
    except OSError:
        return None
    finally:
        made.close()


def start(w, certificate="server"):
    w.configure(protocol="tcp", address=w.address, tls=tls(w, certificate))
    w.answers = lambda: ask(w, "client") == 200
    w.start()
    # From here on commands have the client's certificate.
    w.configure(tls=tls(w, "client"))


def test_who_may(w):
    prepare(w)
    w.fermata("daemon", "start", "--protocol", "tcp", "--address", w.address).error("tls.cert")
    start(w)
    expect(ask(w, "client") == 200, "one with a certificate")
    expect(ask(w, "stranger") != 200 and ask(w, None) != 200, "one with another's certificate, or none")
    with socket.create_connection(("127.0.0.1", w.port), timeout=DEADLINE) as plain:
        plain.send(b"GET /v1/health HTTP/1.1\r\n\r\n")
        try:
            expect(b"200" not in plain.recv(100), "plain text")
        except OSError:
            pass
    w.configure(tls=tls(w, "stranger"))
    w.fermata("ps").error("")
    w.configure(tls=dict(tls(w, "client"), ca=w.work + "/other.pem"))
    w.fermata("ps").error("not to be trusted", "tls.ca")
    w.configure(tls={})
    w.fermata("ps").error("tls.cert", "--tls-ca")
    w.configure(tls=dict(tls(w, "client"), key=w.work + "/none"))
    w.fermata("ps").error("cannot use tls.cert")
    w.configure(tls=tls(w, "client"), address="127.0.0.1:1")
    w.fermata("ps").error("no daemon answers")
    w.configure(address="127.0.0.1")
    w.fermata("ps").error("HOST:PORT")


def test_names(w):
    """The daemon's certificate must be for the host, or for the name that is configured."""
    prepare(w)
    start(w, "named")
    w.fermata("ps").error("not to be trusted as 127.0.0.1", "tls.name")
    w.fermata("ps", "--tls-name", "somewhere.example").good()
    w.fermata("ps", "--tls-name", "elsewhere.example").error("elsewhere.example")
    w.fermata("ps", env={"FERMATA_TLS_NAME": "somewhere.example"}).good()


def test_settings(w):
    """On the command line, in the environment, or in the file."""
    prepare(w)
    start(w)
    os.unlink(w.work + "/config.json")
    words = [word for key, path in tls(w, "client").items() for word in ("--tls-" + key, path)]
    w.fermata("ps", "--protocol", "tcp", "--address", w.address, *words).good()
    w.fermata("ps", "--protocol", "tcp", "--address", f"localhost:{w.port}", *words).good()
    environment = {"FERMATA_TLS_" + key.upper(): path for key, path in tls(w, "client").items()}
    w.fermata("ps", env=dict(environment, FERMATA_PROTOCOL="tcp", FERMATA_ADDRESS=w.address)).good()
    w.fermata("ps", "--config", json.dumps({"protocol": "tcp", "address": w.address, "tls": tls(w, "client")})).good()
    w.fermata("ps", "--protocol", "tcp", "--address", w.address).error("tls.cert")
    cedana = w.work + "/cedana"
    os.symlink(BINARY, cedana)
    environment = {name.replace("FERMATA", "CEDANA"): value for name, value in environment.items()}
    w.fermata("ps", "--no-dir", env=dict(environment, CEDANA_PROTOCOL="tcp", CEDANA_ADDRESS=w.address), program=cedana).good()


def test_verbs(w):
    prepare(w)
    start(w)
    expect(w.fermata("daemon", "check").good().out.endswith("All good.\n"), "daemon check")
    pid = w.run("counter", options=["--pid-file", w.work + "/pid"])
    expect(int(read(w.work + "/pid")) == pid, "--pid-file")
    w.counts_on("counter")
    for verb in ("ps", "jobs"):
        expect(w.fermata(verb).good().out.splitlines()[1].startswith("counter"), verb)
    lists = [[line.split()[0] for line in w.fermata("job", verb).good().out.splitlines()] for verb in ("list", "ls")]
    expect(lists == [["JOB", "counter"]] * 2, lists)
    w.dump("counter")
    w.fermata("restore", "job", "counter").good()
    w.counts_on("counter")
    path = w.fermata("dump", "process", pid, "--leave-running", "--compression", "zstd", "--dir", w.work, "--name", "mine").good().out.split()[-1]
    expect(path == w.work + "/mine.tar.zst" and os.path.exists(path), path)
    for verb in ("freeze", "unfreeze"):
        w.fermata(verb, "job", "counter").good()
        w.fermata(verb, "process", pid).good()
    w.fermata("job", "set", "counter", "--checkpoint-every", "1h").good()
    expect(w.job("counter")["checkpoint_every"] == 3600, "job set")
    w.fermata("dump", "process", 4000000).error("no process 4000000")
    lines = w.fermata("job", "checkpoints", "counter").good().out.splitlines()
    expect(len(lines) == 3 and w.fermata("checkpoints").good().out.splitlines() == lines == w.fermata("job", "checkpoint", "list", "counter").good().out.splitlines(), lines)
    first = lines[-1].split()[0]
    expect(str(pid) in w.fermata("job", "checkpoint", "inspect", first).good().out, "inspect")
    store = w.fermata("dump", "job", "counter", "--leave-running", "--dir", "store:" + w.work + "/store", "--name", "one").good().out.split()[-1]
    for verb in ("ls", "stats", "verify", "prune"):
        w.fermata("store", verb, "store:" + w.work + "/store").good()
    w.fermata("store", "rm", store).good()
    w.fermata("checkpoint", "flatten", first).good()
    w.fermata("job", "kill", "counter").good()
    w.fermata("restore", "job", "counter", "--checkpoint", first).good()
    w.fermata("job", "kill", "counter").good()
    w.fermata("restore", "process", "--path", path).good()
    expect(alive(pid), "restored from a path")
    expect(len(w.fermata("job", "logs", "counter").good().out) > 10, "logs")
    w.fermata("job", "kill", "--all").good()
    w.fermata("job", "checkpoint", "delete", first).good()
    w.fermata("job", "delete", "--all", "--checkpoints").good()
    expect(w.fermata("ps").good().out == "No jobs found.\n", "all gone")
    task = subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    w.fermata("manage", "process", task.pid, "--jid", "mine").good()
    w.fermata("job", "kill", "mine").good()
    task.wait()


def test_attach(w):
    prepare(w)
    start(w)
    out = w.fermata("run", "process", "--attach", "--", "sh", "-c", "cat; exit 7", stdin=b"word\n" * 40000)
    expect(out.status == 7 and out.out == "word\n" * 40000, (out.status, len(out.out), out.err[:200]))
    pid = w.run("echo", "sh", "-c", "while read line; do echo got $line; done; exit 9", options=["--attachable"])
    child, terminal = pty.fork()
    if child == 0:
        os.execv(BINARY, [BINARY, "attach", str(pid), "--config-dir", w.work])
    time.sleep(0.5)
    os.write(terminal, b"one\r")
    heard = b""
    end = time.monotonic() + DEADLINE
    while b"got one" not in heard:
        expect(time.monotonic() < end, heard)
        heard += os.read(terminal, 4096)
    os.write(terminal, b"\x03")
    expect(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 and alive(pid), "Ctrl-C leaves it")
    os.close(terminal)
    result = w.fermata("job", "attach", "echo", stdin=b"two\n\x04")
    expect("got two" in result.out and result.status == 9, result)
    # The daemon's end is told, and the job runs on.
    pid = w.run("tick", *COUNT, options=["--attachable"])
    client = subprocess.Popen([BINARY, "job", "attach", "tick", "--config-dir", w.work], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    client.stdout.read(4)
    w.kill()
    _, err = client.communicate(timeout=DEADLINE)
    expect(client.returncode == 1 and b"runs on" in err and alive(pid), err)


main(tests_of(globals()))
