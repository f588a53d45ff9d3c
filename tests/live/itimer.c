/* A ticking real timer, and a virtual one far from its end. */
#include "live.h"
#include <sys/time.h>
#include <time.h>

static volatile sig_atomic_t ticks;
static void on_alarm(int sig) { ticks++; }

int main(int argc, char **argv)
{
    live_init(argc, argv);
    struct itimerval often = {{0, 50000}, {0, 50000}}, rare = {{300, 0}, {200, 0}}, now;
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    CHECK(setitimer(ITIMER_VIRTUAL, &rare, NULL) == 0 && setitimer(ITIMER_REAL, &often, NULL) == 0);
    wait_go();
    CHECK(getitimer(ITIMER_REAL, &now) == 0 && now.it_interval.tv_sec == 0 && now.it_interval.tv_usec == 50000);
    CHECK(getitimer(ITIMER_VIRTUAL, &now) == 0 && now.it_interval.tv_sec == 300);
    CHECK(now.it_value.tv_sec >= 190 && now.it_value.tv_sec <= 200);
    int before = ticks;
    time_t end = time(NULL) + 5;
    while (ticks < before + 3 && time(NULL) < end) usleep(5000);
    CHECK(ticks >= before + 3);
    return finish();
}
