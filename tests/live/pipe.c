/* A pipe with content not yet read. */
#include "live.h"

int main(int argc, char **argv)
{
    live_init(argc, argv);
    int end[2];
    static char sent[20000], got[sizeof sent + 1];
    for (size_t i = 0; i < sizeof sent; i++) sent[i] = i * 7 + i / 256;
    CHECK(pipe2(end, O_NONBLOCK) == 0 && write(end[1], sent, sizeof sent) == sizeof sent);
    wait_go();
    CHECK(fcntl(end[0], F_GETFL) == O_NONBLOCK && (fcntl(end[1], F_GETFL) & O_ACCMODE) == O_WRONLY);
    CHECK(read(end[0], got, sizeof got) == sizeof sent && memcmp(got, sent, sizeof sent) == 0);
    CHECK(read(end[0], got, 1) == -1 && errno == EAGAIN);
    CHECK(write(end[1], "x", 1) == 1 && read(end[0], got, 1) == 1 && got[0] == 'x');
    CHECK(close(end[1]) == 0 && read(end[0], got, 1) == 0);
    return finish();
}
