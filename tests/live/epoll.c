/* An epoll instance with targets of several kinds: level, edge and one-shot, a disarmed one-shot, a nested instance, a
 * target that was added under a number since closed. */
#include "live.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

enum { LEVEL = 1, EDGE, ONCE, SPENT, NESTED, DUPED, SOCKET, WRITABLE, DISARMED };
#define DATA(kind) (0x1234567800000000ULL | (kind))
static int outer, inner, pipes[DUPED + 1][2], pair[2], counter, hung_up[2];

static void add(int to, int fd, unsigned events, int kind)
{
	struct epoll_event event = {.events = events, .data.u64 = DATA(kind)};
	CHECK(epoll_ctl(to, EPOLL_CTL_ADD, fd, &event) == 0);
}

/* The kinds that are ready now, as bits; each event's mask is that of its kind. */
static int ready_kinds(int epoll)
{
	struct epoll_event events[16];
	int kinds = 0, n;
	while ((n = epoll_wait(epoll, events, 16, 0)) < 0) CHECK(errno == EINTR);
	for (int i = 0; i < n; i++) {
		int kind = (int)events[i].data.u64;
		CHECK(events[i].data.u64 == DATA(kind) && kind >= LEVEL && kind <= WRITABLE && !(kinds & 1 << kind));
		CHECK(events[i].events == (kind == WRITABLE ? EPOLLOUT : EPOLLIN));
		kinds |= 1 << kind;
	}
	return kinds;
}

static void make(void)
{
	CHECK((outer = epoll_create1(EPOLL_CLOEXEC)) >= 0 && (inner = epoll_create1(0)) >= 0);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && (counter = eventfd(0, 0)) >= 0);
	for (int i = LEVEL; i <= DUPED; i++) CHECK(pipe(pipes[i]) == 0);
	add(outer, pipes[LEVEL][0], EPOLLIN, LEVEL);
	add(outer, pipes[EDGE][0], EPOLLIN | EPOLLET, EDGE);
	add(outer, pipes[ONCE][0], EPOLLIN | EPOLLONESHOT, ONCE);
	add(outer, pipes[SPENT][0], EPOLLIN | EPOLLONESHOT, SPENT);
	add(outer, inner, EPOLLIN, NESTED);
	add(inner, pipes[NESTED][0], EPOLLIN, NESTED);
	add(outer, pipes[DUPED][0], EPOLLIN, DUPED);
	add(outer, pair[0], EPOLLIN | EPOLLRDHUP, SOCKET);
	CHECK(dup2(pipes[DUPED][0], 200) == 200 && close(pipes[DUPED][0]) == 0);
	CHECK(write(pipes[SPENT][1], "s", 1) == 1 && ready_kinds(outer) == 1 << SPENT && ready_kinds(outer) == 0);
	CHECK(write(pipes[LEVEL][1], "l", 1) == 1);
	/* One that has told of its event tells of no hang-up either. */
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, hung_up) == 0);
	add(outer, hung_up[0], EPOLLOUT | EPOLLONESHOT, DISARMED);
	struct epoll_event event;
	for (;;) {
		CHECK(epoll_wait(outer, &event, 1, 0) == 1);
		if (event.data.u64 == DATA(DISARMED)) break;
	}
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	char got;
	make();
	wait_go();
	CHECK(close(hung_up[1]) == 0);
	CHECK(fcntl(outer, F_GETFD) == FD_CLOEXEC && fcntl(inner, F_GETFD) == 0);
	CHECK(ready_kinds(outer) == 1 << LEVEL && ready_kinds(outer) == 1 << LEVEL);
	CHECK(read(pipes[LEVEL][0], &got, 1) == 1 && ready_kinds(outer) == 0);
	for (int i = EDGE; i <= DUPED; i++) {
		CHECK(write(pipes[i][1], "x", 1) == 1);
		CHECK(ready_kinds(outer) == (i == SPENT ? 0 : 1 << i));
		/* Edge and one-shot were told once; the others are told as long as they can be read. */
		CHECK(ready_kinds(outer) == (i == EDGE || i == ONCE || i == SPENT ? 0 : 1 << i));
		CHECK(i != NESTED || ready_kinds(inner) == 1 << NESTED);
		CHECK(read(i == DUPED ? 200 : pipes[i][0], &got, 1) == 1);
	}
	CHECK(write(pipes[EDGE][1], "x", 1) == 1 && ready_kinds(outer) == 1 << EDGE);
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = DATA(SPENT)};
	CHECK(epoll_ctl(outer, EPOLL_CTL_MOD, pipes[SPENT][0], &event) == 0 && ready_kinds(outer) == 1 << SPENT);
	CHECK(epoll_ctl(outer, EPOLL_CTL_ADD, pipes[LEVEL][0], &event) == -1 && errno == EEXIST);
	CHECK(epoll_ctl(outer, EPOLL_CTL_DEL, pipes[SPENT][0], NULL) == 0 && ready_kinds(outer) == 0);
	CHECK(send(pair[1], "x", 1, 0) == 1 && ready_kinds(outer) == 1 << SOCKET && recv(pair[0], &got, 1, 0) == 1);
	CHECK(epoll_ctl(outer, EPOLL_CTL_DEL, 200, NULL) == -1 && errno == ENOENT);
	/* It was the last number of that pipe's end, so the end and its place in the instance go. */
	CHECK(signal(SIGPIPE, SIG_IGN) != SIG_ERR && close(200) == 0);
	CHECK(write(pipes[DUPED][1], "x", 1) == -1 && errno == EPIPE && ready_kinds(outer) == 0);
	event.data.u64 = DATA(SOCKET);
	CHECK(epoll_ctl(outer, EPOLL_CTL_MOD, hung_up[0], &event) == 0 && epoll_wait(outer, &event, 1, 0) == 1);
	CHECK(event.events == (EPOLLIN | EPOLLHUP) && epoll_ctl(outer, EPOLL_CTL_DEL, hung_up[0], NULL) == 0);
	add(outer, counter, EPOLLOUT, WRITABLE);
	CHECK(ready_kinds(outer) == 1 << WRITABLE);
	return finish();
}
