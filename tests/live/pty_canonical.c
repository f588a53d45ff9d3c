/* A terminal in line mode with whole lines and the start of one typed ahead; the line is finished after. */
#include "live.h"
#include <poll.h>
#include <termios.h>

int main(int argc, char **argv)
{
	live_init(argc, argv);
	char got[64];
	struct termios settings, now;
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
	CHECK(master >= 0 && unlockpt(master) == 0);
	int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
	CHECK(slave >= 0 && tcgetattr(slave, &settings) == 0);
	settings.c_lflag &= ~ECHO;
	CHECK(tcsetattr(slave, TCSANOW, &settings) == 0);
	CHECK(write(master, "line one\nline two\npart", 22) == 22);
	struct pollfd polled = {.fd = slave, .events = POLLIN};
	CHECK(poll(&polled, 1, 5000) == 1);
	wait_go();
	CHECK(tcgetattr(slave, &now) == 0 && now.c_lflag == settings.c_lflag && now.c_lflag & ICANON);
	CHECK(poll(&polled, 1, 5000) == 1 && read(slave, got, sizeof got) == 9 && memcmp(got, "line one\n", 9) == 0);
	CHECK(poll(&polled, 1, 5000) == 1 && read(slave, got, sizeof got) == 9 && memcmp(got, "line two\n", 9) == 0);
	CHECK(poll(&polled, 1, 20) == 0); /* the rest is no line yet */
	CHECK(write(master, "ial\n", 4) == 4);
	CHECK(poll(&polled, 1, 5000) == 1 && read(slave, got, sizeof got) == 8 && memcmp(got, "partial\n", 8) == 0);
	CHECK(read(master, got, sizeof got) == -1 && errno == EAGAIN);
	return finish();
}
