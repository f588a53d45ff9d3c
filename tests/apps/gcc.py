"""make -j2 builds two hundred C files with gcc, dumped in the middle: the program that it makes gives the right sum."""
import glob
import os

from app import App, expect, read, state_of, wait_for

FILES, LINES = 200, 60
MAKEFILE = """objects := $(patsubst %.c,%.o,$(wildcard part*.c))
program: main.o $(objects)
\tgcc -o $@ $^
%.o: %.c
\tgcc -O2 -c -o $@ $<
"""


class Test(App):
    programs = ("gcc", "make")
    modes = ("stop", "twice")  # gcc's own temporary files are gone when it has gone on after the dump

    def start(self):
        for part in range(FILES):
            lines = [f"static long step{n}(long x) {{ for (int i = 0; i < {n + 2}; i++) x = (x * {2 * n + 3} + i + {part}) "
                     f"% 1000003; return x; }}" for n in range(LINES)]
            calls = "".join(f"x = step{n}(x); " for n in range(LINES))
            self.write(f"part{part}.c", "\n".join(lines) + f"\nlong part{part}(long x) {{ {calls}return x; }}\n")
        self.write("main.c", "#include <stdio.h>\n" + "".join(f"long part{part}(long);\n" for part in range(FILES)) +
                   "int main(void) { long x = 1;\n" + "".join(f"x = part{part}(x);\n" for part in range(FILES)) +
                   'printf("%ld\\n", x); }\n')
        self.write("Makefile", MAKEFILE)
        os.mkdir(self.path("tmp"))
        self.spawn(["make", "-j2"], stdout="stdout", env={"TMPDIR": self.path("tmp"), "MAKEFLAGS": ""})
        self.rounds = 0

    def built(self):
        return len(glob.glob(self.path("*.o")))

    def state(self):
        self.rounds += 1
        wait_for("object files", lambda: self.built() >= 20 * self.rounds)
        expect(self.built() < FILES, "it was over before the dump")

    def check(self, state):
        if self.mode == "twice" and self.rounds == 1:
            now = self.built()
            wait_for("object files", lambda: self.built() > now + 5)
            return
        wait_for("end of the build", lambda: state_of(self.pid) in (None, "Z"), seconds=90)
        output = read(self.path("stdout"))
        for part in range(FILES):
            expect(output.count(f"gcc -O2 -c -o part{part}.o part{part}.c\n") == 1, f"part {part} was not built once")
        expect(os.path.exists(self.path("program")), f"no program is built: {output[-500:]}")
        x = 1
        for part in range(FILES):
            for n in range(LINES):
                for i in range(n + 2):
                    x = (x * (2 * n + 3) + i + part) % 1000003
        text = self.run([self.path("program")])
        expect(text == f"{x}\n", f"the program says {text!r}, not {x}")
        expect(not os.listdir(self.path("tmp")), f"left over: {os.listdir(self.path('tmp'))}")
