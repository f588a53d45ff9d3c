/* Areas split by mprotect, munmap and mremap: /proc/self/maps is the same. */
#include "data.h"
#include "proc.h"

enum { PAGE = 4096, MOST = 200 };
struct area { unsigned long start, end, offset, inode; char access[8], device[16], name[256]; };
static struct area before[MOST + 1], after[MOST + 1];

static char *map(int pages, int protection, int flags, int fd, off_t offset)
{
	char *at = mmap(NULL, pages * PAGE, protection, flags, fd, offset);
	CHECK(at != MAP_FAILED);
	return at;
}

static void make(void)
{
	int rw = PROT_READ | PROT_WRITE, fd = data_file("data", 40 * PAGE, 1);
	char *anonymous = map(100, rw, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *file = map(40, rw, MAP_PRIVATE, fd, 0);
	char *shared = map(40, rw, MAP_SHARED | MAP_ANONYMOUS, -1, 0), *mapped = map(40, rw, MAP_SHARED, fd, 0);
	for (int i = 0; i < 100; i += 3) memset(anonymous + i * PAGE, i, PAGE);
	for (int i = 0; i < 40; i += 5) memset(file + i * PAGE, i, PAGE);
	memset(shared, 7, 20 * PAGE);
	CHECK(mprotect(anonymous + 10 * PAGE, 10 * PAGE, PROT_READ) == 0 && munmap(anonymous + 30 * PAGE, 5 * PAGE) == 0);
	CHECK(mprotect(anonymous + 50 * PAGE, 1 * PAGE, PROT_NONE) == 0);
	CHECK(mprotect(anonymous + 60 * PAGE, 9 * PAGE, rw | PROT_EXEC) == 0);
	CHECK(mprotect(anonymous + 62 * PAGE, 2 * PAGE, rw) == 0);
	CHECK(mremap(anonymous + 70 * PAGE, 10 * PAGE, 20 * PAGE, MREMAP_MAYMOVE) != MAP_FAILED);
	CHECK(mprotect(file + 7 * PAGE, 3 * PAGE, PROT_READ) == 0 && munmap(file + 20 * PAGE, PAGE) == 0);
	CHECK(mprotect(shared + 5 * PAGE, PAGE, PROT_READ) == 0 && mprotect(mapped + 9 * PAGE, 2 * PAGE, PROT_NONE) == 0);
	CHECK(munmap(shared + 30 * PAGE, PAGE) == 0);
}

static int continues(const struct area *one, const struct area *next)
{
	return one->end == next->start && !strcmp(one->access, next->access) && !strcmp(one->device, next->device) &&
		!strcmp(one->name, next->name) && one->inode == next->inode &&
		(!one->inode || one->offset + (one->end - one->start) == next->offset);
}

/* Neighbours that differ in nothing are joined: the kernel does so, or not, by how they came about. */
static int snapshot(struct area *areas)
{
	static char text[PROC_TEXT];
	ssize_t n = slurp("/proc/self/maps", text, PROC_TEXT - 1);
	CHECK(n > 0 && n < PROC_TEXT - 1);
	text[n] = 0;
	int count = 0;
	char *rest;
	for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		struct area *area = &areas[count];
		memset(area, 0, sizeof *area);
		CHECK(count < MOST && sscanf(line, "%lx-%lx %7s %lx %15s %lu %255[^\n]", &area->start, &area->end, area->access,
			&area->offset, area->device, &area->inode, area->name) >= 6);
		/* Shared anonymous memory has a new inode after. */
		if (strstr(area->name, "/dev/zero (deleted)")) area->inode = 1;
		if (count && continues(area - 1, area)) area[-1].end = area->end;
		else count++;
	}
	memset(&areas[count], 0, sizeof *areas);
	return count;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	make();
	snapshot(after); /* so that the buffers have been touched and the stack is as deep as it gets */
	int count = snapshot(before);
	wait_go();
	snapshot(after);
	for (int i = 0; i <= count; i++)
		if (memcmp(&before[i], &after[i], sizeof *after)) {
			const struct area *one = &before[i], *other = &after[i];
			live_say("not ok: in place of %lx-%lx %s %lx %lu %s there is %lx-%lx %s %lx %lu %s", one->start, one->end,
				one->access, one->offset, one->inode, one->name, other->start, other->end, other->access, other->offset,
				other->inode, other->name);
			return 1;
		}
	return finish();
}
