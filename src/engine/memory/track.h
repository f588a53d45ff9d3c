/*
 * Which pages of a running process have been written: its userfaultfd in asynchronous write-protect mode, and PAGEMAP_SCAN (Linux 6.7).
 *
 * The descriptor is made in the process by one call, taken with pidfd_getfd(2), and closed there again. In this mode nobody is ever asked:
 * the first write to a protected page clears its protection in the kernel. Once the last descriptor is closed nothing of it is left.
 */
#pragma once

#include "base/error.h"
#include "engine/memory/scan.h"
#include "engine/memory/slots.h"
#include "proc/proc.h"

struct dump;
struct task;

/* Whether this kernel can; without it -ENOTSUP. */
int track_possible(void);
/* Asks a stopped process for its userfaultfd. The caller's; a negative errno with the text set. */
int track_open(struct dump *d, struct task *t);
/* The same, for one that asks before a protected page is written, be it by the kernel. The process needs CAP_SYS_PTRACE for that. */
int track_open_asking(struct dump *d, struct task *t);
/* 1: all of [start, end) is watched by this descriptor, now or before. 0: it can't be. -EBUSY: somebody else watches it. -ESRCH: the address
 * space is gone. A range that is a part of an area cuts it in two. */
int track_watch(int uffd, uint64_t start, uint64_t end);
/* Private anonymous memory, of huge pages (hugetlb) too, and private mappings of files that no code is in. */
bool track_can_watch(const struct proc_vma *v);
/* Of a watched area: one of a file, where only pages that were written count as being there; private memory of huge pages. */
bool track_is_file(const struct proc_vma *v);
bool track_is_huge(const struct proc_vma *v);
/* Where a page of either was protected and is emptied, the kernel leaves a mark that no question tells from a page that is swapped out or under way elsewhere.
 * So when the tree stands still an area that may have any is let go. True: it is not watched any more. */
bool track_drop_marked(int uffd, int pagemap_fd, struct proc_vma *v);
/* Whether an area is watched, by whomever: one that was may no longer be, after mremap(2) of it or of its neighbour. Then its pages may still look
 * as if they had not been written. */
bool track_is_watched(int pagemap_fd, uint64_t start, uint64_t end);
/* Who wrote under the lock of the address space when it was called has done so (/proc/PID/mem, ptrace). */
void track_wait_for_lock(int uffd);
/*
 * Ends that. The program waits until it is done, wherever it touches memory for the first time, so a large area is let go a piece at a time; in these
 * milliseconds it is two areas, which mremap(2) takes for none.
 */
int track_unwatch(int uffd, uint64_t start, uint64_t end); /* 0, or what kept the last piece that could not be let go; -ESRCH: the process has gone */
void track_unwatch_all(int uffd, const struct proc_maps *maps);

/* A run of pages, and what PAGEMAP_SCAN says of them. */
enum { TRACK_WATCHED = 1, TRACK_WRITTEN = 2, TRACK_FILE = 4, TRACK_PRESENT = 8, TRACK_SWAPPED = 16, TRACK_ZERO = 32 };
struct track_run {
	uint64_t start, end;
	uint32_t what;
};
struct track_runs {
	struct track_run *data;
	size_t count, capacity;
};

/* The pages of watched areas that were written since the last call are added to *runs and protected from now on. */
int track_collect(int pagemap_fd, uint64_t start, uint64_t end, bool file, struct track_runs *runs);
/* For the first call: those that were not written too. What an earlier watch has left there is taken away. */
int track_collect_all(int uffd, int pagemap_fd, uint64_t start, uint64_t end, bool file, struct track_runs *runs);
/* As track_collect, of no file, in a third of the time where few pages were written. */
int track_collect_few(int pagemap_fd, uint64_t start, uint64_t end, struct track_runs *runs);
/* What is not as it was: pages that were written, are swapped out, or are not there (`what` has neither TRACK_PRESENT nor TRACK_SWAPPED).
 * Pages that stand in no run are there and were not written. Nothing is protected. For watched areas. */
int track_changes(int pagemap_fd, uint64_t start, uint64_t end, bool file, struct track_runs *runs);
#define TRACK_TABLE (2UL << 20) /* of memory, that a page table is for */
/* Whether this kernel answers in the way that track_changes_of rests on. */
bool track_tells_holes(void);
/* The same, of no file, in a third of the time where little has changed. `stored`: the pages that were there, in order, or of each TRACK_TABLE the first. Of others that are not there nothing is said. */
int track_changes_of(pid_t pid, int pagemap_fd, uint64_t start, uint64_t end, const struct extents *stored, struct track_runs *runs);
/* track_changes_of, then track_collect, of no file, where little has changed. */
int track_collect_of(pid_t pid, int pagemap_fd, uint64_t start, uint64_t end, const struct extents *stored, struct track_runs *changes, struct track_runs *written);
/* Of a part of a huge area, whose changes *runs has: a page that was emptied, and then only read, does not look as if it had been written. It is all zero:
 * such are added. The process stands still. */
int track_add_emptied(pid_t pid, uint64_t start, uint64_t end, struct track_runs *runs);
/* Adds how many bytes of a watched area were written, or came, since the last call of track_collect. Nothing is protected. */
int track_written(int pagemap_fd, uint64_t start, uint64_t end, bool file, uint64_t *size);
/* Pages that are there and protected, whatever kind of descriptor does that. */
int track_protected(int pagemap_fd, uint64_t start, uint64_t end, struct track_runs *runs);
