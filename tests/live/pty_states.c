/* Pseudo-terminals in the states that are hard to take: full, held back, ended lines, packet mode with data, one end closed. */
#include "live.h"
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>

static int readable(int fd) { return poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 300) == 1; }

static void open_pair(int pair[2])
{
	CHECK((pair[0] = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK)) >= 0 && unlockpt(pair[0]) == 0);
	CHECK((pair[1] = open(ptsname(pair[0]), O_RDWR | O_NOCTTY | O_NONBLOCK)) >= 0);
}

static void quiet(int slave)
{
	struct termios t;
	CHECK(tcgetattr(slave, &t) == 0);
	t.c_lflag &= ~(ECHO | ECHOE | ECHOK);
	t.c_oflag &= ~OPOST;
	CHECK(tcsetattr(slave, TCSANOW, &t) == 0);
}

static size_t fill(int slave)
{
	size_t n = 0;
	for (;;) {
		char c = 'a' + n % 23;
		if (write(slave, &c, 1) != 1) {
			CHECK(errno == EAGAIN);
			return n;
		}
		n++;
	}
}

static void drain(int master, size_t size)
{
	for (size_t n = 0; n < size;) {
		char buffer[4096];
		CHECK(readable(master));
		ssize_t got = read(master, buffer, sizeof buffer);
		CHECK(got > 0);
		for (ssize_t i = 0; i < got; i++, n++) CHECK(buffer[i] == (char)('a' + n % 23));
	}
	CHECK(!readable(master));
}

static int can_write(int fd) { return poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, 0) == 1; }

static void expect_packet(int master, const char *text)
{
	char got[64];
	CHECK(readable(master));
	ssize_t n = read(master, got, sizeof got);
	CHECK(n == (ssize_t)strlen(text) + 1 && got[0] == TIOCPKT_DATA && !memcmp(got + 1, text, n - 1));
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	int full[2], lines[2], gone[2], held[2], stopped[2], packet[2], closed[2], on = 1;
	char got[64];
	struct pollfd polled = {.events = POLLIN};
	open_pair(full), open_pair(lines), open_pair(gone), open_pair(held), open_pair(stopped), open_pair(packet), open_pair(closed);
	quiet(full[1]), quiet(lines[1]), quiet(held[1]), quiet(stopped[1]), quiet(packet[1]), quiet(closed[1]);
	size_t size = fill(full[1]);
	CHECK(size > 4096);
	CHECK(write(lines[0], "one\ntw\004\004th\026\003ree\n", 16) == 16); /* ended by ^D; nothing but ^D; a ^C that is quoted */
	CHECK(readable(lines[1]));
	CHECK(close(gone[0]) == 0);
	CHECK(write(held[1], "before", 6) == 6 && readable(held[0]) && tcflow(held[1], TCOOFF) == 0 && !can_write(held[1]));
	CHECK(write(stopped[0], "\023", 1) == 1);
	for (int i = 0; i < 1000 && can_write(stopped[1]); i++) usleep(1000);
	CHECK(!can_write(stopped[1]));
	CHECK(write(packet[1], "data", 4) == 4 && ioctl(packet[0], TIOCPKT, &on) == 0 && readable(packet[0]));
	CHECK(write(closed[1], "last words", 10) == 10 && readable(closed[0]) && close(closed[1]) == 0);
	wait_go();
	drain(full[0], size);
	CHECK(can_write(full[1]));
	CHECK(read(lines[1], got, sizeof got) == 4 && !memcmp(got, "one\n", 4));
	CHECK(read(lines[1], got, sizeof got) == 2 && !memcmp(got, "tw", 2));
	CHECK(read(lines[1], got, sizeof got) == 0);
	CHECK(read(lines[1], got, sizeof got) == 7 && !memcmp(got, "th\003ree\n", 7));
	CHECK(read(gone[1], got, 1) == 0 && write(gone[1], "x", 1) == -1 && errno == EIO);
	CHECK(!can_write(held[1]) && read(held[0], got, sizeof got) == 6 && tcflow(held[1], TCOON) == 0 && can_write(held[1]));
	CHECK(!can_write(stopped[1]) && write(stopped[0], "\021", 1) == 1);
	polled = (struct pollfd){.fd = stopped[1], .events = POLLOUT};
	CHECK(poll(&polled, 1, 3000) == 1);
	expect_packet(packet[0], "data");
	CHECK(write(packet[1], "more", 4) == 4);
	expect_packet(packet[0], "more");
	CHECK(read(closed[0], got, sizeof got) == 10 && !memcmp(got, "last words", 10));
	CHECK(read(closed[0], got, sizeof got) == -1 && errno == EIO);
	return finish();
}
