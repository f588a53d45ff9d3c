/* Helpers for live test programs: make state, wait_go(), check it, finish().
 * argv[1] is the report file; it is open only while a line is written. */
#ifndef LIVE_H
#define LIVE_H
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *live_report;
static volatile sig_atomic_t live_go;

static inline void live_say(const char *format, ...)
{
    char line[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line - 1, format, args);
    va_end(args);
    if (n > (int)sizeof line - 2) n = sizeof line - 2;
    line[n] = '\n';
    int fd = open(live_report, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0 || write(fd, line, n + 1) != n + 1) _exit(3);
    close(fd);
}

#define CHECK(cond) do { if (!(cond)) { \
    live_say("not ok: %s:%d: %s (errno %d)", __FILE__, __LINE__, #cond, errno); _exit(1); } } while (0)

static inline void live_on_go(int sig) { live_go = 1; }

/* Blocks SIGUSR1, so that it is taken only where the program waits. */
static inline void live_init(int argc, char **argv)
{
    if (argc < 2) _exit(2);
    live_report = argv[1];
    struct sigaction action = {.sa_handler = live_on_go};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0 && sigaction(SIGUSR1, &action, NULL) == 0);
}

static inline void ready(void) { live_say("ready"); }

static inline void wait_signal(void)
{
    sigset_t set;
    sigprocmask(SIG_SETMASK, NULL, &set);
    sigdelset(&set, SIGUSR1);
    while (!live_go) sigsuspend(&set);
}

static inline void wait_go(void) { ready(); wait_signal(); }

static inline int finish(void) { live_say("ok"); return 0; }

/* The whole of a small file into buffer; its length, or -1. */
static inline ssize_t slurp(const char *path, char *buffer, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    size_t used = 0;
    ssize_t n;
    while (used < size && (n = read(fd, buffer + used, size - used)) > 0) used += n;
    close(fd);
    return used;
}
#endif
