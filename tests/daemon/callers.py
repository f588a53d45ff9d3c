#!/usr/bin/env python3
"""Tests of who calls the daemon and how: many at once, nonsense, rights, settings, the API, systemd, TLS.

Arguments select tests by a part of their names. Runs as root."""
import glob
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time

from world import BINARY, COUNT, DEADLINE, NOBODY, ROOT, alive, expect, main, read, tests_of, until


def test_busy(w):
    """Two dumps of one job at once: one is made, or both one after the other; a job that ends while it is dumped is an error and no more."""
    w.start()
    w.run("large", sys.executable, "-c", "import os, time\ndata = os.urandom(200 << 20)\nprint('ready', flush=True)\ntime.sleep(1000)")
    until(lambda: "ready" in w.fermata("job", "logs", "large").out, "it to be ready")
    results = []
    threads = [threading.Thread(target=lambda: results.append(w.fermata("dump", "job", "large", "--leave-running", "--compression", "zlib"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    good = [result for result in results if result.status == 0]
    expect(good and all("is being dumped" in result.err for result in results if result.status), [str(result) for result in results])
    expect(len(good) < 3, "none was refused")
    pid = w.job("large")["pid"]
    thread = threading.Thread(target=lambda: w.fermata("dump", "job", "large", "--leave-running", "--no-live", "--compression", "zstd:3", deadline=150).good())
    thread.start()
    until(lambda: w.status("large") == "dumping", lambda: w.job("large"))
    thread.join()
    expect(w.status("large") in ("sleep", "running", "disk"), w.job("large"))
    thread = threading.Thread(target=lambda: results.append(w.fermata("dump", "job", "large")))
    thread.start()
    time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    thread.join()
    expect(results[-1].status in (0, 1) and w.answers(), results[-1])
    until(lambda: w.status("large") == "halted", "its end")
    expect(all(one["state"] == "whole" for one in w.request("GET", "/v1/checkpoints")[1]), "no half checkpoint is left")


def test_one_user_does_not_fill_it(w):
    """No user but root gets more than half of the connections: others are answered."""
    w.configure(group="nogroup", connections=8)
    os.chmod(w.work, 0o755)
    w.start()
    ready, wait = os.pipe(), os.pipe()
    greedy = os.fork()
    if greedy == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            made = [socket.socket(socket.AF_UNIX) for _ in range(40)]
            for one in made:
                one.connect(w.socket)
            os.write(ready[1], b"x")
            os.close(wait[1])
            os.read(wait[0], 1)
        finally:
            os._exit(0)
    for end in (ready[1], wait[0]):
        os.close(end)
    try:
        expect(os.read(ready[0], 1) == b"x", "it to be connected")
        until(w.answers, "what is too much to be cut off")
        for _ in range(5):
            expect(w.request("GET", "/v1/jobs")[0] == 200, "root is answered")
    finally:
        os.close(wait[1])
        os.waitpid(greedy, 0)
        os.close(ready[0])
    user = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    until(lambda: w.fermata("ps", before=user).status == 0, "the user to be answered again")


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
    w.fermata("dump", "job", "theirs", "--leave-running", "--log-file", w.work + "/log", before=other).error("/log", status=2)
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
    w.fermata("config", "show", "--config", "[]").error("--config is no JSON object")
    for wrong in ('{"protocol": "pigeon"}', '{"protocol": "unix:1"}', '{"checkpoint": {"compression": "zstd:"}}', '{"checkpoint": {"compression": "rar"}}', '{"connections": 0}',
                  '{"checkpoint": {"streams": 1}}'):
        w.fermata("config", "show", "--config", wrong).error(re.search(r'([a-z0-9:]+)"?}+$', wrong)[1])
    w.fermata("config", "show", "--config", '{"checkpoint": {"compression": "zstd:3"}}').good()
    w.fermata("daemon", "start", "--init-config").error("is there already", "--merge-config")
    w.start("--merge-config")
    written = json.loads(read(w.work + "/config.json"))
    expect(written["address"] == w.socket and written["metrics"] is True and written["checkpoint"]["compression"] == "none", written)
    expect(json.loads(w.fermata("daemon", "check", "--full", "--json").good().out)["good"], "check")
    expect(w.fermata("daemon", "check").good().out.endswith("All good.\n"), "check")
    lines = {line.split()[0]: line for line in w.fermata("daemon", "check", "--full").good().out.splitlines()}
    expect(w.dir in lines["checkpoint.dir"] and "free" in lines["checkpoint.dir"] and w.state in lines["db.path"], lines)
    os.rename(w.dir, w.dir + ".away")
    result = w.fermata("daemon", "check", "--full")
    expect(result.status == 1 and re.search(r"checkpoint\.dir +error +.*No such file", result.out), result)
    os.rename(w.dir + ".away", w.dir)
    expect(w.request("GET", "/v1/config")[0] == 200, "the daemon's own")


def test_leave_running(w):
    """The setting criu.leave_running, of the daemon's and the caller's; what is said on the command line stands above both."""
    w.start()
    pid = w.run("counter")
    w.fermata("dump", "job", "counter", env={"FERMATA_CRIU_LEAVE_RUNNING": "true"}).good()
    expect(alive(pid) and w.job("counter")["ended"] == "", w.job("counter"))
    w.fermata("dump", "process", pid, "--no-server", "--config", '{"criu": {"leave_running": true}}').good()
    w.counts_on("counter")
    result = w.fermata("dump", "job", "counter", "--no-leave-running", "--config", '{"criu": {"leave_runing": true}}', env={"FERMATA_CRIU_LEAVE_RUNNING": "true"}).good()
    expect("criu.leave_runing in --config" in result.err and not alive(pid) and w.job("counter")["ended"] == "dumped", result)
    w.stop()
    w.configure(criu={"leave_running": True})
    w.start()
    w.fermata("restore", "job", "counter").good()
    expect(w.request("POST", "/v1/jobs/counter/dump", {})[0] == 200 and alive(pid), "the daemon's")
    w.counts_on("counter")
    w.fermata("dump", "job", "counter", "--no-leave-running").good()
    expect(not alive(pid) and w.job("counter")["ended"] == "dumped", w.job("counter"))


def progress_of(w, path, body, method="POST"):
    """The events of a request."""
    made = w.connection()
    made.request(method, path, body and json.dumps(body))
    answer = made.getresponse()
    events = [json.loads(line) for line in answer.read().splitlines()]
    expect(answer.status == 200 and answer.getheader("Content-Type") == "application/x-ndjson", (answer.status, events))
    return events


def on_terminal(w, *arguments):
    """What the command writes when it has a terminal."""
    child, terminal = pty.fork()
    if child == 0:
        os.execv(BINARY, [BINARY, *arguments, "--config-dir", w.work])
    out = b""
    while True:
        try:
            out += os.read(terminal, 4096)
        except OSError:
            break
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), out.decode()


SIZE = 320 << 20
STAGES = ("freeze", "discover", "capture", "memory", "write", "commit")


def test_progress(w):
    """Done and total bytes as they come, of dumps and restores; the command line's bar shows them, and where the time went is told on demand."""
    w.start()
    w.run("large", sys.executable, "-c", f"import os, time\ndata = bytearray(os.urandom(1 << 20)) * {SIZE >> 20}\nprint('ready', flush=True)\ntime.sleep(1000)")
    until(lambda: "ready" in w.fermata("job", "logs", "large").out, "it to be ready")
    for path, body in (("dump", {"options": {"compression": "gzip:9", "leave-running": True, "live": False, "profiling": True}}), ("dump", {"options": {"compression": "gzip:9", "leave-running": True, "live": True, "profiling": True}}),
                       ("dump", {"options": {"profiling": True}}),
                       ("restore", {"events": True, "options": {"profiling": True}})):
        events = progress_of(w, "/v1/jobs/large/" + path, body)
        told = [event for event in events if event["event"] == "progress"]
        done = [event["done"] for event in told]
        profile = [event for event in events if event["event"] == "profile"][0]
        # It is told ten times a second.
        expect((told or profile["total_ns"] < 150000000) and done == sorted(done) and all(event["done"] <= event["total"] <= 3 * SIZE for event in told), told)
        expect("gzip:9" not in str(body) or (len(set(done)) > 4 and SIZE <= told[-1]["total"] and done[-1] > SIZE / 2), told)
        expect([event["elapsed_ns"] for event in told] == sorted(event["elapsed_ns"] for event in told) and all(event["stage"] for event in told), told)
        spent = sum(stage["ns"] for stage in profile["stages"])
        expect(0.9 < spent / profile["total_ns"] <= 1.01, profile)
        expect(path != "dump" or (set(STAGES) <= {stage["stage"] for stage in profile["stages"]} and 0 < profile["pause_ns"] <= profile["total_ns"]), profile)
    status, out = on_terminal(w, "dump", "job", "large", "--leave-running", "--compression", "gzip:9")
    expect(status == 0 and re.search(r"\[#+\.*\] [0-9.]+ MiB of [0-9.]+ MiB, [0-9.]+ [KM]iB/s, ", out) and "Dumped to" in out.splitlines()[-1], out)
    status, out = on_terminal(w, "dump", "job", "large", "--leave-running", "--compression", "gzip:9", "--quiet")
    expect(status == 0 and "MiB" not in out and "[" not in out, out)
    # A client that goes away does not end the dump.
    client = subprocess.Popen([BINARY, "dump", "job", "large", "--config-dir", w.work, "--compression", "gzip:9", "--name", "alone"], stdout=subprocess.DEVNULL)
    until(lambda: w.helper("dump"), "the helper")
    client.kill()
    client.wait()
    until(lambda: w.job("large")["ended"] == "dumped", "its end")
    expect(os.path.exists(w.dir + "/alone.tar.gz"), os.listdir(w.dir))
    checkpoint = next(one["id"] for one in w.request("GET", "/v1/checkpoints")[1] if one["path"].endswith("alone.tar.gz"))
    events = progress_of(w, f"/v1/checkpoints/{checkpoint}/inspect?events=true", None, "GET")
    told = [event for event in events if event["event"] == "progress"]
    done = [event["done"] for event in told]
    expect(events[-1]["result"]["totals"]["processes"] == 1 and done == sorted(done) and all(event["stage"] == "verify" for event in told) and (len(told) < 2 or done[-1] > SIZE / 4),
           events)


def table_of(result):
    lines = result.good().out.splitlines()
    begin = next((number for number, line in enumerate(lines) if line.split() == ["STAGE", "TIME", "PART"]), None)
    return None if begin is None else [line.split()[0] for line in lines[begin + 1:-1]]


def test_profiling(w):
    """By --profiling, or the setting; by the daemon, or without."""
    dump, restore = ("dump", "job", "counter"), ("restore", "job", "counter")

    def check(expected, *more, env=None):
        for verb in (dump, restore):
            stages = table_of(w.fermata(*verb, *more, env=env))
            expect((stages is not None) == expected, (verb, more, stages))
            expect(not expected or (stages[-1] == "total" and (verb == restore or ("pause" in stages and set(STAGES) <= set(stages)))), stages)

    w.start()
    w.run("counter")
    check(False)
    check(True, "--profiling")
    check(True, "--config", '{"profiling": {"enabled": true}}')
    check(True, env={"FERMATA_PROFILING_ENABLED": "true"})
    check(False, "--no-profiling", env={"FERMATA_PROFILING_ENABLED": "true"})
    document = json.loads(w.fermata(*dump, "--profiling", "--json").good().out)
    expect(document["profile"]["stages"] and document["profile"]["pause_ns"] > 0 and document["path"], document)
    expect(json.loads(w.fermata(*restore, "--profiling", "--json").good().out)["profile"]["total_ns"] > 0, "of a restore")
    w.stop()
    w.start("--profiling")
    check(True)
    w.stop()
    w.configure(profiling={"enabled": True})
    w.start()
    check(True)
    check(False, "--no-profiling")
    out = w.fermata("dump", "process", w.job("counter")["pid"], "--no-server", "--leave-running")
    expect(table_of(out), out)


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
    events = progress_of(w, "/v1/jobs/counter/dump", {"options": {"leave-running": True}})
    expect(events[0]["event"] == "started" and events[-1]["event"] == "done", events)
    status, answer = w.request("POST", "/v1/jobs/counter/restore", {"events": True})
    expect(status == 409 and "runs" in answer["error"], answer)
    w.fermata("job", "kill", "counter").good()
    events = progress_of(w, "/v1/jobs/counter/restore", {"events": True})
    expect(events[-1]["event"] == "done" and events[-1]["job"]["status"] in ("sleep", "running", "disk"), events)
    w.stop()
    w.configure(metrics=False)
    w.start()
    expect(w.request("GET", "/metrics")[0] == 404, "metrics are off")


def test_api_tells(w):
    """What the verbs that only look print, by the API."""
    w.start()
    pid = w.run("counter")
    one, two = w.dump("counter", "--leave-running"), w.fermata("dump", "job", "counter", "--leave-running", "--compression", "lz4").good().out.split()[-1]
    ids = {row["path"]: row["id"] for row in w.request("GET", "/v1/checkpoints")[1]}
    get = lambda path: w.request("GET", "/v1/" + path)
    for path in (one, two):
        status, document = get(f"checkpoints/{ids[path]}/inspect")
        expect(status == 200 and document["processes"][0]["pid"] == pid, document)
        expect(document == json.loads(w.fermata("job", "checkpoint", "inspect", ids[path], "--json").good().out)["content"], document)
        short, long = w.fermata("job", "checkpoint", "inspect", ids[path]).good().out, w.fermata("job", "checkpoint", "inspect", ids[path], "-v").good().out
        expect(path in short and str(pid) in short and len(long) > 2 * len(short), long)
        expect(get(f"checkpoints/{ids[path]}/verify")[1]["files"] > 5, path)
    expect(any(row["file"] == f"core-{pid}.img" or row["file"].startswith("pages-") for row in get(f"checkpoints/{ids[one]}/diff/{ids[two]}")[1]), "diff")
    expect(get(f"checkpoints/{ids[one]}/diff/{ids[one]}") == (200, []), "no difference")
    expect(get(f"checkpoints/{ids[one]}/diff/none")[0] == get("checkpoints/none/inspect")[0] == 404, "no such checkpoint")
    for what in (f"checkpoints/{ids[one]}/inspect?", f"checkpoints/{ids[one]}/verify?", f"checkpoints/{ids[one]}/diff/{ids[two]}?", f"inspect?path={two}&", f"verify?path={two}&", f"diff?path={one}&other={two}&"):
        events = progress_of(w, "/v1/" + what + "events=true", None, "GET")
        expect(events[-1] == {"event": "done", "result": get(what)[1]}, (what, events))
        events = progress_of(w, "/v1/" + what + "events=true&format=text", None, "GET")
        text = "".join(event["text"] + "\n" for event in events if event["event"] == "message")
        expect(events[-1] == {"event": "done"} and text == get(what + "format=text")[1], (what, events))
    expect(get("inspect?path=/none")[0] == 404 and get("verify?path=/none")[0] == 404 and get(f"diff?path={one}&other=/none")[0] == 404, "no such path")
    with open(one + f"/core-{pid}.img", "ab") as file:
        file.write(b"x")
    status, document = get(f"checkpoints/{ids[one]}/verify")
    expect(status == 500 and "core-" in document["error"], document)
    expect(len(get("features")[1]["kinds"]) > 5 and get("check")[1]["works"] and get("check")[1]["runtimes"], "features and check")
    expect(get(f"processes/{pid}")[1][0]["command"].startswith("sh -c") and len(get(f"processes/{pid}?tree=true")[1]) >= 1, "a process")
    expect(w.request("POST", f"/v1/processes/{pid}/check", {})[1] == {"pid": pid, "can_be_saved": True, "obstacles": []}, "it can be saved")
    shared = subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    expect("pipe" in str(w.request("POST", f"/v1/processes/{shared.pid}/check", {})[1]["obstacles"]), "it can't")
    expect(w.request("POST", f"/v1/processes/{shared.pid}/check", {"options": {"bogus": True}})[0] == 400, "no such option")
    shared.kill()
    shared.wait()
    expect(get("processes/4000000")[0] == 404, "no such process")


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
    expect(f"listens on {w.socket}, which was handed over" in w.said(), w.said())
    pid = w.run("counter")
    expect(not [path for path in glob.glob(f"/proc/{pid}/fd/*") if "socket" in os.readlink(path)], "the socket is not inherited")
    w.stop()
    expect(ready.recv(100) == b"STOPPING=1" and os.path.exists(w.socket), "a socket that was handed over stays")
    unit = read(os.path.join(ROOT, "dist/fermata.service"))
    expect("Type=notify" in unit and "KillMode=process" in unit and "ListenStream=" in read(os.path.join(ROOT, "dist/fermata.socket")), unit)


main(tests_of(globals()), 180)
