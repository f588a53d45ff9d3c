#!/usr/bin/env python3
"""Writes the parts of the documentation that are made from the code, between the marks `<!-- made by scripts/docs.py: NAME -->` and
`<!-- end -->`, and docs/openapi.json. With --check it writes nothing and says what is out of date. Either way it says which refusal
has no row in src/engine/saved.c, and which file includes more than docs/ARCHITECTURE.md allows. Needs a build (make)."""
import glob
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BINARY = os.environ.get("CLI_FERMATA") or os.path.join(ROOT, "build/src/cli/fermata")
MARKS = re.compile(r"(<!-- made by scripts/docs\.py: (\w+) -->\n).*?(<!-- end -->)", re.S)
FIELD = re.compile(r"\t(?:(?:optional|repeated|required) (\S+) )?(\w+) = (\d+);(?: /\* (.*?) \*/)?$")
PAGES = ("README.md", "docs/IMAGES.md")


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def fields():
    """Every field and value of the messages whose number is ours."""
    rows = []
    for path in sorted(glob.glob(os.path.join(ROOT, "src/image/proto/*.proto"))):
        where = ""
        for line in read(path).splitlines():
            if opened := re.match(r"(?:message|enum) (\w+)", line):
                where = opened[1]
            found = FIELD.match(line)
            if found and 1000 <= int(found[3]) < 10000:
                what = re.sub(r"^Fermata's own(, as all from 1000( to 9999| on)?)?(, which CRIU ignores)?:? ?", "", found[4] or "")
                rows.append(f"| {where} | {found[2]} | {found[3]} | {found[1] or 'value'} | {what} |")
    return "| message | field | number | type | what |\n|---|---|---|---|---|\n" + "\n".join(rows) + "\n"


def features():
    return subprocess.run([BINARY, "features", "--markdown"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True).stdout.decode()


def openapi(_):
    return subprocess.run([BINARY, "daemon", "openapi"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True).stdout.decode()


def refusals_missing():
    """Refusals of a dump that no row of src/engine/saved.c has, and rows that quote what is nowhere said."""
    sources = [path for path in glob.glob(os.path.join(ROOT, "src/engine/**/*.c"), recursive=True)
               if not path.endswith(("/saved.c", "/unknown.c")) and "/probe/" not in path]
    said, quoted = [], re.findall(r'\{ "[^"]*", "([^"]*)"', read("src/engine/saved.c").partition("refusals[]")[2])
    for path in sources:
        code = re.sub(r'"\s*\n\s*"', "", read(path))
        if "/restore" in path or path.endswith(("load.c", "install.c", "_restore.c", "vdso_patch.c")):
            continue
        for call in re.finditer(r"\b(fd_error|task_error|terminal_error|error_set)\(\s*(s->e)?[^;\"]*?-ENOTSUP[^;\"]*?\"((?:[^\"\\]|\\.)*)\"", code):
            if not call[2] and not call[3].startswith("is %s, "):  # kinds/unknown.c
                said.append(call[3])
    said += [f"a reason: {line}" for line in features().splitlines() if "NO REASON" in line]
    text = "\n".join(re.sub(r'"\s*\n\s*"', "", read(path)) for path in sources)
    return ([f"src/engine/saved.c has no row for: {line}" for line in said if not any(quote in line for quote in quoted)] +
            [f"src/engine/saved.c quotes what no message says: {quote}" for quote in quoted if quote not in text])


def layers_broken():
    """What a folder includes beyond its row in docs/ARCHITECTURE.md. Headers that are made from .proto files and those beside a file have no folder."""
    rows = {row[1]: [word.strip() for word in row[2].split(",") if word.strip()]
            for row in re.finditer(r"^\| `src/(\S+)` \|.*\| ([^|]*)\|$", read("docs/ARCHITECTURE.md"), re.M)}
    found = [] if len(rows) > 5 else ["docs/ARCHITECTURE.md has lost its table of folders"]
    for path in glob.glob(os.path.join(ROOT, "src/**/*.[ch]"), recursive=True):
        where = os.path.relpath(os.path.dirname(path), os.path.join(ROOT, "src"))
        own = max((folder for folder in rows if (where + "/").startswith(folder + "/")), key=len, default=None)
        if own is None:
            found.append(f"docs/ARCHITECTURE.md has no row for src/{where}")
            continue
        for name in re.findall(r'^#include "([^"]+)/[^"/]+"', read(path), re.M):
            if not any((name + "/").startswith(folder + "/") for folder in rows[own]):
                found.append(f"{os.path.relpath(path, ROOT)} includes {name}, which its row in docs/ARCHITECTURE.md does not allow")
    return found


def main():
    check, stale = "--check" in sys.argv[1:], refusals_missing() + layers_broken()
    makers = {"fields": fields, "features": features}
    pages = {page: lambda old: MARKS.sub(lambda mark: mark[1] + makers[mark[2]]() + mark[3], old) for page in PAGES}
    for page, make in {**pages, "docs/openapi.json": openapi}.items():
        old = read(page)
        new = make(old)
        if new != old:
            stale.append(f"{page} is out of date: run make docs")
            if not check:
                stale.pop()
                with open(os.path.join(ROOT, page), "w", encoding="utf-8") as file:
                    file.write(new)
                print(f"{page} written")
    for line in stale:
        print(line, file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
