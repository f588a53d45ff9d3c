"""PostgreSQL and its clients in one tree: sessions, transactions and backends go on, each row is there once."""
import glob
import os
import shutil

from app import App, connected, expect, name_of, read, state_of, tree, wait_for

CLIENTS = 3
SCRIPT = r"""
"$BIN/postgres" -D data -k "$PWD/run" -c listen_addresses= -c max_connections=20 > server.log 2>&1 &
sql() { psql -X -q -h "$PWD/run" -U postgres -v ON_ERROR_STOP=1 "$@"; }
until sql -c "select 1" > /dev/null 2>&1; do sleep 0.05; done
sql -c "create table log (client int, n int, backend int, mine bigint); create table held (n int)"
for client in $(seq "$CLIENTS"); do
    {
        echo "create temp table mine (n int);"
        for ((n = 0; ; n++)); do
            while [ -e pause ]; do sleep 0.02; done
            echo "begin; insert into mine values ($n);"
            echo "insert into log values ($client, $n, pg_backend_pid(), (select count(*) from mine)); commit;"
            sleep 0.005
        done
    } | sql > "client$client" 2>&1 &
done
{
    for ((n = 1; ; n++)); do
        echo "begin; lock table held in row exclusive mode; insert into held values ($n);"
        while [ ! -e "commit$n" ]; do sleep 0.02; done
        echo "commit;"
    done
} | sql > holder 2>&1 &
wait
"""


class Test(App):
    def missing(self):
        self.bin = os.path.dirname(shutil.which("initdb") or
                                   max(glob.glob("/usr/lib/postgresql/*/bin/initdb"), default=""))
        if not self.bin or not shutil.which("psql") or not shutil.which("setpriv"):
            return "postgresql or setpriv is not installed"
        return None

    def start(self):
        self.user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
        self.environment = dict(os.environ, BIN=self.bin, CLIENTS=str(CLIENTS), HOME=self.work, LC_ALL="C")
        self.run([*self.user, os.path.join(self.bin, "initdb"), "-D", "data", "-A", "trust", "-U", "postgres", "--no-sync"],
                 seconds=60, env=self.environment)
        os.mkdir(self.path("run"))
        os.chmod(self.path("run"), 0o777)
        self.socket = self.path("run", ".s.PGSQL.5432")
        self.spawn([*self.user, "bash", self.write("run.sh", SCRIPT)], env=self.environment)
        self.held = 0

    def errors(self):
        texts = [super().errors()]
        for name in ["server.log", "holder"] + [f"client{client + 1}" for client in range(CLIENTS)]:
            try:
                texts.append("\n".join(line for line in read(self.path(name)).splitlines() if "LOG:" not in line)[-1000:])
            except OSError:
                pass
        return "\n".join(text for text in texts if text)

    def sql(self, text):
        """Runs a query from outside of the tree."""
        rows = self.run(["psql", "-X", "-At", "-h", self.path("run"), "-U", "postgres", "-c", text], env=self.environment)
        wait_for("end of the query's connection", lambda: connected(self.socket) == CLIENTS + 1)
        return [[int(word) for word in row.split("|")] for row in rows.splitlines()]

    def logged(self):
        """For each client its rows and its backend; each row must be there once, in a session that never ended."""
        rows = self.sql("select client, n, backend, mine from log order by client, n")
        found = []
        for client in range(1, CLIENTS + 1):
            mine = [row for row in rows if row[0] == client]
            expect([row[1] for row in mine] == list(range(len(mine))), f"client {client}: the rows are not complete")
            expect(all(row[3] == row[1] + 1 for row in mine), f"client {client}: the temporary table is not complete")
            expect(len({row[2] for row in mine}) <= 1, f"client {client}: it has had several backends")
            found.append((len(mine), mine[0][2] if mine else 0))
        return found

    def grown(self, past):
        wait_for("progress", lambda: all(now[0] > before[0] + 20 for now, before in zip(self.logged(), past)), pause=0.2)

    def holds(self):
        locks = self.sql("select count(*) from pg_locks where relation = 'held'::regclass and mode = 'RowExclusiveLock'")
        rows = self.sql("select n from held order by n")
        expect(rows == [[n] for n in range(1, self.held + 1)], f"rows {rows} can be seen, {self.held} are committed")
        return locks == [[1]]

    def state(self):
        wait_for("connections", lambda: connected(self.socket) == CLIENTS + 1)
        wait_for("rows", lambda: os.path.exists(self.path("holder")))
        self.alive()
        if not self.held:
            self.run([*self.user, "sleep", "0.5"])
        self.grown([(0, 0)] * CLIENTS)
        wait_for("an open transaction", self.holds, pause=0.2)
        state = self.logged()
        if self.mode == "leave":  # the restored server must find its files as it left them
            self.write("pause", "")
            wait_for("rest", lambda: self.logged() == self.logged(), pause=0.2)
            self.sql("select 1 from (select pg_switch_wal()) x")
            self.run(["psql", "-X", "-q", "-h", self.path("run"), "-U", "postgres", "-c", "checkpoint"], env=self.environment)
            wait_for("end of the connection", lambda: connected(self.socket) == CLIENTS + 1)
        return state, [pid for pid in tree(self.pid) if "postgres" in (name_of(pid) or "")]

    def between(self):
        self.logged()

    def check(self, state):
        rows, servers = state
        expect(all(state_of(pid) in ("R", "S", "D") for pid in servers), "not all of the server's processes are there")
        if self.mode == "leave":
            os.unlink(self.path("pause"))
        self.grown(rows)
        now = self.logged()
        expect([row[1] for row in now] == [row[1] for row in rows], f"the backends are {now}, were {rows}")
        wait_for("the open transaction", self.holds)
        self.held += 1
        self.write(f"commit{self.held}", "")
        wait_for("the committed row and the next transaction",
                 lambda: self.sql("select n from held order by n") == [[n] for n in range(1, self.held + 1)] and self.holds())
