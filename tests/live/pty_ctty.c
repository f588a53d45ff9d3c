/* A session with a controlling terminal whose other end another task holds: session, foreground group, /dev/tty, and
 * the interrupt character reaches the foreground group only. */
#include "tree.h"
#include <termios.h>

static int master;
static char name[64];
static volatile sig_atomic_t interrupted;
static void on_interrupt(int sig) { interrupted = 1; }

static int terminal_of(pid_t pid)
{
	char path[64], text[512] = "";
	int terminal = -1;
	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	CHECK(slurp(path, text, sizeof text - 1) > 0);
	CHECK(sscanf(strrchr(text, ')') + 2, "%*c %*d %*d %*d %d", &terminal) == 1);
	return terminal;
}

static int foreground(void *argument)
{
	sigset_t none, interrupt;
	sigemptyset(&none);
	sigemptyset(&interrupt);
	sigaddset(&interrupt, SIGINT);
	/* Blocked but in sigsuspend, so that it does not come between the look and the wait. */
	CHECK(setpgid(0, 0) == 0 && sigprocmask(SIG_BLOCK, &interrupt, NULL) == 0);
	tree_there();
	while (!interrupted) sigsuspend(&none);
	return live_go ? 0 : 9;
}

static int background(void *argument)
{
	CHECK(setpgid(0, 0) == 0);
	tree_park();
	CHECK(!interrupted);
	return 8;
}

static int leader(void *argument)
{
	CHECK(close(master) == 0 && setsid() == getpid());
	int slave = open(name, O_RDWR), tty;
	CHECK(slave >= 0 && (tty = open("/dev/tty", O_RDWR | O_CLOEXEC)) >= 0);
	pid_t front = tree_start(foreground, NULL), back = tree_start(background, NULL);
	int before = terminal_of(getpid());
	CHECK(tcsetpgrp(slave, front) == 0 && before > 0);
	tree_park();
	CHECK(terminal_of(getpid()) == before && terminal_of(front) == before);
	CHECK(tcgetpgrp(slave) == front && tcgetpgrp(tty) == front);
	CHECK(tcgetsid(slave) == getpid() && fcntl(tty, F_GETFD) == FD_CLOEXEC);
	int again = open("/dev/tty", O_RDWR);
	CHECK(again >= 0 && tcgetsid(again) == getpid());
	CHECK(tree_reap(front) == 9 && tree_finish(back) == 8 && !interrupted);
	CHECK(signal(SIGTTOU, SIG_IGN) != SIG_ERR && tcsetpgrp(tty, getpgrp()) == 0 && tcgetpgrp(slave) == getpgrp());
	return 7;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	CHECK(signal(SIGINT, on_interrupt) != SIG_ERR);
	CHECK((master = posix_openpt(O_RDWR | O_NOCTTY)) >= 0 && unlockpt(master) == 0);
	CHECK(ptsname_r(master, name, sizeof name) == 0);
	pid_t pid = tree_start(leader, NULL);
	wait_go();
	CHECK(terminal_of(getpid()) == 0 && open("/dev/tty", O_RDWR) == -1 && errno == ENXIO);
	CHECK(tcgetsid(master) == pid);
	CHECK(write(master, "\003", 1) == 1 && tree_finish(pid) == 7 && !interrupted);
	return finish();
}
