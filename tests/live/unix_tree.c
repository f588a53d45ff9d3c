/* Unix sockets between a parent and its children; one description is shared by two children. End of file comes when the
 * last of them closes. */
#include "tree.h"
#include "unix.h"

static int pair[2], many[2];

static int child(void *argument)
{
	CHECK(close(pair[0]) == 0 && close(many[0]) == 0);
	if (argument) {
		CHECK(close(pair[1]) == 0);
		say(many[1], "from the second;");
		tree_park();
		say(many[1], "2");
		return 2;
	}
	say(pair[1], "hello parent");
	say(many[1], "from the first;");
	tree_park();
	expect(pair[1], "hello child");
	expect_nothing(pair[1]);
	say(pair[1], "and more");
	say(many[1], "1");
	return 1;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, many) == 0);
	pid_t first = tree_start(child, NULL), second = tree_start(child, "");
	CHECK(close(pair[1]) == 0 && close(many[1]) == 0);
	say(pair[0], "hello child");
	wait_go();
	expect(pair[0], "hello parent");
	expect_nothing(pair[0]);
	CHECK(tree_finish(first) == 1);
	expect(pair[0], "and more");
	expect_end(pair[0]);
	expect(many[0], "from the first;from the second;1");
	expect_nothing(many[0]);
	CHECK(tree_finish(second) == 2);
	expect(many[0], "2");
	expect_end(many[0]);
	return finish();
}
