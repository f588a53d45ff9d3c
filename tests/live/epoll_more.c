/* epoll: three instances in each other; a target that only the child has open by now, one under a number far above all that are in use;
 * exclusive, wake-up and edge-triggered entries; one that was disarmed; how it polls. */
#include "tree.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>

struct params { unsigned usecs; unsigned short budget; unsigned char prefer, pad; };
#define GET_PARAMS _IOR(0x8a, 0x02, struct params)
#define SET_PARAMS _IOW(0x8a, 0x01, struct params)
enum { FAR = 3000 };
static int outer, middle, inner, bottom[2], childs[2], far_away[2], exclusive, wakeup, spent[2], edge;
static int child_level, child_once;

static void add(int to, int fd, unsigned events, unsigned data)
{
	struct epoll_event event = {.events = events, .data.u64 = data | 0xabcd00000000ULL};
	CHECK(epoll_ctl(to, EPOLL_CTL_ADD, fd, &event) == 0);
}

/* The data of all that is ready, as bits. */
static unsigned ready_in(int epoll)
{
	struct epoll_event events[16];
	unsigned found = 0;
	int n;
	while ((n = epoll_wait(epoll, events, 16, 0)) < 0) CHECK(errno == EINTR);
	for (int i = 0; i < n; i++) {
		CHECK(events[i].data.u64 >> 32 == 0xabcd);
		found |= 1u << (unsigned)events[i].data.u64;
	}
	return found;
}

static void entries_of(int epoll, char *text, size_t size)
{
	char path[64], all[4096] = "";
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", epoll);
	CHECK(slurp(path, all, sizeof all - 1) > 0);
	*text = 0;
	for (char *line = strtok(all, "\n"); line; line = strtok(NULL, "\n")) {
		char *end = strstr(line, " pos:");
		if (strncmp(line, "tfd:", 4) || !end) continue;
		*end = 0;
		strncat(text, line, size - strlen(text) - 2);
		strcat(text, "\n");
	}
}

static int child(void *argument)
{
	char got;
	tree_park();
	CHECK(write(child_level, "x", 1) == 1);
	CHECK(write(child_once, "x", 1) == 1);
	tree_there();
	live_go = 0;
	wait_signal();
	CHECK(read(childs[0], &got, 1) == 1);
	return 7;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	static char before[4096], after[4096];
	char got;
	struct rlimit limit;
	int once[2];
	CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0 && (limit.rlim_cur = limit.rlim_max) > FAR && setrlimit(RLIMIT_NOFILE, &limit) == 0);
	CHECK((outer = epoll_create1(EPOLL_CLOEXEC)) >= 0 && (middle = epoll_create1(0)) >= 0 && (inner = epoll_create1(0)) >= 0);
	CHECK(pipe(bottom) == 0 && pipe(childs) == 0 && pipe(far_away) == 0 && pipe(once) == 0);
	CHECK((exclusive = eventfd(0, EFD_NONBLOCK)) >= 0 && (wakeup = eventfd(0, EFD_NONBLOCK)) >= 0 && (edge = eventfd(0, EFD_NONBLOCK)) >= 0);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, spent) == 0);
	child_level = childs[1];
	child_once = once[1];
	pid_t pid = tree_start(child, NULL);
	add(outer, middle, EPOLLIN, 1);
	add(middle, inner, EPOLLIN, 2);
	add(inner, bottom[0], EPOLLIN, 3);
	add(outer, childs[0], EPOLLIN, 4);
	add(outer, once[0], EPOLLIN | EPOLLONESHOT, 5);
	add(outer, exclusive, EPOLLIN | EPOLLEXCLUSIVE, 6);
	add(outer, wakeup, EPOLLIN | EPOLLWAKEUP, 7);
	add(outer, edge, EPOLLIN | EPOLLET, 8);
	add(outer, spent[0], EPOLLIN | EPOLLOUT | EPOLLONESHOT, 9);
	CHECK(dup2(far_away[0], FAR) == FAR);
	add(outer, FAR, EPOLLIN, 10);
	CHECK(close(FAR) == 0 && close(childs[0]) == 0 && close(childs[1]) == 0 && close(once[0]) == 0 && close(once[1]) == 0);
	CHECK(ready_in(outer) == 1u << 9);
	struct params params = {.usecs = 77, .budget = 5, .prefer = 1}, now = {0};
	int has_params = ioctl(outer, SET_PARAMS, &params) == 0;
	entries_of(outer, before, sizeof before);
	wait_go();
	entries_of(outer, after, sizeof after);
	CHECK(strlen(before) == strlen(after));
	for (char *line = strtok(before, "\n"); line; line = strtok(NULL, "\n")) {
		if (strstr(after, line)) continue;
		live_say("not ok: no entry %s", line);
		return 1;
	}
	CHECK(!has_params || (ioctl(outer, GET_PARAMS, &now) == 0 && now.usecs == 77 && now.budget == 5 && now.prefer == 1));
	CHECK(ready_in(outer) == 0);
	CHECK(kill(pid, SIGUSR1) == 0);
	tree_await();
	CHECK(ready_in(outer) == (1u << 4 | 1u << 5) && ready_in(outer) == 1u << 4);
	CHECK(tree_finish(pid) == 7 && ready_in(outer) == 0); /* nobody has it open any more */
	CHECK(write(bottom[1], "x", 1) == 1 && ready_in(outer) == 1u << 1 && ready_in(middle) == 1u << 2 && ready_in(inner) == 1u << 3);
	CHECK(read(bottom[0], &got, 1) == 1 && ready_in(outer) == 0);
	CHECK(eventfd_write(exclusive, 1) == 0 && eventfd_write(wakeup, 1) == 0 && eventfd_write(edge, 1) == 0);
	CHECK(ready_in(outer) == (1u << 6 | 1u << 7 | 1u << 8) && ready_in(outer) == (1u << 6 | 1u << 7));
	eventfd_t value;
	CHECK(eventfd_read(exclusive, &value) == 0 && eventfd_read(wakeup, &value) == 0);
	CHECK(write(spent[1], "x", 1) == 1 && ready_in(outer) == 0);
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0xabcd00000009ULL};
	CHECK(epoll_ctl(outer, EPOLL_CTL_MOD, spent[0], &event) == 0 && ready_in(outer) == 1u << 9 && read(spent[0], &got, 1) == 1);
	CHECK(write(far_away[1], "x", 1) == 1 && ready_in(outer) == 1u << 10 && read(far_away[0], &got, 1) == 1 && ready_in(outer) == 0);
	CHECK(fcntl(FAR, F_GETFD) == -1 && errno == EBADF);
	return finish();
}
