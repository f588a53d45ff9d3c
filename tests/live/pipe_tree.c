/* Pipes between a parent, two children and a grandchild, with data on the way; end of file comes with the last
 * writer's end. */
#include "tree.h"

static int down[2], up[2];

static int grandchild(void *argument)
{
	close(down[0]);
	close(down[1]);
	CHECK(write(up[1], "grandchild;", 11) == 11);
	tree_park();
	CHECK(write(up[1], "G", 1) == 1);
	return 1;
}

static int reader(void *argument)
{
	char got[32];
	close(down[1]);
	close(up[0]);
	pid_t child = tree_start(grandchild, NULL);
	tree_park();
	CHECK(read(down[0], got, 6) == 6 && memcmp(got, "parent", 6) == 0);
	/* The parent writes again and closes. */
	CHECK(read(down[0], got, 6) == 6 && memcmp(got, "again!", 6) == 0);
	CHECK(read(down[0], got, 1) == 0);
	CHECK(tree_finish(child) == 1 && write(up[1], "R", 1) == 1);
	return 2;
}

static int writer(void *argument)
{
	close(down[0]);
	close(down[1]);
	close(up[0]);
	CHECK(write(up[1], "writer;", 7) == 7);
	tree_park();
	CHECK(write(up[1], "W", 1) == 1);
	return 3;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	char got[64] = "";
	CHECK(pipe(down) == 0 && pipe(up) == 0);
	pid_t first = tree_start(reader, NULL), second = tree_start(writer, NULL);
	close(down[0]);
	close(up[1]);
	CHECK(write(down[1], "parent", 6) == 6);
	wait_go();
	CHECK(read(up[0], got, sizeof got) == 18 && memcmp(got, "grandchild;writer;", 18) == 0);
	CHECK(write(down[1], "again!", 6) == 6 && close(down[1]) == 0);
	CHECK(tree_finish(first) == 2);
	CHECK(read(up[0], got, sizeof got) == 2 && memcmp(got, "GR", 2) == 0);
	CHECK(tree_finish(second) == 3);
	CHECK(read(up[0], got, sizeof got) == 1 && got[0] == 'W');
	CHECK(read(up[0], got, sizeof got) == 0);
	return finish();
}
