"""SQLite in the middle of a transaction that has already gone to the disk: restored, it commits, and all rows are there."""
import os
import sqlite3
import sys

from app import App, Failure, expect, read, wait_for

ROWS = 3000  # in each of three parts
PROGRAM = r"""
import os, sqlite3, sys, time
rows = int(sys.argv[1])
db = sqlite3.connect("db", isolation_level=None)
db.execute("PRAGMA cache_size = 5")
db.execute("CREATE TABLE rows (n INTEGER PRIMARY KEY, square INTEGER, text TEXT)")
db.execute("INSERT INTO rows VALUES (-1, 1, 'committed')")
db.execute("BEGIN IMMEDIATE")
for part in range(3):
    for n in range(part * rows, (part + 1) * rows):
        db.execute("INSERT INTO rows VALUES (?, ?, ?)", (n, n * n, "x" * (n % 100)))
    print("part", part, flush=True)
    while not os.path.exists(f"go{part}"):
        time.sleep(0.005)
db.execute("COMMIT")
print("committed", flush=True)
time.sleep(1000)
"""


class Test(App):
    options = ("--file-locks",)

    def start(self):
        self.spawn([sys.executable, self.write("program.py", PROGRAM), str(ROWS)], stdout="stdout")
        self.part = 0

    def reach(self, line):
        wait_for(line, lambda: line in read(self.path("stdout")).splitlines())
        self.alive()

    def locked(self):
        """Nobody else can read or write: the transaction's pages have gone into the file."""
        with open(self.path("db"), "rb") as file:
            expect(os.fstat(file.fileno()).st_size > 20 * 4096, "nothing of the transaction is in the file")
        other = sqlite3.connect(self.path("db"), timeout=0, isolation_level=None)
        try:
            other.execute("SELECT count(*) FROM rows").fetchall()
        except sqlite3.OperationalError as error:
            expect("locked" in str(error), str(error))
        else:
            raise Failure("the database is not locked")
        finally:
            other.close()

    def state(self):
        self.reach(f"part {self.part}")
        self.locked()

    def check(self, state):
        self.locked()
        rounds = 1 if self.mode == "twice" and self.part == 0 else 3
        for part in range(self.part, rounds):
            self.write(f"go{part}", "")
        self.part = rounds
        if rounds < 3:
            return
        self.reach("committed")
        db = sqlite3.connect(self.path("db"))
        expect(db.execute("PRAGMA integrity_check").fetchall() == [("ok",)], "integrity_check")
        rows = db.execute("SELECT n, square, length(text) FROM rows ORDER BY n").fetchall()
        db.close()
        expect(rows == [(-1, 1, 9)] + [(n, n * n, n % 100) for n in range(3 * ROWS)], f"{len(rows)} rows, not as inserted")
        expect(not os.path.exists(self.path("db-journal")), "the journal is left")
