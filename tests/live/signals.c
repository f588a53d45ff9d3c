/* Handlers with flags, a blocked mask, a blocked pending signal, SIG_IGN, an alternate stack. */
#include "live.h"

static char stack[65536];
static volatile sig_atomic_t seen, on_stack, value;

static void on_info(int sig, siginfo_t *info, void *context)
{
    char here;
    seen++;
    value = info->si_value.sival_int;
    on_stack = &here >= stack && &here < stack + sizeof stack;
}

int main(int argc, char **argv)
{
    live_init(argc, argv);
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack}, now;
    CHECK(sigaltstack(&alternate, NULL) == 0);
    struct sigaction action = {.sa_sigaction = on_info, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART}, old;
    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, SIGHUP);
    CHECK(sigaction(SIGRTMIN + 3, &action, NULL) == 0);
    CHECK(signal(SIGINT, SIG_IGN) != SIG_ERR && signal(SIGQUIT, SIG_DFL) != SIG_ERR);
    sigset_t set, mask, pending;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 3);
    sigaddset(&set, SIGTERM);
    CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
    CHECK(sigqueue(getpid(), SIGRTMIN + 3, (union sigval){.sival_int = 77}) == 0);
    wait_go();
    CHECK(seen == 0);
    CHECK(sigprocmask(SIG_SETMASK, NULL, &mask) == 0 && sigpending(&pending) == 0);
    for (int sig = 1; sig < 32; sig++) {
        CHECK(sigismember(&mask, sig) == (sig == SIGTERM || sig == SIGUSR1));
        CHECK(sigismember(&pending, sig) == 0);
    }
    CHECK(sigismember(&mask, SIGRTMIN + 3) && sigismember(&pending, SIGRTMIN + 3));
    CHECK(sigaction(SIGRTMIN + 3, NULL, &old) == 0 && old.sa_sigaction == on_info);
    CHECK((old.sa_flags & ~0x04000000) == action.sa_flags && sigismember(&old.sa_mask, SIGHUP) == 1);
    CHECK(sigaction(SIGINT, NULL, &old) == 0 && old.sa_handler == SIG_IGN);
    CHECK(sigaction(SIGQUIT, NULL, &old) == 0 && old.sa_handler == SIG_DFL);
    CHECK(sigaltstack(NULL, &now) == 0 && now.ss_sp == stack && now.ss_size == sizeof stack && now.ss_flags == 0);
    CHECK(sigprocmask(SIG_UNBLOCK, &set, NULL) == 0);
    CHECK(seen == 1 && value == 77 && on_stack);
    return finish();
}
