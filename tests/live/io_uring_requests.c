/* Requests of io_uring that are under way: they wait after the restore as they did before, and complete with what comes then. In a usual ring, in one whose
 * completions are deferred, and in one that has had more completions than requests. */
#include "uring.h"
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#ifndef IORING_SETUP_DEFER_TASKRUN
#define IORING_SETUP_SINGLE_ISSUER (1U << 12)
#define IORING_SETUP_DEFER_TASKRUN (1U << 13)
#endif
#ifndef IORING_TIMEOUT_MULTISHOT
#define IORING_TIMEOUT_MULTISHOT (1U << 6)
#endif
enum { POLL = 100, MULTI, READ, READV, RECV, RECVMSG, ACCEPT, LONG, SHORT, LINKED, LINK_TIMEOUT, BEHIND, WRITE, FIXED, SKIPPED, COUNTED };
enum { PIPE_SIZE = 4096 };

struct pair {
	int in, out;
};

static struct uring ring, deferred, busy;
static struct pair polled, multi, readable, vectored, full, fixed, linked;
static int talk[2], message[2], listener;
static char text[64], parts[2][4], received[16], said[16], late[16], *big, out[PIPE_SIZE], name[64];
static struct msghdr header;
static struct iovec header_parts[1];
static long long begun;

static long long now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static void pair_make(struct pair *p)
{
	int fds[2];
	CHECK(pipe2(fds, O_CLOEXEC) == 0);
	p->in = fds[0];
	p->out = fds[1];
}

static struct io_uring_sqe *entry(struct uring *r, int op, uint64_t data, int fd, void *at, unsigned length)
{
	struct io_uring_sqe *e = uring_next(r, op, data);
	e->fd = fd;
	e->addr = (uintptr_t)at;
	e->len = length;
	return e;
}

static struct __kernel_timespec *moment(long long ms)
{
	static struct __kernel_timespec t;
	t = (struct __kernel_timespec){ms / 1000, ms % 1000 * 1000000};
	return &t;
}

/* One with that number, wherever it stands among those that are there; waits for it. */
static int take(struct uring *r, uint64_t data, int *more)
{
	for (int tries = 0; tries < 1000; tries++) {
		unsigned *head = uring_at(r, r->p.cq_off.head), ready = uring_ready(r);
		struct io_uring_cqe *all = (struct io_uring_cqe *)(r->ring + r->p.cq_off.cqes), found;
		for (unsigned i = 0; i < ready; i++) {
			if (all[(*head + i) & (r->p.cq_entries - 1)].user_data != data) continue;
			found = all[(*head + i) & (r->p.cq_entries - 1)];
			for (; i > 0; i--) all[(*head + i) & (r->p.cq_entries - 1)] = all[(*head + i - 1) & (r->p.cq_entries - 1)];
			__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
			if (more) *more = found.flags & IORING_CQE_F_MORE;
			return found.res;
		}
		/* A submitter of deferred work must come itself; for others it does no harm. */
		syscall(SYS_io_uring_enter, r->fd, 0, 0, IORING_ENTER_GETEVENTS, NULL, 0);
		usleep(2000);
	}
	live_say("not ok: no completion of %d", (int)data);
	_exit(1);
}

/* What it is given need not stay: only until it is submitted. */
static void submit_vectors(void)
{
	struct iovec list[2] = {{parts[0], 4}, {parts[1], 4}};
	entry(&ring, IORING_OP_READV, READV, vectored.in, list, 2);
	header_parts[0] = (struct iovec){said, sizeof said};
	header = (struct msghdr){.msg_iov = header_parts, .msg_iovlen = 1, .msg_name = name, .msg_namelen = sizeof name};
	entry(&ring, IORING_OP_RECVMSG, RECVMSG, message[0], &header, 1);
	CHECK(uring_submit(&ring, 0) == 2);
	memset(list, 0, sizeof list);
	memset(header_parts, 0, sizeof header_parts);
}

static void submit_times(void)
{
	entry(&ring, IORING_OP_TIMEOUT, LONG, -1, moment(3600000), 1);
	CHECK(uring_submit(&ring, 0) == 1);
	begun = now_ms();
	entry(&ring, IORING_OP_TIMEOUT, SHORT, -1, moment(1500), 1);
	CHECK(uring_submit(&ring, 0) == 1);
	/* Or when so many others have completed, of which two are still to come at the end. */
	entry(&ring, IORING_OP_TIMEOUT, COUNTED, -1, moment(3600000), 1)->off = 102;
	CHECK(uring_submit(&ring, 0) == 1);
	/* A read with a limit, and a write that is to follow upon both. */
	entry(&ring, IORING_OP_READ, LINKED, linked.in, late, 4)->flags = IOSQE_IO_LINK;
	entry(&ring, IORING_OP_LINK_TIMEOUT, LINK_TIMEOUT, -1, moment(3600000), 1)->flags = IOSQE_IO_LINK;
	entry(&ring, IORING_OP_WRITE, BEHIND, linked.out, "next", 4);
	CHECK(uring_submit(&ring, 0) == 3);
}

static void submit_files(void)
{
	entry(&ring, IORING_OP_POLL_ADD, POLL, polled.in, NULL, 0)->poll32_events = POLLIN;
	entry(&ring, IORING_OP_POLL_ADD, MULTI, multi.in, NULL, IORING_POLL_ADD_MULTI)->poll32_events = POLLIN;
	entry(&ring, IORING_OP_READ, READ, readable.in, text, sizeof text)->off = -1;
	entry(&ring, IORING_OP_RECV, RECV, talk[0], received, sizeof received);
	entry(&ring, IORING_OP_ACCEPT, ACCEPT, listener, NULL, 0)->accept_flags = SOCK_CLOEXEC;
	entry(&ring, IORING_OP_WRITE, WRITE, full.out, big, PIPE_SIZE);
	entry(&ring, IORING_OP_READ, FIXED, 1, late + 8, 4)->flags = IOSQE_FIXED_FILE;
	entry(&ring, IORING_OP_NOP, SKIPPED, -1, NULL, 0)->flags = IOSQE_CQE_SKIP_SUCCESS;
	CHECK(uring_submit(&ring, 0) == 8 && uring_ready(&ring) == 0);
}

static void begin(void)
{
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	for (struct pair *all[] = {&polled, &multi, &readable, &vectored, &full, &fixed, &linked}, **p = all; p < all + 7; p++) pair_make(*p);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, talk) == 0 && socketpair(AF_UNIX, SOCK_DGRAM, 0, message) == 0);
	snprintf(at.sun_path + 1, sizeof at.sun_path - 1, "requests-%d", getpid());
	CHECK((listener = socket(AF_UNIX, SOCK_STREAM, 0)) >= 0 && bind(listener, (struct sockaddr *)&at, sizeof at) == 0 && listen(listener, 5) == 0);
	CHECK(fcntl(full.out, F_SETPIPE_SZ, PIPE_SIZE) == PIPE_SIZE && (big = calloc(1, PIPE_SIZE)) && write(full.out, big, PIPE_SIZE) == PIPE_SIZE);
	memset(big, 'b', PIPE_SIZE);
	int files[2] = {-1, fixed.in};
	CHECK(syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_FILES, files, 2) == 0);
	submit_files();
	submit_vectors();
	submit_times();
}

/* One whose polls have told of many things, so that it has more completions than requests; both sorts of ring. */
static void begin_busy(struct uring *r)
{
	int more;
	char byte;
	entry(r, IORING_OP_POLL_ADD, MULTI, multi.in, NULL, IORING_POLL_ADD_MULTI)->poll32_events = POLLIN;
	CHECK(uring_submit(r, 0) == 1);
	for (int i = 0; i < 50; i++) {
		CHECK(write(multi.out, "m", 1) == 1 && take(r, MULTI, &more) == POLLIN && more);
		CHECK(r == &busy || (take(&busy, MULTI, &more) == POLLIN && more));
		CHECK(take(&ring, MULTI, &more) == POLLIN && more && read(multi.in, &byte, 1) == 1);
	}
}

static void check_files(void)
{
	int more, fd;
	CHECK(write(polled.out, "p", 1) == 1 && take(&ring, POLL, &more) == POLLIN && !more);
	CHECK(write(readable.out, "readable", 8) == 8 && take(&ring, READ, NULL) == 8 && memcmp(text, "readable", 8) == 0);
	CHECK(take(&ring, COUNTED, NULL) == 0);
	CHECK(write(vectored.out, "vectored", 8) == 8 && take(&ring, READV, NULL) == 8 && memcmp(parts[0], "vect", 4) == 0 && memcmp(parts[1], "ored", 4) == 0);
	CHECK(write(talk[1], "talk", 4) == 4 && take(&ring, RECV, NULL) == 4 && memcmp(received, "talk", 4) == 0);
	CHECK(write(message[1], "message", 7) == 7 && take(&ring, RECVMSG, NULL) == 7 && memcmp(said, "message", 7) == 0 && header.msg_namelen == 0);
	CHECK(write(fixed.out, "fixd", 4) == 4 && take(&ring, FIXED, NULL) == 4 && memcmp(late + 8, "fixd", 4) == 0);
	CHECK(read(full.in, out, PIPE_SIZE) == PIPE_SIZE && out[7] == 0 && take(&ring, WRITE, NULL) == PIPE_SIZE);
	CHECK(read(full.in, out, PIPE_SIZE) == PIPE_SIZE && memcmp(out, big, PIPE_SIZE) == 0);
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	snprintf(at.sun_path + 1, sizeof at.sun_path - 1, "requests-%d", getpid());
	CHECK((fd = socket(AF_UNIX, SOCK_STREAM, 0)) >= 0 && connect(fd, (struct sockaddr *)&at, sizeof at) == 0);
	int accepted = take(&ring, ACCEPT, &more);
	CHECK(accepted >= 0 && !more && fcntl(accepted, F_GETFD) == FD_CLOEXEC && write(fd, "a", 1) == 1 && read(accepted, text, 1) == 1);
}

static void check_times(void)
{
	CHECK(take(&ring, SHORT, NULL) == -ETIME);
	long long took = now_ms() - begun;
	CHECK(took >= 1490);
	CHECK(write(linked.out, "late", 4) == 4 && take(&ring, LINKED, NULL) == 4 && memcmp(late, "late", 4) == 0);
	CHECK(take(&ring, LINK_TIMEOUT, NULL) == -ECANCELED);
}

static void check_busy(struct uring *r, struct uring *other)
{
	int more;
	char byte;
	CHECK(write(multi.out, "m", 1) == 1 && take(r, MULTI, &more) == POLLIN && more);
	if (other) CHECK(take(other, MULTI, &more) == POLLIN && more);
	CHECK(read(multi.in, &byte, 1) == 1);
	uring_nops(r, 100, 7);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	if (uring_make(&ring, 32, 0, 0) != 0 || uring_make(&busy, 4, 0, 0) != 0 ||
	    uring_make(&deferred, 8, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, 0) != 0) {
		live_say("skip: no io_uring that completes when it is asked (Linux 6.1)");
		return 0;
	}
	begin();
	begin_busy(&busy);
	begin_busy(&deferred);
	entry(&deferred, IORING_OP_RECV, RECV, message[0], received + 8, 8);
	CHECK(uring_submit(&deferred, 0) == 1);
	unsigned tail = *uring_at(&busy, busy.p.cq_off.tail), other = *uring_at(&deferred, deferred.p.cq_off.tail);
	CHECK(tail == 100 && other == 50);
	wait_go();
	CHECK(*uring_at(&busy, busy.p.cq_off.tail) == tail && *uring_at(&deferred, deferred.p.cq_off.tail) == other);
	/* Only that which is soon over may be. */
	CHECK(uring_ready(&busy) == 0 && uring_ready(&deferred) == 0 && (uring_ready(&ring) == 0 || now_ms() - begun >= 1490));
	check_busy(&busy, &deferred);
	take(&ring, MULTI, NULL);
	check_files();
	CHECK(write(message[1], "again", 5) == 5 && take(&deferred, RECV, NULL) == 5 && memcmp(received + 8, "again", 5) == 0);
	check_times();
	uring_nops(&deferred, 20, 3);
	/* The hour is still to come. */
	entry(&ring, IORING_OP_TIMEOUT_REMOVE, 1, -1, (void *)LONG, 0);
	CHECK(uring_submit(&ring, 0) == 1 && take(&ring, 1, NULL) == 0 && take(&ring, LONG, NULL) == -ECANCELED);
	return finish();
}
