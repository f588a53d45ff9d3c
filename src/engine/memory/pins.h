/*
 * Pages of a process that someone holds in order to write to them past its page table: process_vm_writev(2) from outside between finding them and
 * writing, direct i/o and rings whose descriptor is another's, or closed by now. Such a write is not seen as one (track.h), and may come as late as it likes.
 *
 * Who holds a page stands in the kernel's description of it (struct page), which is read in its own memory. From the time on that a page is protected nobody can
 * come to hold it without being seen. So those that are held right behind that are all that there are; they are unprotected again, and so count as written.
 *
 * An address space of which no page was ever held so has no mark that says it; then none needs to be looked at. process_vm_readv(2) leaves that mark as
 * well. So who reads from a tree that is watched beyond the dump does it through /proc/PID/mem (`request.track`).
 *
 * Who writes through /proc/PID/mem or ptrace(2) does so under the lock of the address space: it is waited for.
 *
 * Where that memory can't be read, or frame numbers are hidden, nothing but time helps: such writes are over after a moment, unless who makes one has to wait.
 */
#pragma once

#include "engine/memory/slots.h"
#include "engine/memory/track.h"

struct dump;
struct pins;

/* Where it is possible: d->pins; before there are other threads. */
void pins_open(struct dump *d);
void pins_close(struct pins *p);
/* Whose pages. */
struct pins_of {
	pid_t pid;
	const char *comm;
	int uffd, pagemap_fd;
};
/* To be called when pages were protected, and before they are copied: `runs` of them, ascending. A moment, or longer where there are many. `p`: NULL, where it is not
 * possible. In any thread. 1: so far none was held at all; a negative errno. */
int pins_release(struct pins *p, const struct pins_of *of, const struct extents *runs);
/* The same for what track_collect has found; 0 or a negative errno. */
int pins_release_written(struct pins *p, const struct pins_of *of, const struct track_runs *runs);
/* Behind that, once for each process. `settled`: CLOCK_MONOTONIC, ns: where only time helps, until then. */
void pins_wait(const struct pins *p, int uffd, uint64_t settled);
/* How long that is. */
#define PINS_SETTLE_NS 1000000UL
