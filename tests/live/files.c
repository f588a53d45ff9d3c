/* A file at a position, O_APPEND, a dup'ed descriptor that shares its position, close-on-exec. */
#include "live.h"

int main(int argc, char **argv)
{
    live_init(argc, argv);
    char got[16] = "";
    int fd = open("data", O_RDWR | O_CREAT | O_TRUNC, 0644);
    CHECK(fd >= 0 && write(fd, "0123456789", 10) == 10 && lseek(fd, 4, SEEK_SET) == 4);
    int shared = dup2(fd, 40);
    CHECK(shared == 40);
    int own = open("data", O_RDONLY | O_CLOEXEC);
    CHECK(own >= 0 && lseek(own, 2, SEEK_SET) == 2);
    int append = open("log", O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0644);
    CHECK(append >= 0 && write(append, "ab", 2) == 2);
    wait_go();
    CHECK(lseek(fd, 0, SEEK_CUR) == 4 && lseek(shared, 0, SEEK_CUR) == 4 && lseek(own, 0, SEEK_CUR) == 2);
    CHECK(read(shared, got, 3) == 3 && memcmp(got, "456", 3) == 0);
    CHECK(lseek(fd, 0, SEEK_CUR) == 7 && lseek(own, 0, SEEK_CUR) == 2);
    CHECK((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR && (fcntl(own, F_GETFL) & O_ACCMODE) == O_RDONLY);
    CHECK(fcntl(own, F_GETFD) == FD_CLOEXEC && fcntl(fd, F_GETFD) == 0 && fcntl(shared, F_GETFD) == 0);
    CHECK(fcntl(append, F_GETFL) & O_APPEND);
    CHECK(lseek(append, 0, SEEK_SET) == 0 && write(append, "cd", 2) == 2);
    CHECK(slurp("log", got, sizeof got) == 4 && memcmp(got, "abcd", 4) == 0);
    CHECK(fcntl(append + 1, F_GETFD) == -1 && errno == EBADF);
    return finish();
}
