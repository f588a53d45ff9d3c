/* Children in several sessions and process groups, also a group whose leader has gone. */
#include "tree.h"

static int parked(void *argument)
{
	if (argument) CHECK(setpgid(0, *(pid_t *)argument) == 0);
	tree_park();
	return 21;
}

static int own_session(void *argument)
{
	CHECK(setsid() == getpid());
	tree_park();
	return 22;
}

/* Leads a session with two groups; a child of its leads another session. */
static int branch(void *argument)
{
	pid_t none = 0, first, second, third;
	CHECK(setsid() == getpid());
	first = tree_start(parked, &none);
	second = tree_start(parked, &first);
	third = tree_start(own_session, NULL);
	CHECK(getpgid(first) == first && getpgid(second) == first && getsid(third) == third);
	tree_park();
	CHECK(getpgid(first) == first && getsid(first) == getpid());
	CHECK(getpgid(second) == first && getsid(second) == getpid());
	CHECK(getpgid(third) == third && getsid(third) == third);
	CHECK(tree_finish(second) == 21 && tree_finish(first) == 21 && tree_finish(third) == 22);
	return 23;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	pid_t none = 0, leader, member, other, joined, left;
	CHECK(getsid(0) == getpid());
	other = tree_start(branch, NULL);
	leader = tree_start(parked, &none);
	member = tree_start(parked, &leader);
	joined = tree_start(parked, NULL);
	CHECK(setpgid(joined, 0) == 0 && setpgid(joined, getpgrp()) == 0);
	left = tree_start(parked, &none);
	CHECK(tree_finish(leader) == 21);
	wait_go();
	CHECK(getsid(0) == getpid() && getpgrp() == getpid());
	CHECK(getpgid(member) == leader && getsid(member) == getpid());
	CHECK(getpgid(joined) == getpid() && getpgid(left) == left && getsid(left) == getpid());
	CHECK(getpgid(other) == other && getsid(other) == other);
	CHECK(kill(-leader, 0) == 0 && kill(leader, 0) == -1 && errno == ESRCH);
	CHECK(tree_finish(other) == 23);
	CHECK(tree_finish(member) == 21 && tree_finish(joined) == 21 && tree_finish(left) == 21);
	CHECK(kill(-leader, 0) == -1 && errno == ESRCH);
	CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
	return finish();
}
