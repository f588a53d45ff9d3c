/* As stream.py, with io_uring: a request to receive and one to send are always under way, and a clock that ticks.
 *
 * uring REPORT connect 4 PORT FLAGS: of io_uring_setup, as a number */
#include "../live/uring.h"
#include <arpa/inet.h>
#include <stdbool.h>
#include <sys/socket.h>

enum { PERIOD = 65521, PIECE = 20000, RECEIVE = 1, SEND, TICK };
static unsigned char pattern[PERIOD * 2], in[PIECE];
static struct uring ring;
static struct __kernel_timespec tick = {0, 20000000};
static bool polled;

static void ask(int op, int fd, void *at, unsigned length)
{
	struct io_uring_sqe *e = uring_prepare(&ring, op, op == IORING_OP_RECV ? RECEIVE : op == IORING_OP_SEND ? SEND : TICK);
	e->fd = fd;
	e->addr = (uintptr_t)at;
	e->len = length;
	if (polled) {
		uring_publish_polled(&ring);
	} else {
		uring_publish(&ring);
		CHECK(uring_submit(&ring, 0) == 1);
	}
}

static void stream(int link, int report)
{
	uint64_t counts[2] = {};
	ask(IORING_OP_RECV, link, in, PIECE);
	ask(IORING_OP_SEND, link, pattern, PIECE);
	ask(IORING_OP_TIMEOUT, -1, &tick, 1);
	for (;;) {
		/* Interrupted, it is called again, as liburing's callers do. */
		CHECK(syscall(SYS_io_uring_enter, ring.fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0) >= 0 || errno == EINTR);
		while (uring_ready(&ring)) {
			unsigned *head = uring_at(&ring, ring.p.cq_off.head);
			struct io_uring_cqe c = ((struct io_uring_cqe *)(ring.ring + ring.p.cq_off.cqes))[*head & (ring.p.cq_entries - 1)];
			__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
			CHECK(c.user_data == TICK ? c.res == -ETIME : c.res > 0);
			if (c.user_data == RECEIVE) {
				CHECK(memcmp(in, pattern + counts[0] % PERIOD, c.res) == 0);
				counts[0] += c.res;
				ask(IORING_OP_RECV, link, in, PIECE);
			} else if (c.user_data == SEND) {
				counts[1] += c.res;
				ask(IORING_OP_SEND, link, pattern + counts[1] % PERIOD, PIECE);
			} else {
				ask(IORING_OP_TIMEOUT, -1, &tick, 1);
			}
			CHECK(pwrite(report, counts, sizeof counts, 0) == sizeof counts);
		}
	}
}

int main(int argc, char **argv)
{
	static char error[4096];
	if (argc < 6) return 2;
	snprintf(error, sizeof error, "%s.err", argv[1]);
	live_report = error;
	for (long long n = 0; n < PERIOD * 2; n++) pattern[n] = ((n % PERIOD) * (n % PERIOD) >> 5 ^ n % PERIOD) & 255;
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[4])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int report = open(argv[1], O_RDWR | O_CREAT | O_CLOEXEC, 0644), link = socket(AF_INET, SOCK_STREAM, 0), flags = atoi(argv[5]);
	CHECK(report >= 0 && link >= 0 && connect(link, (struct sockaddr *)&to, sizeof to) == 0);
	polled = flags & IORING_SETUP_SQPOLL;
	if (uring_make(&ring, 16, flags, 0) != 0) return 77;
	stream(link, report);
}
