/* A nanosleep in progress: it ends no earlier than asked (EINTR with the rest is taken as programs take it). */
#include "live.h"
#include <time.h>

int main(int argc, char **argv)
{
    live_init(argc, argv);
    struct timespec left = {1, 500000000}, start, end;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &start) == 0);
    ready();
    while (nanosleep(&left, &left) != 0) CHECK(errno == EINTR && left.tv_sec < 2);
    CHECK(clock_gettime(CLOCK_MONOTONIC, &end) == 0);
    double took = (end.tv_sec - start.tv_sec) + (end.tv_nsec - start.tv_nsec) / 1e9;
    CHECK(took >= 1.5 && took < 30);
    wait_signal();
    return finish();
}
