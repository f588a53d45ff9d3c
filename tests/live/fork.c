/* A parent, two children (one leads a group), a grandchild and a zombie. */
#include "live.h"
#include <sys/wait.h>

static void wait_usr2(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    CHECK(sigwaitinfo(&set, NULL) == SIGUSR2);
}

static int reap(pid_t pid)
{
    int status = -1;
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    return WEXITSTATUS(status);
}

int main(int argc, char **argv)
{
    live_init(argc, argv);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
    pid_t root = getpid(), first, second, zombie;
    CHECK((first = fork()) >= 0);
    if (first == 0) {
        pid_t me = getpid(), grandchild = fork();
        CHECK(grandchild >= 0);
        if (grandchild == 0) {
            kill(root, SIGUSR2);
            wait_signal();
            CHECK(getppid() == me && getpgrp() == root && getsid(0) == root);
            _exit(13);
        }
        wait_signal();
        CHECK(getpid() == me && getppid() == root && getpgrp() == root && getsid(0) == root);
        CHECK(kill(grandchild, SIGUSR1) == 0 && reap(grandchild) == 13);
        _exit(11);
    }
    wait_usr2();
    CHECK((second = fork()) >= 0);
    if (second == 0) {
        pid_t me = getpid();
        CHECK(setpgid(0, 0) == 0);
        kill(root, SIGUSR2);
        wait_signal();
        CHECK(getpid() == me && getppid() == root && getpgrp() == me && getsid(0) == root);
        _exit(12);
    }
    wait_usr2();
    CHECK((zombie = fork()) >= 0);
    if (zombie == 0) _exit(7);
    siginfo_t info;
    CHECK(waitid(P_PID, zombie, &info, WEXITED | WNOWAIT) == 0);
    wait_go();
    CHECK(getpid() == root && getsid(0) == root && getpgrp() == root);
    CHECK(reap(zombie) == 7);
    CHECK(kill(first, SIGUSR1) == 0 && kill(second, SIGUSR1) == 0);
    CHECK(reap(first) == 11 && reap(second) == 12);
    CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
    return finish();
}
