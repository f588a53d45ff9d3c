#!/usr/bin/env python3
"""Measures the curves that a table can't show, and draws them: writes a page (HTML with SVG) and each picture as a file of its own. Needs root.

--out DIR      where bench.html and the pictures go (docs/pictures)
--json         print what was measured as well
--quick        fewer points, one round
--seconds N    no round is begun that would end later (240); there is one in any case
--criu PATH    another program that takes criu's options"""
import argparse
import html
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import bench as measuring
import memory

SIZES = (64, 256, 1024, 4096)  # MiB
COPIED = (64, 256, 1024)
ROUNDS = 7
SECONDS = 240  # after which no further round begins
RATES = (0, 50, 200, 800, 3200)  # MiB that the program writes a second
RATE_SIZE = 1024
WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 36, 92
SIDE = 24
COLOURS = ("#1b6ac9", "#d1495b", "#2b9348", "#7a5195", "#8d99ae")


# ---- drawing ----

def steps(low, high, logarithmic):
    """The places of the lines across."""
    if logarithmic:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        found = [10.0 ** e * m for e in range(first, last + 1) for m in (1, 2, 5)]
        return [value for value in found if low <= value <= high] or [low, high]
    unit = 10 ** math.floor(math.log10(max(high, 1e-9) / 4))
    step = next(unit * m for m in (1, 2, 5, 10) if high / (unit * m) <= 6)
    return [step * i for i in range(int(high / step) + 1)]


def text_of(value):
    return f"{value:g}" if value < 10000 else f"{value:.0f}"


class Axis:
    def __init__(self, values, begin, end, logarithmic):
        self.begin, self.end, self.logarithmic = begin, end, logarithmic
        self.low = min(values) if logarithmic else 0
        self.high = max(values) * 1.1
        if self.high <= self.low:
            self.high = self.low + 1

    def at(self, value):
        change = (lambda v: math.log(max(v, self.low))) if self.logarithmic else (lambda v: v)
        share = (change(value) - change(self.low)) / (change(self.high) - change(self.low))
        return self.begin + (self.end - self.begin) * share


class Even:
    """Places that are far from each other stand side by side."""

    def __init__(self, values, begin, end):
        self.values, self.begin, self.end = sorted(set(values)), begin, end

    def at(self, value):
        return self.begin + (self.end - self.begin) * self.values.index(value) / max(len(self.values) - 1, 1)


def chart(title, x_name, y_name, lines, log_y=False):
    """lines: name → [(x, y)]; a name that begins with "aim" or "floor" is dashed. Gives the SVG."""
    points = [point for line in lines.values() for point in line]
    if not points:
        return ""
    x = Even([p[0] for p in points], LEFT + SIDE, WIDTH - RIGHT - SIDE)
    y = Axis([p[1] for p in points], HEIGHT - BOTTOM, TOP, log_y)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
           f'<text x="{LEFT}" y="20" font-size="15" font-weight="bold">{html.escape(title)}</text>']
    for value in steps(y.low, y.high, log_y):
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y.at(value):.1f}" y2="{y.at(value):.1f}" stroke="#ddd"/>'
                   f'<text x="{LEFT - 6}" y="{y.at(value) + 4:.1f}" text-anchor="end">{text_of(value)}</text>')
    for value in sorted({p[0] for p in points}):
        out.append(f'<text x="{x.at(value):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{text_of(value)}</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - BOTTOM + 36}" text-anchor="middle">{html.escape(x_name)}</text>'
               f'<text transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">{html.escape(y_name)}</text>')
    for i, (name, line) in enumerate(lines.items()):
        colour, dashed = COLOURS[i % len(COLOURS)], ' stroke-dasharray="5 4"' if name.startswith(("aim", "floor")) else ""
        path = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in line)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashed}/>')
        out += [f'<circle cx="{x.at(a):.1f}" cy="{y.at(b):.1f}" r="3" fill="{colour}"/>' for a, b in line]
        at = (LEFT + (i % 2) * 290, HEIGHT - 30 + (i // 2) * 16)
        out.append(f'<line x1="{at[0]}" x2="{at[0] + 22}" y1="{at[1] - 4}" y2="{at[1] - 4}" stroke="{colour}" stroke-width="2"{dashed}/>'
                   f'<text x="{at[0] + 28}" y="{at[1]}">{html.escape(name)}</text>')
    return "\n".join(out + ["</svg>"]) + "\n"


PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>Fermata: measured</title>
<style>body{{font-family:sans-serif;max-width:700px;margin:2em auto;line-height:1.4}}svg{{width:100%;height:auto;border:1px solid #ddd}}</style>
<h1>Fermata: measured</h1>
<p>Made by <code>make bench</code>: medians (rounds: {rounds}), all in one run on one machine with {processors} processors (load before it began: {load:.1f}), with the floor (what a plain copy or the machine itself takes) beside them. Compare
the curves with each other, not with those of another machine.</p>
{pictures}
</html>
"""


# ---- measuring ----

class Curve:
    """Points that are measured round by round, all of a round one after the other, so that each meets the same machine; medians are drawn."""

    def __init__(self, places, measure):
        self.places, self.measure, self.found = list(places), measure, {}

    def round(self):
        for at in list(self.places):
            try:
                self.found.setdefault(at, []).append(self.measure(at))
            except (measuring.Unsupported, subprocess.SubprocessError, OSError) as failure:
                print(f"{at}: {failure}", file=sys.stderr)
                self.places.remove(at)
            finally:
                measuring.sweep()

    def points(self):
        """[(place, {name: median})]"""
        return [(at, {name: statistics.median(found[name] for found in rows) for name in rows[0]}) for at, rows in sorted(self.found.items())]


def live(bench, mib, rate):
    row = measuring.live_case(bench, mib, rate, 1)
    if "error" in row:
        raise measuring.Unsupported(f"{row['case']}: {row['error']}")
    return {name: row[name] for name in ("pause_ms", "seen_ms", "floor_seen_ms", "aim_ms")}


def copy(bench, mib):
    """MiB a second of dump, restore and their floors."""
    floors, rounds = {"dump": [], "restore": []}, {"dump": [], "restore": []}
    measuring.one_round(bench, (f"{mib} MiB", mib, 1, 1, None, None), floors, rounds)
    return {name: mib / seconds for verb in ("dump", "restore")
            for name, seconds in ((verb, rounds[verb][0][0]), (f"floor of {verb}", floors[verb][0]))}


def answer(bench, mib):
    """ms until a restored program answers a signal."""
    pid, images = memory.Writer(bench, mib, 0).pid, memory.fresh(bench, "answer")
    memory.criu_dump(bench, pid, images)
    measuring.sweep(kill=False)
    found = {}
    try:
        for name, options in (("all of it", ()), ("lazy", ("--lazy-pages",))):
            found[name] = memory.until_it_answers(bench, pid, images, *options) * 1e3
            measuring.sweep()
    finally:
        shutil.rmtree(images)
    return found


# Half text, a quarter zeros, a quarter random bytes.
MIXED = """import os, sys, time
size = int(sys.argv[1]) << 20
words = b"".join(b"%d of many words " % (i * 7919 % 1000003) for i in range(size // 40))
kept = [bytearray(words[:size // 2].ljust(size // 2)), bytearray(size // 4), bytearray(os.urandom(size // 4))]
del words
open(sys.argv[2], "w").write("ready")
while True:
    time.sleep(1)
"""


def start_mixed(bench, mib):
    if os.path.exists(bench.ready):
        os.unlink(bench.ready)
    task = subprocess.Popen([sys.executable, "-c", MIXED, str(mib), bench.ready], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL, start_new_session=True, cwd=bench.work)
    task.returncode = 0  # reaped by sweep
    bench.wait_word("ready")
    return task.pid


def image_sizes(bench, mib):
    """MiB on disk of one process's checkpoint, by compression."""
    found = {}
    fermata = os.path.join(bench.work, "fermata")
    os.symlink(os.readlink(bench.criu), fermata)
    for compression in ("none", "lz4", "zstd"):
        pid = start_mixed(bench, mib)
        try:
            bench.fresh_images()
            bench.measured([fermata, "dump", "process", str(pid), "--no-server", "--dir", bench.images, "--name", "one", "--compression", compression])
            found[compression] = sum(os.stat(os.path.join(folder, name)).st_blocks * 512 for folder, _, names in os.walk(bench.images)
                                     for name in names) / (1 << 20)
        except measuring.Unsupported as failure:
            print(f"{compression}: {failure}", file=sys.stderr)
        finally:
            measuring.sweep()
    return found


def measure(bench, quick, seconds):
    """As many rounds as there is time for, once after a first."""
    end = time.monotonic() + seconds
    sizes, rates, size = (SIZES[:2], RATES[:3], SIZES[1]) if quick else (SIZES, RATES, RATE_SIZE)
    curves = {"by_size": Curve(sizes, lambda mib: live(bench, mib, 50)),
              "by_rate": Curve(rates, lambda rate: live(bench, size, rate)),
              "copies": Curve(sizes if quick else COPIED, lambda mib: copy(bench, mib)),
              "answers": Curve(sizes, lambda mib: answer(bench, mib))}
    images, rounds, took = image_sizes(bench, 64), 0, 0
    while not rounds or (not quick and rounds < ROUNDS and time.monotonic() + took < end):
        start = time.monotonic()
        for curve in curves.values():
            curve.round()
        rounds, took = rounds + 1, time.monotonic() - start
    return {name: curve.points() for name, curve in curves.items()} | {"images": images, "rounds": rounds, "rate_mib": size}


def pictures(found):
    size, rate, copies, images = found["by_size"], found["by_rate"], found["copies"], found["images"]
    pauses = [("pause", "pause_ms"), ("longest that the program saw", "seen_ms"), ("floor: beside a plain copy", "floor_seen_ms")]
    out = {
        "pause-size": chart("Pause of a live dump, 50 MiB/s written meanwhile", "memory, MiB", "ms",
                            {name: [(mib, row[key]) for mib, row in size] for name, key in pauses} |
                            {"aim": [(mib, row["aim_ms"]) for mib, row in size]}),
        "pause-rate": chart(f"Pause of a live dump of {found['rate_mib']} MiB against the write rate", "written meanwhile, MiB/s", "ms",
                            {name: [(at, row[key]) for at, row in rate] for name, key in pauses}),
        "throughput": chart("Dump and restore of a stopped process", "memory, MiB", "MiB/s",
                            {name: [(mib, row[name]) for mib, row in copies] for name in ("dump", "floor of dump", "restore", "floor of restore")}),
        "answer": chart("Restore, until the program answers", "memory, MiB", "ms",
                        {name: [(mib, row[name]) for mib, row in found["answers"]] for name in ("all of it", "lazy")}, log_y=True),
    }
    if images:
        out["size"] = bars("Checkpoint of 64 MiB (half text, a quarter zeros, a quarter random)", "MiB on disk", images)
    return {name: text for name, text in out.items() if text}


def bars(title, y_name, values):
    y = Axis(values.values(), HEIGHT - BOTTOM, TOP, False)
    room = (WIDTH - LEFT - RIGHT) / len(values)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/><text x="{LEFT}" y="20" font-size="15" font-weight="bold">{html.escape(title)}</text>',
           f'<text transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">{html.escape(y_name)}</text>']
    for i, (name, value) in enumerate(values.items()):
        left, middle = LEFT + room * i + room / 4, LEFT + room * (i + 0.5)
        out.append(f'<rect x="{left:.1f}" y="{y.at(value):.1f}" width="{room / 2:.1f}" height="{y.at(0) - y.at(value):.1f}" fill="{COLOURS[0]}"/>'
                   f'<text x="{middle:.1f}" y="{y.at(value) - 5:.1f}" text-anchor="middle">{value:.1f}</text>'
                   f'<text x="{middle:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{html.escape(name)}</text>')
    return "\n".join(out + ["</svg>"]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=os.path.join(measuring.ROOT, "docs/pictures"))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seconds", type=int, default=SECONDS)
    parser.add_argument("--criu", default=os.path.join(measuring.ROOT, "build/src/cli/fermata"))
    args = parser.parse_args()
    measuring.begin()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="fermata-bench-", dir="/dev/shm") as work:
        found = measure(measuring.Bench(os.path.abspath(args.criu), work), args.quick, args.seconds)
    drawn = pictures(found)
    os.makedirs(args.out, exist_ok=True)
    for name, text in drawn.items():
        with open(os.path.join(args.out, f"{name}.svg"), "w") as file:
            file.write(text)
    with open(os.path.join(args.out, "bench.html"), "w") as file:
        file.write(PAGE.format(pictures="\n".join(drawn.values()), rounds=found["rounds"], processors=os.cpu_count(), load=load))
    if args.json:
        print(json.dumps(found, indent=1))
    print(f"{len(drawn)} pictures are in {os.path.join(args.out, 'bench.html')}")
    return 0 if drawn else 1


if __name__ == "__main__":
    sys.exit(main())
