/* Pseudo-terminals: number, settings, window size, data on the way both ways, lock, packet and exclusive mode. */
#include "live.h"
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>

static int open_master(void)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY);
	CHECK(master >= 0);
	return master;
}

static void expect(int fd, const char *text)
{
	char got[64];
	size_t used = 0;
	while (used < strlen(text)) {
		struct pollfd poll_for = {.fd = fd, .events = POLLIN};
		CHECK(poll(&poll_for, 1, 5000) == 1);
		ssize_t n = read(fd, got + used, strlen(text) - used);
		CHECK(n > 0);
		used += n;
	}
	CHECK(memcmp(got, text, used) == 0);
}

/* What is written to one end is on its way until a worker of the kernel has moved it. */
static void await_data(int fd) { CHECK(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 5000) == 1); }

static void set_up(int slave, struct termios *to)
{
	CHECK(tcgetattr(slave, to) == 0);
	cfmakeraw(to);
	to->c_cc[VMIN] = 3;
	to->c_cc[VTIME] = 1;
	to->c_cc[VINTR] = 7;
	to->c_iflag |= IXANY;
	CHECK(cfsetospeed(to, B9600) == 0 && cfsetispeed(to, B9600) == 0 && tcsetattr(slave, TCSANOW, to) == 0);
	CHECK(ioctl(slave, TIOCSWINSZ, &(struct winsize){33, 77, 5, 6}) == 0);
	memset(to, 0, sizeof *to);
	CHECK(tcgetattr(slave, to) == 0);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	int master = open_master(), other = open_master(), value = -1, numbers[2];
	char name[64], now[64];
	struct termios before, after = {0};
	struct winsize size;
	CHECK(grantpt(master) == 0 && unlockpt(master) == 0 && ptsname_r(master, name, sizeof name) == 0);
	int slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	CHECK(slave >= 0);
	set_up(slave, &before);
	CHECK(ioctl(master, TIOCGPTN, &numbers[0]) == 0 && ioctl(other, TIOCGPTN, &numbers[1]) == 0);
	CHECK(write(slave, "from the slave", 14) == 14 && write(master, "to the slave", 12) == 12);
	await_data(master);
	await_data(slave);
	CHECK(ioctl(other, TIOCPKT, &(int){1}) == 0 && ioctl(other, TIOCEXCL) == 0);
	wait_go();
	CHECK(ioctl(master, TIOCGPTN, &value) == 0 && value == numbers[0]);
	CHECK(ioctl(other, TIOCGPTN, &value) == 0 && value == numbers[1]);
	CHECK(ptsname_r(master, now, sizeof now) == 0 && strcmp(name, now) == 0);
	CHECK(ttyname_r(slave, now, sizeof now) == 0 && strcmp(name, now) == 0);
	CHECK(tcgetattr(slave, &after) == 0 && memcmp(&before, &after, sizeof after) == 0);
	CHECK(ioctl(master, TIOCGWINSZ, &size) == 0 && size.ws_row == 33 && size.ws_col == 77);
	CHECK(size.ws_xpixel == 5 && size.ws_ypixel == 6 && fcntl(slave, F_GETFD) == FD_CLOEXEC);
	expect(master, "from the slave");
	expect(slave, "to the slave");
	CHECK(ioctl(master, TIOCGPTLCK, &value) == 0 && value == 0 && ioctl(other, TIOCGPTLCK, &value) == 0 && value == 1);
	CHECK(ioctl(master, TIOCGPKT, &value) == 0 && value == 0 && ioctl(other, TIOCGPKT, &value) == 0 && value == 1);
	CHECK(ioctl(master, TIOCGEXCL, &value) == 0 && value == 0 && ioctl(other, TIOCGEXCL, &value) == 0 && value == 1);
	CHECK(write(slave, "more\n", 5) == 5);
	expect(master, "more\n");
	int again = open(name, O_RDWR | O_NOCTTY);
	CHECK(again >= 0 && close(again) == 0 && close(slave) == 0);
	await_data(master);
	CHECK(read(master, now, sizeof now) == -1 && errno == EIO);
	return finish();
}
