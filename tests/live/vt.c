/* A virtual terminal: settings, and the session that it controls, with its foreground group; and /dev/console. */
#include "tree.h"
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>

static int vt, other;

static int child(void *argument)
{
	CHECK(setpgid(0, 0) == 0);
	tree_there();
	wait_signal();
	CHECK(tcgetpgrp(vt) == getpid());
	return 4;
}

static int open_vt(int number)
{
	char name[32];
	snprintf(name, sizeof name, "/dev/tty%d", number);
	return open(name, O_RDWR | O_NOCTTY);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	struct termios t, now;
	struct stat before, after;
	int number = 10 + getpid() % 25;
	vt = open_vt(number);
	other = open_vt(number + 25);
	int console = open("/dev/console", O_RDWR | O_NOCTTY);
	if (vt < 0 || other < 0 || ioctl(vt, TIOCSCTTY, 0) != 0) {
		live_say("skip: no virtual terminal that is free");
		return 0;
	}
	CHECK(fstat(vt, &before) == 0 && tcgetattr(vt, &t) == 0);
	t.c_lflag &= ~(ECHO | ICANON);
	t.c_cc[VINTR] = 7;
	t.c_cc[VMIN] = 5;
	CHECK(tcsetattr(vt, TCSANOW, &t) == 0);
	pid_t pid = tree_start(child, NULL);
	signal(SIGTTOU, SIG_IGN);
	CHECK(tcsetpgrp(vt, pid) == 0);
	wait_go();
	CHECK(fstat(vt, &after) == 0 && after.st_rdev == before.st_rdev);
	CHECK(tcgetattr(vt, &now) == 0 && now.c_lflag == t.c_lflag && now.c_cc[VINTR] == 7 && now.c_cc[VMIN] == 5);
	CHECK(tcgetsid(vt) == getpid() && tcgetpgrp(vt) == pid);
	CHECK(tcgetsid(other) == -1 && isatty(other));
	CHECK(console < 0 || isatty(console));
	int tty = open("/dev/tty", O_RDWR);
	CHECK(tty >= 0 && tcgetpgrp(tty) == pid);
	CHECK(tree_finish(pid) == 4);
	return finish();
}
