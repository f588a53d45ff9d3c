/*
 * Terminals: what dump and restore share. The kernel's structures (asm/termbits.h), not the C library's, which knows fewer speeds.
 */
#pragma once

#include "engine/kinds/kind.h"
#include "tty.pb-c.h"

#include <asm/termbits.h>
#include <sys/ioctl.h>

/* Numbers of the entries in tty-info.img. */
#define TTY_ID_PTY(index, master) ((uint32_t)(index) << 1 | (master)) /* as CRIU has it */
/* Control characters stand in the images as CRIU has them: as bytes, four in a word from the lowest on, in as many words as there are of them. */
#define TTY_ID_HUNG_UP(index) (1U << 24 | (uint32_t)(index))
#define TTY_ID_CURRENT(index) (2U << 24 | (uint32_t)(index))
#define TTY_ID_DEVICE(major, minor) (4U << 24 | ((uint32_t)(major) & 0xfff) << 12 | ((uint32_t)(minor) & 0xfff))
#define TTY_ID_EXTERNAL(nth) (8U << 24 | (uint32_t)(nth)) /* of the terminals of this dump */
#define TTY_INDEX_MAX (1U << 20) /* MINORBITS */

/* What is under way in one direction. */
struct tty_queue {
	char *data;
	size_t size, capacity;
	VEC(uint32_t) ends; /* input by lines: where one was ended by VEOF, which is not in the data */
};

/* How output is held back: each way must be undone in its own. */
enum tty_stopped { TTY_RUNS, TTY_STOPPED_BY_CHARACTER, TTY_STOPPED_BY_TCFLOW };

struct tty_queues {
	struct tty_queue output, input; /* to be read from the master; from the slave */
	enum tty_stopped stopped;
};

void tty_queues_free(struct tty_queues *q);

/*
 * What is under way in a pseudo-terminal. A terminal's queues can only be read destructively: what is taken is put back, and
 * where nothing is, nothing is touched. `slave` is a description of one's own with O_NONBLOCK, or -1 when it can't be open:
 * then input is not looked at. Must not be interrupted half-way: run_apart(). Negative errno.
 */
int tty_take(int master, int slave, struct tty_queues *ret);
/* Puts it in. TIOCSTI wants CAP_SYS_ADMIN since Linux 6.2. */
int tty_put(int master, int slave, const struct tty_queues *q);

/* Opens the slave: with these flags, not as controlling terminal. TIOCGPTPEER, Linux 4.13. Negative errno. */
int tty_open_peer(int master, int flags);

/* major:minor in the kernel's encoding (TIOCGDEV, tty_nr of proc(5)). Whether it is a slave, and which. */
bool tty_is_slave(uint32_t device, uint32_t *ret_index);

/* The restore side of the kind, tty_restore.c. */
int tty_create(struct restore *s, struct file *f, int *ret_fd);
int tty_fill(struct restore *s, struct file *f);
int tty_settle(struct restore *s, struct file *f);
void tty_release(struct restore *s, struct file *f);

/* Holds what the caller gives for terminals outside, which sessions may need though nobody has them open. */
int tty_prepare_external(struct restore *s);
/* The controlling terminal of a session's leader: a descriptor that tasks inherit (-1: it has none), and the foreground group. */
int tty_of_session(struct restore *s, pid_t sid, pid_t *ret_pgrp, bool *ret_external);
