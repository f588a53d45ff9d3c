/* Pages that a parent, a child and a grandchild still share after fork: the same page frames afterwards, and apart once
 * one of them writes. */
#include "data.h"
#include "proc.h"
#include "tree.h"

enum { PAGE = 4096, PAGES = 64, CHILDS = 8, PARENTS = 8, SHARED = CHILDS + PARENTS };
static char *memory;
static pid_t nested;

static int grandchild(void *argument)
{
	tree_park();
	for (int i = 0; i < PAGES; i++) CHECK(i < SHARED || data_holds(memory + i * PAGE, PAGE, i));
	return 1;
}

static int child(void *argument)
{
	for (int i = 0; i < CHILDS; i++) data_fill(memory + i * PAGE, PAGE, i + 100);
	nested = tree_start(grandchild, NULL);
	tree_park();
	for (int i = 0; i < PAGES; i++) CHECK(data_holds(memory + i * PAGE, PAGE, i < CHILDS ? i + 100 : i));
	for (int i = SHARED + 1; i < PAGES; i += 5) {
		uint64_t own = page_frame(pagemap_entry(getpid(), memory + i * PAGE));
		CHECK(own && own == page_frame(pagemap_entry(nested, memory + i * PAGE)));
	}
	memory[(PAGES - 1) * PAGE] ^= 1;
	CHECK(tree_finish(nested) == 1);
	return 2;
}

static void check_shared(pid_t pid)
{
	for (int i = 0; i < PAGES; i++) {
		uint64_t own = page_frame(pagemap_entry(getpid(), memory + i * PAGE));
		uint64_t others = page_frame(pagemap_entry(pid, memory + i * PAGE));
		CHECK(own && others);
		if ((own == others) != (i >= SHARED)) {
			live_say("not ok: page %d is %sshared with the child", i, i >= SHARED ? "not " : "");
			_exit(1);
		}
	}
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED && (madvise(memory, PAGES * PAGE, MADV_NOHUGEPAGE) == 0 || errno == EINVAL));
	for (int i = 0; i < PAGES; i++) data_fill(memory + i * PAGE, PAGE, i);
	if (!page_frame(pagemap_entry(getpid(), memory))) {
		live_say("skip: page frame numbers are not shown");
		return 0;
	}
	pid_t pid = tree_start(child, NULL);
	for (int i = CHILDS; i < SHARED; i++) data_fill(memory + i * PAGE, PAGE, i + 200);
	check_shared(pid);
	wait_go();
	check_shared(pid);
	for (int i = 0; i < PAGES; i++)
		CHECK(data_holds(memory + i * PAGE, PAGE, i >= CHILDS && i < SHARED ? i + 200 : i));
	for (int i = SHARED; i < PAGES; i += 5) memory[i * PAGE] ^= 1;
	/* The child and the grandchild look at theirs now. */
	CHECK(tree_finish(pid) == 2);
	CHECK(data_holds(memory + (PAGES - 1) * PAGE, PAGE, PAGES - 1));
	return finish();
}
