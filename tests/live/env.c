/* argv, environ, auxv, comm and exe as /proc/self shows them. */
#include "live.h"
#include <sys/auxv.h>
#include <sys/prctl.h>

static const char *const names[] = {"/proc/self/cmdline", "/proc/self/environ", "/proc/self/auxv", "/proc/self/comm"};
static char before[5][8192], after[5][8192];

static void snapshot(char to[5][8192])
{
    for (int i = 0; i < 4; i++) CHECK(slurp(names[i], to[i], sizeof to[i]) > 0);
    CHECK(readlink("/proc/self/exe", to[4], sizeof to[4] - 1) > 0);
}

int main(int argc, char **argv)
{
    live_init(argc, argv);
    CHECK(prctl(PR_SET_NAME, "live env") == 0);
    snapshot(before);
    char *name = (char *)getauxval(AT_EXECFN);
    CHECK(name && strstr(name, "live_env"));
    wait_go();
    snapshot(after);
    for (int i = 0; i < 4; i++)
        if (memcmp(before[i], after[i], sizeof before[i])) {
            live_say("not ok: %s differs", names[i]);
            return 1;
        }
    CHECK(strcmp(before[4], after[4]) == 0);
    CHECK((char *)getauxval(AT_EXECFN) == name && strstr(name, "live_env"));
    CHECK(strcmp(after[0], argv[0]) == 0 && strcmp(argv[1], live_report) == 0);
    return finish();
}
