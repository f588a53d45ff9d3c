/* See kernel_pages.h. */
#include "engine/kernel_pages.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/uio.h>

#define GIB (1UL << 30)	      /* what the kernel places its memory by */
#define MEMORY_MAX 8192UL     /* GiB */
#define PRESENT (1ULL << 63)
#define FRAME ((1ULL << 55) - 1)

static int frame_of(const void *page, uint64_t *ret)
{
	uint64_t entry = 0;
	_cleanup_close_ int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || pread(fd, &entry, sizeof(entry), (off_t)((uintptr_t)page / PAGE_SIZE * sizeof(entry))) != sizeof(entry))
		return -errno;
	*ret = entry & FRAME;
	return entry & PRESENT && *ret ? 0 : -EPERM;
}

/* Where the kernel describes the first two pages in a pipe; *ret_near: some address in its memory. */
static int look_into_pipe(struct kernel *k, int fd, uint64_t page[2], uint64_t *ret_near)
{
	const int private = kernel_offset(k, "file", "private_data"), bufs = kernel_offset(k, "pipe_inode_info", "bufs");
	const int at = kernel_offset(k, "pipe_buffer", "page"), step = kernel_offset(k, "pipe_buffer", "private");
	uint64_t where;
	int r = private < 0 || bufs < 0 || at < 0 || step < 0 ? -ENOTSUP : kernel_file(k, fd, &where);

	if (!r)
		r = kernel_read(k, where + (uint64_t)private, &where, sizeof(where));
	*ret_near = r ? 0 : where;
	if (!r)
		r = kernel_read(k, where + (uint64_t)bufs, &where, sizeof(where));
	for (uint64_t i = 0; !r && i < 2; i++) /* `private` is the last member */
		r = kernel_read(k, where + i * ((uint64_t)step + 8) + (uint64_t)at, &page[i], sizeof(page[i]));
	return r;
}

static int find_memory(struct kernel *k, uint64_t near, uint64_t frame, const void *content, struct kernel_pages *ret)
{
	char is[64];

	for (uint64_t n = 0; n < MEMORY_MAX; n++) {
		uint64_t base = (near & ~(GIB - 1)) - n * GIB;
		if (kernel_read(k, base + frame * PAGE_SIZE, is, sizeof(is)) == 0 && !memcmp(is, content, sizeof(is))) {
			ret->memory = base;
			return 0;
		}
	}
	return -ENOTSUP;
}

/* `memory`: of the direct map, too. */
static int find(struct kernel *k, char *pages, const int fd[2], bool memory, struct kernel_pages *ret)
{
	struct iovec v = { pages, 2 * PAGE_SIZE };
	uint64_t frame[2], page[2], near;

	if (getrandom(pages, 64, 0) != 64 || getrandom(pages + PAGE_SIZE, 64, 0) != 64 || vmsplice(fd[1], &v, 1, 0) != (ssize_t)v.iov_len)
		return -EIO;
	int r = frame_of(pages, &frame[0]);
	if (!r)
		r = frame_of(pages + PAGE_SIZE, &frame[1]);
	if (!r)
		r = look_into_pipe(k, fd[0], page, &near);
	if (r)
		return r;
	ret->descriptions = page[0] - frame[0] * KERNEL_PAGE_DESCRIPTION;
	if (ret->descriptions + frame[1] * KERNEL_PAGE_DESCRIPTION != page[1])
		return -ENOTSUP;
	return memory ? find_memory(k, near, frame[0], pages, ret) : 0;
}

static int find_by_pipe(struct kernel *k, bool memory, struct kernel_pages *ret)
{
	int fd[2];
	char *pages = mmap(NULL, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (pages == MAP_FAILED || pipe2(fd, O_CLOEXEC | O_NONBLOCK) < 0) {
		int error = errno;
		if (pages != MAP_FAILED)
			munmap(pages, 2 * PAGE_SIZE);
		return -error;
	}
	int r = find(k, pages, fd, memory, ret);
	close(fd[0]);
	close(fd[1]);
	munmap(pages, 2 * PAGE_SIZE);
	return r;
}

int kernel_pages_find(struct kernel *k, struct kernel_pages *ret)
{
	return find_by_pipe(k, true, ret);
}

int kernel_pages_find_descriptions(struct kernel *k, uint64_t *ret)
{
	struct kernel_pages found = {};
	int r = kernel_struct_size(k, "page") == (int)KERNEL_PAGE_DESCRIPTION ? find_by_pipe(k, false, &found) : -ENOTSUP;

	*ret = found.descriptions;
	return r;
}

int kernel_pages_read(struct kernel *k, const struct kernel_pages *p, uint64_t page, uint64_t offset, void *to, size_t size)
{
	if (page < p->descriptions || (page - p->descriptions) % KERNEL_PAGE_DESCRIPTION)
		return -EBADMSG;
	uint64_t at = p->memory + (page - p->descriptions) / KERNEL_PAGE_DESCRIPTION * PAGE_SIZE + offset;
	for (size_t done = 0, n; done < size; done += n) {
		n = MIN(size - done, (size_t)PAGE_SIZE);
		int r = kernel_read(k, at + done, (char *)to + done, n);
		if (r)
			return r;
	}
	return 0;
}
