/* Probes of what reads, writes and watches memory. */
#include "engine/memory/scan.h"
#include "engine/memory/vma.h"
#include "engine/probe/probe.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif
#define WORD_PRESENT (1ULL << 63)
#define WORD_FRAME ((1ULL << 55) - 1)

static void *map_page(void)
{
	char *page = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (page == MAP_FAILED)
		return NULL;
	page[0] = 1;
	return page;
}

int probe_map_files(struct probe_ground *g)
{
	struct proc_maps maps = {};
	char path[96];
	int r = proc_read_maps(getpid(), &maps), fd = -1;

	for (size_t i = 0; !r && fd < 0 && i < maps.count; i++) {
		const struct proc_vma *v = &maps.data[i];
		if (!v->inode)
			continue;
		snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)v->start, (unsigned long)v->end);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		r = fd < 0 ? -errno : 0;
	}
	if (fd >= 0)
		close(fd);
	proc_maps_finish(&maps);
	return r;
}

static int read_word(const void *page, uint64_t *ret)
{
	_cleanup_close_ int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	return fd < 0 || pread(fd, ret, 8, (off_t)((uintptr_t)page / PAGE_SIZE * 8)) < 0 ? -errno : 0;
}

int probe_pagemap(struct probe_ground *g)
{
	void *page = map_page();
	uint64_t word = 0;
	int r = page ? read_word(page, &word) : -ENOMEM;

	if (!r && !(word & WORD_PRESENT))
		r = -ENOTSUP;
	if (!r && !(word & WORD_FRAME))
		r = error_set(g->e, -EPERM, "the numbers of page frames are hidden");
	if (page)
		munmap(page, PAGE_SIZE);
	return r;
}

int probe_pagemap_scan(struct probe_ground *g)
{
	_cleanup_close_ int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	void *page = map_page();

	if (fd < 0 || !page)
		return fd < 0 ? -errno : -ENOMEM;
	int r = scan_fast_works(fd, (uintptr_t)page, (uintptr_t)page + PAGE_SIZE);
	munmap(page, PAGE_SIZE);
	return r;
}

static uint64_t shown = 1;

static int copy(pid_t pid, bool in)
{
	uint64_t word = 2;
	struct iovec ours = { &word, sizeof(word) }, theirs = { &shown, sizeof(shown) };
	ssize_t n = in ? process_vm_writev(pid, &ours, 1, &theirs, 1, 0) : process_vm_readv(pid, &ours, 1, &theirs, 1, 0);

	return n < 0 ? -errno : n == sizeof(word) ? 0 : -EIO;
}

static int copy_out(pid_t pid)
{
	return copy(pid, false);
}

static int copy_in(pid_t pid)
{
	return copy(pid, true);
}

int probe_vm_read(struct probe_ground *g)
{
	return probe_on_tracee(copy_out);
}

int probe_vm_write(struct probe_ground *g)
{
	return probe_on_tracee(copy_in);
}

int probe_memfd(struct probe_ground *g)
{
	_cleanup_close_ int fd = memfd_create("probe", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	return fd < 0 ? -errno : 0;
}

int probe_vdso(struct probe_ground *g)
{
	struct proc_maps maps = {};
	_cleanup_close_ int fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
	int r = fd < 0 ? -errno : proc_read_maps(getpid(), &maps);

	if (!r && !maps_find_slack(&maps, fd))
		r = error_set(g->e, -ENOTSUP, "there is no vdso with room behind it");
	proc_maps_finish(&maps);
	return r;
}

int probe_anon_name(struct probe_ground *g)
{
	void *page = map_page();
	int r = !page ? -ENOMEM : prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, page, PAGE_SIZE, "probe") < 0 ? -errno : 0;

	if (page)
		munmap(page, PAGE_SIZE);
	return r;
}

static int ask_uffd(uint64_t features)
{
	_cleanup_close_ int fd = (int)syscall(__NR_userfaultfd, O_CLOEXEC);
	struct uffdio_api api = { .api = UFFD_API, .features = features };

	return fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0 ? -errno : 0;
}

int probe_uffd(struct probe_ground *g)
{
	return ask_uffd(0);
}

int probe_uffd_events(struct probe_ground *g)
{
	return ask_uffd(UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_EVENT_REMOVE);
}

int probe_uffd_wp_async(struct probe_ground *g)
{
	return ask_uffd(UFFD_FEATURE_WP_ASYNC);
}
