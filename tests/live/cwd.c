/* The current directory and the umask. */
#include "live.h"
#include <limits.h>
#include <sys/stat.h>

int main(int argc, char **argv)
{
    live_init(argc, argv);
    char before[PATH_MAX], after[PATH_MAX];
    CHECK(mkdir("sub", 0755) == 0 && chdir("sub") == 0 && getcwd(before, sizeof before));
    umask(027);
    wait_go();
    CHECK(getcwd(after, sizeof after) && strcmp(before, after) == 0);
    int fd = open("made", O_WRONLY | O_CREAT | O_EXCL, 0666);
    struct stat status;
    CHECK(fd >= 0 && fstat(fd, &status) == 0 && (status.st_mode & 0777) == 0640);
    CHECK(access("../sub/made", F_OK) == 0);
    CHECK(umask(0) == 027);
    return finish();
}
