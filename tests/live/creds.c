/* Credentials: ids, groups and capability sets, as /proc/self/status shows them. */
#include "live.h"
#include <grp.h>
#include <sys/prctl.h>

static char before[1024], after[1024];

static void snapshot(char *to)
{
    static char status[8192];
    ssize_t n = slurp("/proc/self/status", status, sizeof status - 1);
    CHECK(n > 0);
    status[n] = 0;
    *to = 0;
    for (char *line = strtok(status, "\n"); line; line = strtok(NULL, "\n"))
        if (!strncmp(line, "Uid:", 4) || !strncmp(line, "Gid:", 4) || !strncmp(line, "Groups:", 7) ||
            !strncmp(line, "Cap", 3) || !strncmp(line, "NoNewPrivs:", 11)) {
            CHECK(strlen(to) + strlen(line) + 2 < sizeof before);
            strcat(strcat(to, line), "\n");
        }
}

int main(int argc, char **argv)
{
    live_init(argc, argv);
    gid_t groups[] = {1300, 1301};
    CHECK(setgroups(2, groups) == 0 && setresgid(1201, 1202, 1203) == 0);
    CHECK(prctl(PR_SET_KEEPCAPS, 1) == 0 && setresuid(1101, 1102, 1103) == 0);
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    snapshot(before);
    wait_go();
    snapshot(after);
    CHECK(strcmp(before, after) == 0);
    uid_t r, e, s;
    CHECK(getresuid(&r, &e, &s) == 0 && r == 1101 && e == 1102 && s == 1103);
    CHECK(prctl(PR_GET_KEEPCAPS) == 1);
    return finish();
}
