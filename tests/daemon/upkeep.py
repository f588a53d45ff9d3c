#!/usr/bin/env python3
"""Tests of what is done by the daemon to checkpoints and stores that are there, and of requests that ask for what there is not.

Arguments select tests by a part of their names. Runs as root."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys

from world import COUNT, NOBODY, alive, expect, main, read, tests_of, until

LARGE = "import os, time\ndata = os.urandom(64 << 20)\nprint('ready', flush=True)\ntime.sleep(1000)"
OTHER = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]


def events_of(w, path, body, method="POST"):
    made = w.connection()
    made.request(method, path, json.dumps(body) if body is not None else None)
    answer = made.getresponse()
    lines = [json.loads(line) for line in answer.read().splitlines()]
    made.close()
    expect(answer.status == 200 and answer.getheader("Content-Type") == "application/x-ndjson", (path, answer.status, lines))
    return lines


def requests(w):
    """How many the daemon has had."""
    return int(re.search(r"^fermata_requests_total (\d+)", w.request("GET", "/metrics")[1], re.M)[1])


def by_daemon(w, *arguments, **more):
    """The result of a command, of which the daemon must have heard."""
    before = requests(w)
    result = w.fermata(*arguments, **more)
    expect(requests(w) > before + 1, f"the daemon was not asked: {result}")
    return result


def alone(w, *arguments):
    before = requests(w)
    result = w.fermata(*arguments, "--no-server")
    expect(requests(w) == before + 1, f"the daemon was asked: {result}")
    return result


def test_store(w):
    """Each verb of stores: by the daemon and without it the same is told; long work tells how far it is."""
    store = "store:" + w.work + "/store"
    w.start()
    w.run("large", sys.executable, "-c", LARGE)
    until(lambda: "ready" in w.fermata("job", "logs", "large").out, "it to be ready")
    for name in ("one", "two", "three"):
        w.fermata("dump", "job", "large", "--leave-running", "--dir", store, "--name", name).good()
    for verb in ("ls", "stats", "verify"):
        for more in ((), ("--json",)):
            told = by_daemon(w, "store", verb, store, *more).good().out
            expect(told == alone(w, "store", verb, store, *more).good().out and told, told)
        events = events_of(w, f"/v1/store/{verb}", {"store": w.work + "/store"})
        expect(events[-1]["event"] == "done" and events[-1]["result"]["store"] == w.work + "/store", events)
    names = [one["name"] for one in events_of(w, "/v1/store/ls", {"store": store})[-1]["result"]["checkpoints"]]
    expect(sorted(names) == ["one", "three", "two"], names)
    # One that the daemon knows is not known any more; one that it does not know goes too.
    shutil.copy(w.work + "/store/checkpoints/one", w.work + "/store/checkpoints/copy")
    by_daemon(w, "store", "rm", store + "/one", store + "/copy").good()
    expect(sorted(os.path.basename(one["path"]) for one in w.request("GET", "/v1/checkpoints")[1]) == ["three", "two"], w.request("GET", "/v1/checkpoints"))
    expect(sorted(os.listdir(w.work + "/store/checkpoints")) == ["three", "two"], os.listdir(w.work + "/store/checkpoints"))
    by_daemon(w, "store", "rm", store + "/one").error("no checkpoint one")
    pruned = json.loads(by_daemon(w, "store", "prune", store, "--json").good().out)
    expect(set(pruned) == {"store", "packs", "rewritten", "chunks", "bytes"}, pruned)
    # What is damaged is told, with the status.
    packs = w.work + "/store/packs"
    path = max((os.path.join(packs, name) for name in os.listdir(packs)), key=os.path.getsize)
    with open(path, "r+b") as file:
        file.seek(1 << 20)
        file.write(b"damaged" * 1000)
    result = by_daemon(w, "store", "verify", store)
    expect(result.status == 1 and "damaged" in result.out, result)
    expect(json.loads(by_daemon(w, "store", "verify", store, "--json").out)["damaged"] > 0, "in the document")
    by_daemon(w, "store", "ls", w.work + "/none").error("no store in")


def test_store_encrypted(w):
    """The file with the key is named by its path, which is the daemon's, or stands in its settings."""
    store, key = "store:" + w.work + "/store", w.work + "/key"
    with open(key, "wb") as file:
        file.write(os.urandom(32))
    w.start()
    w.run("counter")
    w.fermata("dump", "job", "counter", "--leave-running", "--dir", store, "--name", "one", "--store-key", key).good()
    by_daemon(w, "store", "verify", store).error("--store-key")
    here = os.getcwd()
    os.chdir(w.work)
    try:
        by_daemon(w, "store", "verify", "store:store", "--store-key", "key").good()
    finally:
        os.chdir(here)
    by_daemon(w, "store", "rm", store + "/one", "--store-key", key).good()
    expect(w.request("POST", "/v1/store/ls", {"store": store, "key": "key"})[0] == 400, "a path from nowhere")


def test_flatten(w):
    w.start()
    w.run("counter")
    first = w.dump("counter", "--leave-running", "--track-mem")
    chained = [w.dump("counter", "--leave-running", "--parent", first)]
    ids = {one["path"]: one["id"] for one in w.request("GET", "/v1/checkpoints")[1]}
    events = events_of(w, f"/v1/checkpoints/{ids[chained[0]]}/flatten", {})
    expect(events[-1] == {"event": "done", "result": {"checkpoint": chained[0], "flattened": True}}, events)
    expect(not os.path.lexists(chained[0] + "/parent"), os.listdir(chained[0]))
    sizes = {one["path"]: one["size"] for one in w.request("GET", "/v1/checkpoints")[1]}
    expect(abs(sizes[chained[0]] - sizes[first]) < sizes[first] / 4, f"its size is told anew: {sizes}")
    for how in (by_daemon, alone):
        told = how(w, "checkpoint", "flatten", chained[0], "--json").good().out
        expect(json.loads(told) == {"checkpoint": chained[0], "flattened": False}, told)
    by_daemon(w, "checkpoint", "flatten", ids[first]).good()
    w.fermata("checkpoint", "flatten", ids[first], "--no-server").error("only the daemon knows")
    by_daemon(w, "checkpoint", "flatten", w.work + "/none").error("cannot flatten")
    expect(events_of(w, f"/v1/checkpoints/{ids[first]}/verify?events=true", None, "GET")[-1]["result"]["files"] > 5, "verify with events")
    # By its path too what the daemon knows is removed by the daemon.
    by_daemon(w, "checkpoint", "delete", first).good()
    expect([one["path"] for one in w.request("GET", "/v1/checkpoints")[1]] == chained and not os.path.exists(first), "it is not known any more")


def test_rights(w):
    """Who is not root reaches their own checkpoints, and no store as a whole."""
    os.chmod(w.work, 0o755)
    w.configure(group="nogroup")
    w.start()
    w.run("roots")
    path = w.dump("roots", "--leave-running")
    w.fermata("dump", "job", "roots", "--leave-running", "--dir", f"store:{w.work}/store", "--name", "one").good()
    w.fermata("run", "process", "--jid", "theirs", "--", *COUNT, before=OTHER).good()
    w.fermata("dump", "job", "theirs", "--leave-running", before=OTHER).good()
    ids = {one["job"] + str(one["path"].startswith("store:")): one["id"] for one in w.request("GET", "/v1/checkpoints")[1]}
    for verb in ("ls", "stats", "verify", "prune"):
        w.fermata("store", verb, f"store:{w.work}/store", before=OTHER).error("root's")
    w.fermata("store", "rm", f"store:{w.work}/store/one", before=OTHER).error("root's")
    w.fermata("checkpoint", "flatten", ids["rootsFalse"], before=OTHER).error("no checkpoint")
    w.fermata("checkpoint", "flatten", path, before=OTHER).error("only root")
    w.fermata("job", "checkpoint", "delete", ids["rootsTrue"], before=OTHER).error("no checkpoint")
    w.fermata("checkpoint", "flatten", ids["theirsFalse"], before=OTHER).good()
    w.fermata("restore", "job", "theirs", "--as", "copy", before=OTHER).good()
    until(lambda: len(w.numbers("copy")) > 3, "the copy to count")
    expect(os.stat(w.job("copy")["log"]).st_uid == NOBODY and w.fermata("job", "logs", "copy", before=OTHER).good().out, "its log is theirs")
    w.fermata("job", "checkpoint", "delete", ids["theirsFalse"], before=OTHER).good()
    expect(len(w.request("GET", "/v1/checkpoints")[1]) == 2 and len(os.listdir(w.work + "/store/checkpoints")) == 1, "root's are there")


def test_rights_to_kill(w):
    """What a user's job has left is theirs to end, unless it is somebody else's by now."""
    os.chmod(w.work, 0o755)
    w.configure(group="nogroup")
    w.start()
    script = "setsid sleep 1000 & echo $!; exec sleep 1000"
    w.fermata("run", "process", "--jid", "theirs", "--", "sh", "-c", script, before=OTHER).good()
    until(lambda: w.fermata("job", "logs", "theirs").out.strip(), "the pid")
    left = int(w.fermata("job", "logs", "theirs").out)
    until(lambda: read(f"/proc/{left}/comm") == "sleep\n", "it to sleep")
    os.kill(w.job("theirs")["pid"], signal.SIGKILL)
    until(lambda: w.job("theirs")["left"] == [left], lambda: w.job("theirs"))
    w.fermata("job", "kill", "theirs", before=OTHER).good()
    expect(not alive(left), "it is ended")
    # A program of root's, as sudo(8) would have started it.
    if os.statvfs(w.work).f_flag & os.ST_NOSUID:
        return "without a program of root's: the disk is mounted with nosuid"
    shutil.copy(shutil.which("sleep"), w.work + "/roots")
    os.chmod(w.work + "/roots", 0o4755)
    w.fermata("run", "process", "--jid", "mixed", "--", "sh", "-c", script.replace("setsid sleep", f"setsid {w.work}/roots"), before=OTHER).good()
    until(lambda: w.fermata("job", "logs", "mixed").out.strip(), "the pid")
    left = int(w.fermata("job", "logs", "mixed").out)
    until(lambda: read(f"/proc/{left}/comm") == "roots\n", "it to run")
    os.kill(w.job("mixed")["pid"], signal.SIGKILL)
    until(lambda: w.job("mixed")["left"] == [left], lambda: w.job("mixed"))
    w.fermata("job", "kill", "mixed", before=OTHER).error("not yours alone")
    expect(alive(left), "it runs on")
    w.fermata("job", "kill", "mixed").good()
    expect(not alive(left), "root ends it")


def test_by_path(w):
    """Checkpoints that the daemon does not know, by where they lie: root's alone."""
    w.start()
    pid = w.run("counter")
    one, two = (w.fermata("dump", "process", pid, "--no-server", "--leave-running", "--name", name).good().out.split()[-1] for name in ("one", "two"))
    get = lambda path: w.request("GET", "/v1/" + path)
    expect(get(f"inspect?path={one}")[1]["processes"][0]["pid"] == pid and str(pid) in get(f"inspect?path={one}&format=text")[1], "inspect")
    expect(get(f"verify?path={one}")[1]["files"] > 5, "verify")
    expect(any(row["file"].startswith(("core-", "pages-")) for row in get(f"diff?path={one}&other={two}")[1]) and get(f"diff?path={one}&other={one}") == (200, []), "diff")
    for path in ("inspect", "inspect?path=here", f"diff?path={one}", f"verify?path={one}&key=here"):
        expect(get(path)[0] == 400, path)
    expect("no such directory" in get("verify?path=/none")[1]["error"], get("verify?path=/none"))
    os.chmod(w.work, 0o755)
    os.chown(w.socket, NOBODY, -1)
    curl = [*OTHER, sys.executable, "-c", "import http.client, socket, sys\nmade = http.client.HTTPConnection('localhost')\nmade.sock = socket.socket(socket.AF_UNIX)\n"
            "made.sock.connect(sys.argv[1])\nmade.request('GET', sys.argv[2])\nprint(made.getresponse().status)", w.socket, f"/v1/inspect?path={one}"]
    expect(subprocess.run(curl, stdout=subprocess.PIPE, check=True).stdout == b"403\n", "a user")


def bodies(document):
    """Each request of the API: method, path with words put in, names of its fields, names behind `?`."""
    for path, methods in document["paths"].items():
        for method, one in methods.items():
            schema = one.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            queried = [parameter for parameter in one["parameters"] if parameter["in"] == "query"]
            yield method.upper(), re.sub(r"\{[a-z]+\}", "1", path), schema.get("properties", {}), queried


def test_unknown(w):
    """What a request has too much, or of another type, is refused by name, and nothing is done."""
    w.start()
    pid = w.run("counter")
    count = 0
    for method, path, fields, queried in bodies(w.request("GET", "/v1/openapi.json")[1]):
        if "attach" in path:
            continue
        status, answer = w.request(method, path, {"jidd": "x"})
        expect(status == 400 and "jidd" in answer["error"] and all(name in answer["error"] for name in fields), (method, path, status, answer))
        status, answer = w.request(method, path + "?nonsense=1")
        expect(status == 400 and "nonsense" in answer["error"], (method, path, status, answer))
        for name in fields:
            status, answer = w.request(method, path, {name: None})
            expect(status == 400 and f"field {name} must be" in answer["error"], (method, path, name, status, answer))
        for one in queried:
            if one["schema"]["type"] == "boolean":
                status, answer = w.request(method, f"{path}?{one['name']}=perhaps")
                expect(status == 400 and "true or false" in answer["error"], (method, path, one, status, answer))
        count += 1
    expect(count > 30, count)
    for body in ({"leave-running": True}, {"options": []}, {"options": {"leave-running": True}, "Name": "x"}):
        expect(w.request("POST", "/v1/jobs/counter/dump", body)[0] == 400, body)
    expect(w.request("POST", "/v1/jobs/counter/kill", {"signal": "TERM"})[0] == 400, "a signal by its name")
    expect(w.job("counter")["pid"] == pid and not os.listdir(w.dir), "nothing was done")
    w.counts_on("counter")


def test_unknown_options(w):
    """What is not right in `options` is told before anything begins, by its name; all that the API describes is taken."""
    w.start()
    pid = w.run("counter")
    dump, restore, check = "/v1/jobs/counter/dump", "/v1/jobs/counter/restore", f"/v1/processes/{pid}/check"
    wrong = [(path, {name: value}, name) for path in (dump, restore, check) for name, value in
             (("bogus", True), ("tcp-est", True), ("no-profiling", True), ("dir", "/"), ("help", True), ("inherit-fd", ["fd[0]:x"]), ("as", "x"), ("for-user", 0))]
    wrong += [(dump, {name: value}, name) for name, value in
              (("lazy", True), ("compression", "rar"), ("compression", "gzip:99"), ("compression", None), ("compression", True), ("streams", 1), ("streams", -2), ("streams", "x"),
               ("streams", False), ("leave-running", "yes"), ("leave-running", {}), ("external", ["bogus"]), ("external", [["pipe[1]"]]), ("ghost-limit", "5X"), ("gpu", "maybe"),
               ("network-lock", "door"), ("file-validation", "smell"))]
    wrong += [(restore, {name: value}, name) for name, value in (("compression", "lz4"), ("lazy", "some"), ("cpu-cap", "x"), ("gpu-map", ["a"]))]
    for path, options, name in wrong:
        for more in ({}, {"events": True}) if path == restore else ({},):
            status, answer = w.request("POST", path, {"options": options, **more})
            expect(status == 400 and name in answer["error"], (path, options, status, answer))
    expect(w.job("counter")["pid"] == pid and not os.listdir(w.dir) and "dumps_failed_total 0" in w.request("GET", "/metrics")[1], "nothing was begun")
    described = w.request("GET", "/v1/openapi.json")[1]["paths"]["/v1/jobs/{jid}/dump"]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]["options"]
    expect(described["additionalProperties"] is False and {"leave-running", "compression", "external"} <= set(described["properties"]), described)
    for name, schema in described["properties"].items():
        if schema.get("type") == "boolean" and name != "leave-stopped":
            status, answer = w.request("POST", dump, {"options": {name: True, "leave-running": True, "live": False}})
            expect(status == 200, (name, answer))
    w.counts_on("counter")
    w.fermata("job", "kill", "counter").good()
    for body in ({"checkpoint": "none"}, {"as": "../x"}, {"path": "x"}, {"out": "x"}):
        status, answer = w.request("POST", restore, {"events": True, **body})
        expect(400 <= status < 500, (body, status, answer))


def test_every_verb(w):
    """Every verb that has to do with the daemon's jobs, checkpoints, stores, processes or machine is one of the API's requests."""
    document = w.start().request("GET", "/v1/openapi.json")[1]
    requests_of = {"run": "/v1/jobs/run", "exec": "/v1/jobs/run", "manage": "/v1/jobs/manage", "dump": "/v1/jobs/{jid}/dump", "restore": "/v1/jobs/{jid}/restore",
                   "freeze": "/v1/jobs/{jid}/freeze", "unfreeze": "/v1/jobs/{jid}/unfreeze", "attach": "/v1/processes/{pid}/attach", "ps": "/v1/jobs", "jobs": "/v1/jobs",
                   "job": "/v1/jobs/{jid}", "checkpoints": "/v1/checkpoints", "checkpoint": "/v1/checkpoints/{id}/flatten", "query": "/v1/processes/{pid}",
                   "daemon": "/v1/health", "config": "/v1/config", "check": "/v1/check", "inspect": "/v1/checkpoints/{id}/inspect",
                   "verify": "/v1/checkpoints/{id}/verify", "diff": "/v1/checkpoints/{id}/diff/{other}", "features": "/v1/features"}
    own = {"completion", "manual", "version", "help"}  # of the program itself
    text = w.fermata("help", "--no-dir").good().out.partition("\nCommands:\n")[2]
    verbs = {tuple(line.split("  ")[1].split()) for line in text.splitlines() if re.match(r"  [a-z]+", line)}
    expect(len(verbs) > 40, text)
    for verb in verbs:
        if verb[0] == "store":
            expect(f"/v1/store/{verb[1]}" in document["paths"], verb)
        elif verb[0] not in own:
            expect(verb[0] in requests_of and requests_of[verb[0]] in document["paths"], f"{verb} has no request")


main(tests_of(globals()))
