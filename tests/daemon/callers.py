#!/usr/bin/env python3
"""Tests of who calls the daemon and how: many at once, nonsense, rights, settings, the API, systemd, TLS.

Arguments select tests by a part of their names. Runs as root."""
import glob
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

from world import BINARY, COUNT, DEADLINE, NOBODY, ROOT, Skip, alive, expect, main, read, tests_of, until


def test_busy(w):
    """Two dumps of one job at once: one is made, or both one after the other; a job that ends while it is dumped is an error and no more."""
    w.start()
    w.run("large", sys.executable, "-c", "import os, time\ndata = os.urandom(200 << 20)\nprint('ready', flush=True)\ntime.sleep(1000)")
    until(lambda: "ready" in w.fermata("job", "logs", "large").out, "it to be ready")
    results = []
    threads = [threading.Thread(target=lambda: results.append(w.fermata("dump", "job", "large", "--leave-running"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    good = [result for result in results if result.status == 0]
    expect(good and all("is being dumped" in result.err for result in results if result.status), [str(result) for result in results])
    expect(len(good) < 3, "none was refused")
    pid = w.job("large")["pid"]
    thread = threading.Thread(target=lambda: results.append(w.fermata("dump", "job", "large")))
    thread.start()
    time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    thread.join()
    expect(results[-1].status in (0, 1) and w.answers(), results[-1])
    until(lambda: w.status("large") == "halted", "its end")
    expect(all(one["state"] == "whole" for one in w.request("GET", "/v1/checkpoints")[1]), "no half checkpoint is left")


def test_clients(w):
    """50 at once, and some that send nonsense or too much: an error to those."""
    w.start()
    w.run("counter")
    results = []

    def many():
        try:
            results.append(w.request("GET", "/v1/jobs")[0])
        except OSError as error:
            results.append(error)

    def send(data, size):
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(DEADLINE)
        made.connect(w.socket)
        sent = 0
        try:
            while sent < size:
                sent += made.send(data)
            return made.recv(100)
        except OSError:
            return b""
        finally:
            made.close()

    threads = [threading.Thread(target=many) for _ in range(50)]
    for thread in threads:
        thread.start()
    idle = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    for made in idle:
        made.connect(w.socket)
        made.send(b"GET /v1/jo")
    memory = lambda: int(re.search(r"VmRSS:\s+(\d+)", read(f"/proc/{w.daemon.pid}/status"))[1])
    before = memory()
    expect(b" 4" in send(os.urandom(64) + b"\r\n\r\n", 1) + b" 4", "nonsense")
    send(b"GET / HTTP/1.1\r\n" + b"X-Header: " + b"x" * (1 << 20), 1 << 30)
    expect(b" 4" in send(b"GET /v1/jobs HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 1) + b" 4", "a negative length")
    for thread in threads:
        thread.join()
    expect(results == [200] * 50, results)
    expect(memory() < before + (64 << 10), "memory grew")
    expect(w.request("POST", "/v1/jobs/run", raw="{")[0] == 400 and w.request("POST", "/v1/jobs/run", raw="[]")[0] == 400, "no JSON")
    expect(w.request("POST", "/v1/jobs/run", raw='"' + "x" * (9 << 20) + '"')[0] == 413, "a body that is too large")
    expect(w.request("GET", "/v1/none")[0] == 404 and w.request("PUT", "/v1/jobs")[0] == 405, "no such route")
    expect(w.request("GET", "/v1/jobs/counter/attach")[0] == 400, "attach without upgrade")
    for body in ({}, {"argv": []}, {"argv": [1]}, {"argv": ["true"], "env": [], "cwd": "x"}, {"argv": ["true"], "env": [], "cwd": "/", "every": -1}):
        expect(w.request("POST", "/v1/jobs/run", body)[0] == 400, body)
    for options in ({"../x": True}, {"dir; rm": "x"}, {"compression": {}}, {"no-such-option": True}):
        status, answer = w.request("POST", "/v1/jobs/counter/dump", {"options": {**options, "leave-running": True}})
        expect(status == 400 or "error" in str(answer), (options, status, answer))
    for made in idle:
        made.close()
    w.counts_on("counter")


def test_permissions(w):
    os.chmod(w.work, 0o755)
    w.configure(group="nogroup")
    w.start()
    expect(os.stat(w.socket).st_mode & 0o777 == 0o660, "the socket with a group")
    other = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    pid = w.run("roots")
    w.fermata("run", "process", "--as-root", "--", "true", before=other).error("only root")
    w.fermata("run", "process", "--out", "/tmp/x", "--", "true", before=other).error("only root")
    w.fermata("run", "process", "--jid", "theirs", "--", *COUNT, before=other).good()
    theirs = w.job("theirs")["pid"]
    expect(f"Uid:\t{NOBODY}\t{NOBODY}\t{NOBODY}" in read(f"/proc/{theirs}/status") and "CapPrm:\t0000000000000000" in read(f"/proc/{theirs}/status"), "whose it is")
    expect([job["job"] for job in json.loads(w.fermata("ps", "--json", before=other).good().out)] == ["theirs"], "others' jobs are not seen")
    for verb in (("job", "kill"), ("job", "inspect"), ("job", "logs"), ("dump", "job"), ("freeze", "job"), ("restore", "job")):
        w.fermata(*verb, "roots", before=other).error("no job roots")
    for verb in ("dump", "freeze", "manage"):
        w.fermata(verb, "process", pid, before=other).error("not yours")
    w.fermata("dump", "job", "theirs", "--dir", w.dir, before=other).error("only root")
    w.fermata("dump", "job", "theirs", "--log-file", "/tmp/x", before=other)
    path = w.fermata("dump", "job", "theirs", before=other).good().out.split()[-1]
    expect(path.startswith(w.state + "/checkpoints/") and os.stat(w.state).st_mode & 0o077 == 0, path)
    w.fermata("restore", "process", "--path", path, before=other).error("only root")
    expect(w.fermata("checkpoints", before=other).good().out.count("\n") == 2, "their checkpoint")
    w.fermata("restore", "job", "theirs", before=other).good()
    expect(f"Uid:\t{NOBODY}\t{NOBODY}\t{NOBODY}" in read(f"/proc/{theirs}/status"), "whose it is after the restore")
    w.counts_on("theirs")
    # A name that leads elsewhere since the dump gives them nothing that they could not have opened.
    open_dir, secret = w.work + "/theirs", w.work + "/secret"
    os.mkdir(open_dir)
    os.chown(open_dir, NOBODY, NOBODY)
    w.fermata("run", "process", "--jid", "sly", "--", "sh", "-c", f"exec 5>>{open_dir}/file; echo ready; sleep 1000", before=other).good()
    until(lambda: "ready" in w.fermata("job", "logs", "sly").out, "it to be ready")
    w.fermata("dump", "job", "sly", before=other).good()
    os.rename(open_dir + "/file", open_dir + "/kept")
    open(secret, "w").close()
    os.symlink(secret, open_dir + "/file")
    result = w.fermata("restore", "job", "sly", before=other)
    expect(result.status == 1 and not alive(w.job("sly")["pid"]), result)
    w.fermata("restore", "job", "sly", before=other).error("may not open" if "may not open" in result.err else "file")
    os.unlink(open_dir + "/file")
    os.rename(open_dir + "/kept", open_dir + "/file")
    w.fermata("restore", "job", "sly", before=other).good()
    w.fermata("config", "show", before=other).good()
    expect(alive(pid), "root's job runs")
    w.stop()
    w.configure(group="")
    w.start()
    expect(os.stat(w.socket).st_mode & 0o777 == 0o600, "the socket")
    w.fermata("ps", before=other).error("cannot reach the daemon")


def test_config(w):
    rows = lambda result: {line.split()[0]: line.split()[1:] for line in result.good().out.splitlines()[1:]}
    found = rows(w.fermata("config", "show"))
    expect(found["address"] == [w.socket, w.work + "/config.json"] and found["metrics"] == ["true", "default"], found)
    environment = {"FERMATA_CHECKPOINT_DIR": "/env", "FERMATA_ADDRESS": "/env.sock", "CEDANA_CHECKPOINT_DIR": "/cedana"}
    found = rows(w.fermata("config", "show", "--config", '{"checkpoint": {"dir": "/json", "streams": 4}}', "--address", "/line.sock", env=environment))
    expect(found["checkpoint.dir"] == ["/env", "FERMATA_CHECKPOINT_DIR"] and found["checkpoint.streams"] == ["4", "--config"], found)
    expect(found["address"] == ["/line.sock", "--address"], found)
    cedana = w.work + "/cedana"
    os.symlink(BINARY, cedana)
    found = rows(w.fermata("config", "show", program=cedana, env=environment))
    expect(found["checkpoint.dir"] == ["/cedana", "CEDANA_CHECKPOINT_DIR"], found)
    found = rows(w.fermata("config", "show", "--no-dir", program=cedana, env={"CEDANA_CONFIG_DIR": w.work}))
    expect(found["address"][0] == w.socket, found)
    w.fermata("config", "show", "--config", "{").error("--config is no JSON")
    w.fermata("config", "show", "--config", '{"metrics": "perhaps"}').error("metrics", "true or false")
    w.fermata("config", "show", "--config", '{"protocol": "pigeon"}').error("pigeon")
    w.fermata("daemon", "start", "--init-config").error("is there already", "--merge-config")
    w.start("--merge-config")
    written = json.loads(read(w.work + "/config.json"))
    expect(written["address"] == w.socket and written["metrics"] is True and written["checkpoint"]["compression"] == "none", written)
    expect(json.loads(w.fermata("daemon", "check", "--full", "--json").good().out)["good"], "check")
    expect(w.fermata("daemon", "check").good().out.endswith("All good.\n"), "check")
    expect(w.request("GET", "/v1/config")[0] == 200, "the daemon's own")


def test_metrics_and_api(w):
    w.start()
    w.run("counter")
    w.dump("counter", "--leave-running")
    status, text = w.request("GET", "/metrics")
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    expect(status == 200 and values["fermata_dumps_total"] == "1" and values['fermata_jobs{state="running"}'] == "1", text)
    expect(all(re.fullmatch(r"[a-z_]+(\{[^}]*\})? [-0-9.e+]+", line) for line in text.splitlines() if not line.startswith("#")), text)
    document = w.request("GET", "/v1/openapi.json")[1]
    expect(len(document["paths"]) > 15 and document == json.loads(read(os.path.join(ROOT, "docs/openapi.json"))),
           "docs/openapi.json is out of date: fermata daemon openapi > docs/openapi.json")
    made = w.connection()
    made.request("POST", "/v1/jobs/counter/dump", json.dumps({"options": {"leave-running": True}}))
    answer = made.getresponse()
    events = [json.loads(line) for line in answer.read().splitlines()]
    expect(answer.getheader("Content-Type") == "application/x-ndjson" and events[0]["event"] == "started" and events[-1]["event"] == "done", events)
    w.stop()
    w.configure(metrics=False)
    w.start()
    expect(w.request("GET", "/metrics")[0] == 404, "metrics are off")


def test_systemd(w):
    """The socket is handed over, and readiness told, as systemd does."""
    listener, ready = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(w.socket)
    listener.listen(20)
    ready.bind(w.work + "/ready")
    ready.settimeout(DEADLINE)
    helper = [sys.executable, "-c", "import os, sys\nos.dup2(int(sys.argv[1]), 3)\nos.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')\nos.execv(sys.argv[2], sys.argv[2:])",
              str(listener.fileno())]
    w.start(before=helper, env={"NOTIFY_SOCKET": w.work + "/ready"}, pass_fds=[listener.fileno()])
    expect(ready.recv(100) == b"READY=1", "ready")
    pid = w.run("counter")
    expect(not [path for path in glob.glob(f"/proc/{pid}/fd/*") if "socket" in os.readlink(path)], "the socket is not inherited")
    w.stop()
    expect(ready.recv(100) == b"STOPPING=1" and os.path.exists(w.socket), "a socket that was handed over stays")
    unit = read(os.path.join(ROOT, "dist/fermata.service"))
    expect("Type=notify" in unit and "KillMode=process" in unit and "ListenStream=" in read(os.path.join(ROOT, "dist/fermata.socket")), unit)


def make_certificates(w):
    def openssl(*words):
        subprocess.run(["openssl", *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=w.work)
    for authority in ("ca", "other"):
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", authority + ".key", "-out", authority + ".pem", "-subj", "/CN=" + authority, "-days", "2")
    for name, authority in (("server", "ca"), ("client", "ca"), ("stranger", "other")):
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", name + ".key", "-out", name + ".csr", "-subj", "/CN=localhost")
        openssl("x509", "-req", "-in", name + ".csr", "-CA", authority + ".pem", "-CAkey", authority + ".key", "-CAcreateserial", "-out", name + ".pem", "-days", "2")


def test_tls(w):
    import ssl
    if not shutil.which("openssl"):
        raise Skip("needs openssl")
    make_certificates(w)
    probe = socket.socket()
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
    probe.close()
    w.fermata("daemon", "start", "--protocol", "tcp", "--address", f"127.0.0.1:{port}").error("tls.cert")
    w.configure(protocol="tcp", address=f"127.0.0.1:{port}", tls={"cert": w.work + "/server.pem", "key": w.work + "/server.key", "ca": w.work + "/ca.pem"})

    def ask(name):
        context = ssl.create_default_context(cafile=w.work + "/ca.pem")
        context.check_hostname = False
        if name:
            context.load_cert_chain(f"{w.work}/{name}.pem", f"{w.work}/{name}.key")
        made = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=DEADLINE)
        made.request("GET", "/v1/health")
        return made.getresponse().status

    def may(name):
        try:
            return ask(name)
        except OSError:
            return None

    w.answers = lambda: may("client") == 200
    w.start()
    expect(may("client") == 200, "one with a certificate")
    expect(may("stranger") != 200 and may(None) != 200, "one with another's certificate, or none")
    plain = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
    plain.send(b"GET /v1/health HTTP/1.1\r\n\r\n")
    try:
        expect(b"200" not in plain.recv(100), "plain text")
    except OSError:
        pass


main(tests_of(globals()))
