/* An epoll instance shared by a parent and its child, with a target that only the parent holds by now. */
#include "tree.h"
#include <sys/epoll.h>

static int epoll, shared[2], parents[2];

static int wait_one(void)
{
	struct epoll_event event;
	int n;
	while ((n = epoll_wait(epoll, &event, 1, 0)) < 0) CHECK(errno == EINTR);
	return n ? (int)event.data.u32 : 0;
}

static int child(void *argument)
{
	CHECK(close(parents[0]) == 0 && close(parents[1]) == 0);
	tree_park();
	CHECK(wait_one() == 2); /* readable in the parent */
	CHECK(write(shared[1], "x", 1) == 1);
	struct epoll_event event = {.events = 0, .data.u32 = 1};
	CHECK(epoll_ctl(epoll, EPOLL_CTL_MOD, shared[0], &event) == 0);
	return 3;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	char got;
	struct epoll_event event = {.events = EPOLLIN, .data.u32 = 1};
	CHECK((epoll = epoll_create1(0)) >= 0 && pipe(shared) == 0 && pipe(parents) == 0);
	CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, shared[0], &event) == 0);
	event.data.u32 = 2;
	CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, parents[0], &event) == 0);
	pid_t pid = tree_start(child, NULL);
	wait_go();
	CHECK(wait_one() == 0 && write(parents[1], "p", 1) == 1 && wait_one() == 2);
	CHECK(tree_finish(pid) == 3);
	CHECK(read(parents[0], &got, 1) == 1 && wait_one() == 0); /* the child has changed the target for both */
	event.data.u32 = 1;
	CHECK(epoll_ctl(epoll, EPOLL_CTL_MOD, shared[0], &event) == 0 && wait_one() == 1);
	return finish();
}
