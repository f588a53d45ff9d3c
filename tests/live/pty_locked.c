/* Several pseudo-terminals, with numbers between them that others have: locked settings, exclusive slaves and masters, a master whose slave
 * was never open, slaves without a master. */
#include "live.h"
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>

enum { PAIRS = 6 };
static int master[PAIRS], slave[PAIRS], number[PAIRS];

static int exclusive(int fd)
{
	int value = -1;
	CHECK(ioctl(fd, TIOCGEXCL, &value) == 0);
	return value;
}

static void expect(int fd, const char *text)
{
	char got[64];
	struct pollfd polled = {.fd = fd, .events = POLLIN};
	CHECK(poll(&polled, 1, 5000) == 1);
	CHECK(read(fd, got, sizeof got) == (ssize_t)strlen(text) && memcmp(got, text, strlen(text)) == 0);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	struct termios t, lock = {.c_lflag = ECHO | ICANON, .c_iflag = ICRNL, .c_cc[VINTR] = 1}, now;
	int between[PAIRS], value;
	char name[64];
	for (int i = 0; i < PAIRS; i++) {
		CHECK((between[i] = posix_openpt(O_RDWR | O_NOCTTY)) >= 0);
		CHECK((master[i] = posix_openpt(O_RDWR | O_NOCTTY)) >= 0 && unlockpt(master[i]) == 0 && ioctl(master[i], TIOCGPTN, &number[i]) == 0);
		slave[i] = i == 5 ? -1 : open(ptsname(master[i]), O_RDWR | O_NOCTTY);
		CHECK(slave[i] >= 0 || i == 5);
	}
	for (int i = 0; i < PAIRS; i++) CHECK(close(between[i]) == 0);
	CHECK(tcgetattr(slave[0], &t) == 0);
	t.c_lflag &= ~(ECHO | ECHOE);
	t.c_cc[VINTR] = 7;
	CHECK(tcsetattr(slave[0], TCSANOW, &t) == 0 && ioctl(slave[0], TIOCSLCKTRMIOS, &lock) == 0);
	CHECK(ioctl(slave[1], TIOCEXCL) == 0 && ioctl(master[2], TIOCEXCL) == 0 && ioctl(slave[3], TIOCEXCL) == 0 && ioctl(slave[3], TIOCNXCL) == 0);
	CHECK(write(slave[2], "late", 4) == 4 && poll(&(struct pollfd){.fd = master[2], .events = POLLIN}, 1, 5000) == 1 && close(slave[2]) == 0);
	CHECK(close(master[4]) == 0);
	wait_go();
	for (int i = 0; i < PAIRS; i++) if (i != 4) CHECK(ioctl(master[i], TIOCGPTN, &value) == 0 && value == number[i]);
	memset(&now, 0, sizeof now);
	CHECK(ioctl(slave[0], TIOCGLCKTRMIOS, &now) == 0);
	CHECK(now.c_lflag == lock.c_lflag && now.c_iflag == lock.c_iflag && now.c_cc[VINTR] == 1 && now.c_cc[VEOF] == 0 && now.c_oflag == 0);
	CHECK(tcgetattr(slave[0], &now) == 0 && now.c_lflag == t.c_lflag && now.c_cc[VINTR] == 7);
	now.c_lflag |= ECHO | ECHOE;
	now.c_lflag &= ~ICANON;
	now.c_cc[VINTR] = 3;
	now.c_cc[VEOF] = 9;
	tcsetattr(slave[0], TCSANOW, &now);
	CHECK(tcgetattr(slave[0], &now) == 0 && !(now.c_lflag & ECHO) && now.c_lflag & ECHOE && now.c_lflag & ICANON && now.c_cc[VINTR] == 7 && now.c_cc[VEOF] == 9);
	CHECK(exclusive(slave[1]) == 1 && exclusive(master[1]) == 0 && exclusive(master[2]) == 1 && exclusive(slave[3]) == 0 && exclusive(master[3]) == 0);
	expect(master[2], "late");
	CHECK(read(master[2], name, 1) == -1 && errno == EIO); /* its slave was closed */
	CHECK(read(slave[4], name, 1) == 0 && write(slave[4], "x", 1) == -1 && errno == EIO);
	struct pollfd polled = {.fd = master[5], .events = POLLIN};
	CHECK(poll(&polled, 1, 0) == 0); /* its slave was never open */
	CHECK((slave[5] = open(ptsname(master[5]), O_RDWR | O_NOCTTY)) >= 0 && write(slave[5], "first", 5) == 5);
	expect(master[5], "first");
	return finish();
}
