#!/usr/bin/env python3
"""Tests of manual pages and of shell completion: the scripts are read by their shells, which then complete lines. A program of the same name that lists jobs stands in for
the daemon. Arguments select tests by a part of their names."""
import os
import re
import shutil
import subprocess

from world import BINARY, Skip, expect, main, tests_of

LISTS = """#!/bin/sh
case "$*" in
"job list") printf 'JOB  TYPE\\none  process\\ntwo  process\\n' ;;
"checkpoints") printf 'ID  TIME\\nabc  now\\n' ;;
esac
"""
# A line, and words that must be offered, and some that must not be.
LINES = [
    ("fermata d", "dump daemon", "job"),
    ("fermata dump ", "process job", "--help"),
    ("fermata dump j", "job", "process"),
    ("fermata job checkpoint ", "list inspect delete", "attach"),
    ("fermata dump job ", "one two", "--dir abc"),
    ("fermata --config-dir /tmp dump job --name x ", "one two", "process"),
    ("fermata dump job one --leave", "--leave-running --leave-stopped", "--dir one"),
    ("fermata dump job one --compression ", "none tar gzip lz4 zlib zstd", "one"),
    ("fermata job kill --signal T", "TERM", "KILL"),
    ("fermata job checkpoint inspect ", "abc", "one"),
    ("fermata completion ", "bash zsh fish", "one"),
    ("fermata help du", "dump", "job"),
    ("fermata run process --jid j", "", "job one"),
    ("cedana restore job t", "two", "one"),
    ("criu dump --tcp-e", "--tcp-established", "--tcp-close"),
]
FILES = ["fermata restore process --path a", "fermata verify a", "fermata run process --jid x -- a"]


class Shell:
    def __init__(self, w, name):
        if not shutil.which(name):
            raise Skip(f"no {name} here")
        self.name, self.dir = name, w.work
        os.mkdir(self.dir + "/bin")
        for program in ("fermata", "cedana", "criu"):
            with open(f"{self.dir}/bin/{program}", "w") as file:
                file.write(LISTS)
            os.chmod(f"{self.dir}/bin/{program}", 0o755)
        with open(self.dir + "/script", "wb") as file:
            file.write(subprocess.run([BINARY, "completion", name], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True).stdout)
        open(self.dir + "/afile", "w").close()

    def script(self, words):
        quoted = " ".join(f"'{word}'" for word in words)
        if self.name == "bash":
            return ["bash", "--norc", "-c", f"source ./script; COMP_WORDS=({quoted}) COMP_CWORD={len(words) - 1}; complete -p {words[0]} >/dev/null || exit 1\n"
                    f"_{words[0]}; [[ ${{#COMPREPLY[@]}} != 0 ]] && echo \"${{COMPREPLY[@]}}\" || compgen -f -- '{words[-1]}'; true"]
        if self.name == "zsh":  # which leaves out what does not begin so by itself
            return ["zsh", "-f", "-c", "compdef() { : }; compadd() { shift; print -r -- ${(M)@:#$words[CURRENT]*} }; _files() { print -r -- $words[CURRENT]*(N) }\n"
                    f"source ./script; words=({quoted}); CURRENT={len(words)}; _{words[0]}"]
        return ["fish", "--no-config", "-c", f"source ./script; complete -C '{' '.join(words)}'"]

    def complete(self, line):
        task = subprocess.run(self.script(line.split(" ")), cwd=self.dir, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=30,
                              env=dict(os.environ, PATH=f"{self.dir}/bin:{os.environ['PATH']}", HOME=self.dir))
        expect(task.returncode == 0 and not task.stderr, f"{self.name}, {line!r}: {task.returncode}, {task.stderr}")
        return task.stdout.split()


def check(w, name):
    shell = Shell(w, name)
    for line, there, not_there in LINES:
        found = shell.complete(line)
        expect(set(there.split()) <= set(found) and not set(not_there.split()) & set(found), f"{name}, {line!r}: {found}")
    for line in FILES:
        expect("afile" in shell.complete(line), f"{name}, {line!r}: {shell.complete(line)}")


def test_bash(w):
    check(w, "bash")


def test_zsh(w):
    check(w, "zsh")


def test_fish(w):
    check(w, "fish")


def test_pages(w):
    """A manual page of each command, made from the tables: its usage, each of its options, none of another's, and groff reads it."""
    pages = w.make_dir("pages")
    subprocess.run([BINARY, "manual", "--pages", pages], stdin=subprocess.DEVNULL, check=True)
    verbs = re.findall(r"^  ([a-z]+(?: [a-z]+)*)(?= |$)", subprocess.run([BINARY, "help"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True).stdout.partition("Commands:")[2].partition("\nOptions")[0], re.M)
    expect(len(verbs) > 40 and sorted(os.listdir(pages)) == sorted(f"fermata-{verb.replace(' ', '-')}.1" for verb in verbs), (verbs, os.listdir(pages)))
    for verb in verbs:
        page = open(f"{pages}/fermata-{verb.replace(' ', '-')}.1").read()
        shown = subprocess.run([BINARY, *verb.split(), "--help"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True).stdout
        options = re.findall(r"^ +(?:-., )?--(?:\[no-\])?([a-z-]+)", shown, re.M)
        written = [name.replace("\\", "") for name in re.findall(r"\\-\\-(?:\\fR\[\\fBno\\-\\fR\]\\fB)?([a-z\\-]+)\\fR", page)]
        expect(set(options) == set(written), f"{verb}: {set(options) ^ set(written)}")
        printed = subprocess.run([BINARY, "manual", *verb.split()], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True).stdout
        expect(printed == page, f"manual {verb}")
        if shutil.which("groff"):
            task = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z"], input=page.encode(), stderr=subprocess.PIPE)
            expect(not task.stderr, f"{verb}: {task.stderr.decode()[:200]}")


def test_unknown_shell(w):
    task = subprocess.run([BINARY, "completion", "tcsh"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    expect(task.returncode == 1 and "there are bash, zsh and fish" in task.stderr, task.stderr)


main(tests_of(globals()))
