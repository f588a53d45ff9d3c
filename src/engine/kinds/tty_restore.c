/*
 * Terminals, restored: every pseudo-terminal under the number it had, with settings and data, before the first task is born.
 * See tty.h and pts(4).
 */
#include "engine/kinds/tty.h"

#include "base/apart.h"
#include "engine/kinds/external.h"
#include "engine/kinds/regfile.h"
#include "engine/ns/mnt.h"
#include "engine/path.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>

#define FLAGS ((uint32_t)(O_ACCMODE | O_NONBLOCK | O_APPEND))

struct made_pty {
	uint32_t index;
	int master, slave; /* held; -1 */
	bool filled;
};

/* One of the caller's, in place of one outside. */
struct given_tty {
	const TtyInfoEntry *e;
	int fd; /* held */
};

struct tty_table {
	VEC(struct made_pty) ptys;
	uint32_t devpts; /* the mount that all are in; 0: ours */
	VEC(TtyDataEntry *) data;
	VEC(struct given_tty) given;
	VEC(uint32_t) settled; /* entries of terminals that others have too, and that have their settings */
};

static const TtyInfoEntry *info_of(struct restore *s, uint32_t id)
{
	for (size_t i = 0; i < s->ttys.count; i++)
		if (s->ttys.data[i]->id == id)
			return s->ttys.data[i];
	return NULL;
}

static struct made_pty *find(struct restore *s, uint32_t index)
{
	VEC_FOREACH(&s->terminals->ptys, p)
		if (p->index == index)
			return p;
	return NULL;
}

static int load_data(struct restore *s)
{
	struct image_file *file;
	TtyDataEntry *e;
	int r = image_open(s->dir, "tty-data.img", IMAGE_MAGIC_TTY_DATA, &file);

	if (r == -ENOENT)
		return 0;
	while (!r && (r = image_read_message(file, &tty_data_entry__descriptor, (ProtobufCMessage **)&e)) == 1) {
		TtyDataEntry **slot = VEC_PUSH(&s->terminals->data);
		if (slot)
			*slot = e;
		else
			tty_data_entry__free_unpacked(e, NULL);
		r = slot ? 0 : -ENOMEM;
	}
	image_close(file);
	return r ? error_errno(s->e, r, "cannot read tty-data.img") : 0;
}

/* Of the devpts that the tree has, or ours. */
static int open_ptmx(struct restore *s)
{
	const uint32_t devpts = s->terminals->devpts;

	if (!devpts)
		return path_follow(mounts_outside(s), "/dev/ptmx", O_RDWR);
	int fd = openat(mounts_root_of(s, devpts), "ptmx", O_RDWR | O_NOCTTY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* Numbers are given out from the lowest that is free: those below what is wanted are taken up meanwhile. */
static int open_numbered(struct restore *s, uint32_t highest)
{
	VEC(int) fillers = {};
	uint32_t index = 0;
	size_t left = s->terminals->ptys.count;
	int r = 0;

	while (!r && left && index < highest) {
		int fd = open_ptmx(s), *slot;
		if (fd < 0 || ioctl(fd, TIOCGPTN, &index) < 0) {
			r = error_errno(s->e, fd < 0 ? fd : -errno, "cannot make a pseudo-terminal");
			if (fd >= 0)
				close(fd);
			break;
		}
		struct made_pty *p = find(s, index);
		if (p && p->master < 0) {
			r = p->master = restore_hold(s, fd);
			r = r < 0 ? error_errno(s->e, r, "cannot hold a pseudo-terminal") : 0;
			left--;
		} else if ((slot = VEC_PUSH(&fillers))) {
			*slot = fd;
		} else {
			close(fd);
			r = error_set(s->e, -ENOMEM, "out of memory");
		}
	}
	VEC_FOREACH(&fillers, f)
		close(*f);
	VEC_FREE(&fillers);
	VEC_FOREACH(&s->terminals->ptys, p)
		if (!r && p->master < 0)
			r = error_set(s->e, -EEXIST, "terminal /dev/pts/%u is taken by another program; end that first", p->index);
	return r;
}

static int prepare(struct restore *s)
{
	uint32_t highest = 0;

	if (s->terminals)
		return 0;
	s->terminals = calloc(1, sizeof(*s->terminals));
	if (!s->terminals)
		return error_set(s->e, -ENOMEM, "out of memory");
	for (size_t i = 0; i < s->ttys.count; i++) {
		const TtyInfoEntry *e = s->ttys.data[i];
		if (e->type != TTY_TYPE__PTY || !e->pty || e->id != TTY_ID_PTY(e->pty->index, 1))
			continue;
		if (e->pty->index >= TTY_INDEX_MAX || find(s, e->pty->index))
			return error_set(s->e, -EBADMSG, "tty-info.img has a wrong number of a terminal, %u", e->pty->index);
		struct made_pty *p = VEC_PUSH(&s->terminals->ptys);
		if (!p)
			return error_set(s->e, -ENOMEM, "out of memory");
		*p = (struct made_pty){ .index = e->pty->index, .master = -1, .slave = -1 };
		if (s->terminals->ptys.count > 1 && e->devpts != s->terminals->devpts)
			return error_set(s->e, -EBADMSG, "tty-info.img has terminals of several devpts");
		s->terminals->devpts = e->devpts;
		highest = MAX(highest, p->index);
	}
	int r = open_numbered(s, highest + 1), off = 0;
	VEC_FOREACH(&s->terminals->ptys, p)
		if (!r && ioctl(p->master, TIOCSPTLCK, &off) < 0)
			r = error_errno(s->e, -errno, "cannot unlock /dev/pts/%u", p->index);
	return r ? r : load_data(s);
}

static int given_fd(struct restore *s, const TtyInfoEntry *e)
{
	VEC_FOREACH(&s->terminals->given, g)
		if (g->e == e)
			return g->fd;
	return -1;
}

int tty_prepare_external(struct restore *s)
{
	int r = 0;

	for (size_t i = 0; !r && i < s->ttys.count; i++) {
		const TtyInfoEntry *e = s->ttys.data[i];
		int given = e->type == TTY_TYPE__EXT_TTY || (e->type == TTY_TYPE__CTTY && e->external) ?
				    external_given_tty(s->request, e->rdev, e->dev) : -1;
		if (given < 0)
			continue;
		r = prepare(s);
		int fd = r ? -1 : fcntl(given, F_DUPFD_CLOEXEC, s->fd_base);
		struct given_tty *slot = fd < 0 ? NULL : VEC_PUSH(&s->terminals->given);
		if (slot)
			*slot = (struct given_tty){ e, fd };
		else if (!r)
			r = error_errno(s->e, fd < 0 ? -errno : -ENOMEM, "cannot hold descriptor %d, given for a terminal", given);
	}
	return r;
}

static int peer_error(struct restore *s, uint32_t index, int code)
{
	return error_errno(s->e, code, "cannot open /dev/pts/%u", index);
}

static int hold_slave(struct restore *s, struct made_pty *p)
{
	if (p->slave >= 0)
		return 0;
	int fd = tty_open_peer(p->master, O_RDWR);
	if (fd >= 0)
		p->slave = fd = restore_hold(s, fd);
	return fd < 0 ? peer_error(s, p->index, fd) : 0;
}

/* A slave without a master: one whose master is closed again. */
static int create_hung_up(struct restore *s, uint32_t flags)
{
	_cleanup_close_ int master = open_ptmx(s);
	int off = 0;

	if (master < 0 || ioctl(master, TIOCSPTLCK, &off) < 0)
		return error_errno(s->e, -errno, "cannot make a pseudo-terminal");
	int fd = tty_open_peer(master, (int)(flags & FLAGS));
	return fd < 0 ? error_errno(s->e, fd, "cannot open a pseudo-terminal") : fd;
}

/* /dev/tty can be opened by a session that has the terminal only. */
struct current {
	int slave, flags;
	int root; /* as path_open has it */
};

static int open_current(void *argument)
{
	struct current *c = argument;

	if (ioctl(c->slave, TIOCSCTTY, 0) < 0)
		return -errno;
	int r = path_follow(c->root, "/dev/tty", c->flags);
	ioctl(c->slave, TIOCNOTTY);
	return r;
}

static int create_current(struct restore *s, const TtyInfoEntry *info, uint32_t flags)
{
	struct made_pty *p = info->pty ? find(s, info->pty->index) : NULL;
	struct current c = { .slave = given_fd(s, info), .flags = (int)(flags & FLAGS), .root = mounts_outside(s) };

	if (c.slave >= 0) {
		int fd = run_apart(NULL, open_current, &c);
		return fd < 0 ? error_errno(s->e, fd, "cannot open /dev/tty for the terminal given for tty[%x:…]; it must be no session's", info->rdev) : fd;
	}
	if (info->external && !s->request->shell_job)
		return error_set(s->e, -ENOTTY, "the tree's terminal belonged to someone outside; give another with --inherit-fd 'fd[N]:tty[%x:…]', or use --shell-job",
				 info->rdev);
	if (info->external) {
		int fd = path_follow(c.root, "/dev/tty", c.flags);
		return fd < 0 ? error_errno(s->e, fd, "cannot open /dev/tty, the terminal of the caller; call restore from one") : fd;
	}
	if (!p)
		return error_set(s->e, -EBADMSG, "tty-info.img lacks the terminal of entry %u", info->id);
	int r = hold_slave(s, p);
	if (r)
		return r;
	c.slave = p->slave;
	int fd = run_apart(NULL, open_current, &c);
	return fd < 0 ? error_errno(s->e, fd, "cannot open /dev/tty for /dev/pts/%u", p->index) : fd;
}

static int create_external(struct restore *s, uint32_t flags)
{
	char path[64];

	if (!s->request->shell_job)
		return error_set(s->e, -ENOTTY, "the tree was on the terminal of its caller; use --shell-job to restore it on yours");
	if (s->tty < 0)
		return error_set(s->e, -ENOTTY, "the tree was on the terminal of its caller; call restore from a terminal");
	snprintf(path, sizeof(path), "/proc/self/fd/%d", s->tty);
	int fd = open(path, (int)(flags & FLAGS) | O_NOCTTY | O_CLOEXEC);
	return fd < 0 ? error_errno(s->e, -errno, "cannot open the terminal of the caller") : fd;
}

static int create_given(struct restore *s, const TtyInfoEntry *info, uint32_t flags)
{
	int given = given_fd(s, info);
	char what[48];

	snprintf(what, sizeof(what), "tty[%x:%x]", info->rdev, info->dev);
	return given < 0 ? error_set(s->e, -ENOTTY, "nothing is given for %s", what) : external_open(s, given, (int)(flags & FLAGS), what);
}

static int create_device(struct restore *s, const TtyFileEntry *e)
{
	struct file *reg = e->has_regf_id ? file_find(s, e->regf_id) : NULL;

	if (!reg || !reg->entry->reg)
		return error_set(s->e, -EBADMSG, "terminal %u has no file", e->id);
	return regfile_open(s, reg, (int)(e->flags & FLAGS) | O_NONBLOCK | O_NOCTTY);
}

static int create_pty(struct restore *s, const TtyInfoEntry *info, uint32_t flags)
{
	struct made_pty *p = info->pty ? find(s, info->pty->index) : NULL;
	int fd;

	if (!p)
		return error_set(s->e, -EBADMSG, "tty-info.img lacks the master of entry %u", info->id);
	if (info->id == TTY_ID_PTY(p->index, 1)) {
		fd = fcntl(p->master, F_DUPFD_CLOEXEC, s->fd_base);
		return fd < 0 ? error_errno(s->e, -errno, "cannot hold a pseudo-terminal") : fd;
	}
	fd = tty_open_peer(p->master, (int)(flags & FLAGS));
	return fd < 0 ? peer_error(s, p->index, fd) : fd;
}

int tty_create(struct restore *s, struct file *f, int *ret_fd)
{
	const TtyFileEntry *e = f->entry->tty;
	const TtyInfoEntry *info = e ? info_of(s, e->tty_info_id) : NULL;
	int r = prepare(s);

	if (r)
		return r;
	if (!info)
		return error_set(s->e, -EBADMSG, "terminal %u has no entry in tty-info.img", f->id);
	int fd = info->hung_up	     ? create_hung_up(s, e->flags) :
		 info->type == TTY_TYPE__EXT_TTY ? create_given(s, info, e->flags) :
		 info->type == TTY_TYPE__CTTY ? create_current(s, info, e->flags) :
		 info->external	     ? create_external(s, e->flags) :
		 info->type == TTY_TYPE__PTY ? create_pty(s, info, e->flags) :
						create_device(s, e);
	if (fd < 0)
		return fd;
	*ret_fd = fd;
	if (fcntl(fd, F_SETFL, (int)(e->flags & (O_NONBLOCK | O_APPEND))) < 0)
		return error_errno(s->e, -errno, "cannot set the flags of a terminal");
	return 0;
}

/* ---- what it holds ---- */

static struct termios2 settings_of(const TermiosEntry *e)
{
	struct termios2 t = { e->c_iflag, e->c_oflag, e->c_cflag, e->c_lflag, (cc_t)e->c_line, {}, e->c_ispeed, e->c_ospeed };

	memcpy(t.c_cc, e->c_cc, MIN(e->n_c_cc * sizeof(*e->c_cc), (size_t)NCCS));
	return t;
}

static int set_settings(struct restore *s, const TtyInfoEntry *e, int fd)
{
	if (e->termios) {
		struct termios2 t = settings_of(e->termios);
		if (ioctl(fd, TCSETS2, &t) < 0)
			return error_errno(s->e, -errno, "cannot set the modes of terminal %u", e->id);
	}
	return 0;
}

static int set_size(struct restore *s, const TtyInfoEntry *e, int fd)
{
	if (!e->winsize)
		return 0;
	struct winsize size = { (unsigned short)e->winsize->ws_row, (unsigned short)e->winsize->ws_col,
				(unsigned short)e->winsize->ws_xpixel, (unsigned short)e->winsize->ws_ypixel };
	return ioctl(fd, TIOCSWINSZ, &size) < 0 ? error_errno(s->e, -errno, "cannot set the size of terminal %u", e->id) : 0;
}

static int set_locks(struct restore *s, const TtyInfoEntry *e, int fd)
{
	struct termios locked = {};
	bool any = false;

	if (!e->termios_locked)
		return 0;
	struct termios2 t = settings_of(e->termios_locked);
	locked = (struct termios){ t.c_iflag, t.c_oflag, t.c_cflag, t.c_lflag, t.c_line, {} };
	memcpy(locked.c_cc, t.c_cc, sizeof(locked.c_cc));
	for (size_t i = 0; i < sizeof(locked); i++)
		any |= ((char *)&locked)[i] != 0;
	if (any && ioctl(fd, TIOCSLCKTRMIOS, &locked) < 0)
		return error_errno(s->e, -errno, "cannot lock the modes of terminal %u", e->id);
	return 0;
}

static int queue_of(struct restore *s, uint32_t id, struct tty_queue *q)
{
	VEC_FOREACH(&s->terminals->data, d) {
		const TtyDataEntry *e = *d;
		if (e->tty_id != id)
			continue;
		q->data = (char *)e->data.data;
		q->size = e->data.len;
		q->ends.data = e->ends;
		q->ends.count = e->n_ends;
		for (size_t i = 0; i < e->n_ends; i++)
			if (e->ends[i] > q->size || (i && e->ends[i] < e->ends[i - 1]))
				return error_set(s->e, -EBADMSG, "tty-data.img: the lines of terminal %u are out of order", id);
	}
	return 0;
}

static int put(struct restore *s, struct made_pty *p, const TtyInfoEntry *slave)
{
	struct tty_queues q = { .stopped = slave ? (enum tty_stopped)slave->stopped : TTY_RUNS };
	int r = queue_of(s, TTY_ID_PTY(p->index, 1), &q.output);

	if (!r)
		r = queue_of(s, TTY_ID_PTY(p->index, 0), &q.input);
	if (r || (!q.output.size && !q.input.size && !q.input.ends.count && !q.stopped))
		return r;
	_cleanup_close_ int own = tty_open_peer(p->master, O_RDWR | O_NONBLOCK);
	if (own < 0)
		return peer_error(s, p->index, own);
	r = tty_put(p->master, own, &q);
	return r ? error_errno(s->e, r, "cannot put the data back into /dev/pts/%u", p->index) : 0;
}

static int set_owner(struct restore *s, struct made_pty *p, const TtyInfoEntry *slave)
{
	char path[32], name[16];
	_cleanup_close_ int dir = s->terminals->devpts ? fcntl(mounts_root_of(s, s->terminals->devpts), F_DUPFD_CLOEXEC, 0) : open("/dev/pts", O_PATH | O_DIRECTORY | O_CLOEXEC);

	snprintf(path, sizeof(path), "/dev/pts/%u", p->index);
	snprintf(name, sizeof(name), "%u", p->index);
	if (slave->has_uid && slave->has_gid && fchownat(dir, name, slave->uid, slave->gid, 0) < 0)
		return error_errno(s->e, -errno, "cannot change the owner of %s", path);
	if (slave->has_mode && fchmodat(dir, name, slave->mode & 07777, 0) < 0)
		return error_errno(s->e, -errno, "cannot change the mode of %s", path);
	return 0;
}

/* What stands in the way of the rest comes last. */
static int set_modes(struct restore *s, struct made_pty *p, const TtyInfoEntry *master, const TtyInfoEntry *slave)
{
	int on = 1, r = 0;

	if (master->slave_closed) {
		int fd = tty_open_peer(p->master, O_RDWR);
		if (fd < 0)
			return peer_error(s, p->index, fd);
		close(fd);
	}
	if (slave && slave->exclusive && !(r = hold_slave(s, p)) && ioctl(p->slave, TIOCEXCL) < 0)
		r = -errno;
	if (!r && master->exclusive && ioctl(p->master, TIOCEXCL) < 0)
		r = -errno;
	if (!r && master->packet_mode && ioctl(p->master, TIOCPKT, &on) < 0)
		r = -errno;
	if (!r && master->locked && ioctl(p->master, TIOCSPTLCK, &on) < 0)
		r = -errno;
	return r ? error_errno(s->e, r, "cannot set the modes of /dev/pts/%u", p->index) : 0;
}

static int fill_pty(struct restore *s, struct made_pty *p)
{
	const TtyInfoEntry *master = info_of(s, TTY_ID_PTY(p->index, 1)), *slave = info_of(s, TTY_ID_PTY(p->index, 0));
	int r = 0;

	p->filled = true;
	if (!slave && master && master->termios) { /* CRIU has one entry where one end alone is open */
		r = set_settings(s, master, p->master);
		if (!r)
			r = set_size(s, master, p->master);
	}
	if (slave) {
		r = set_settings(s, slave, p->master);
		if (!r)
			r = set_size(s, slave, p->master);
		if (!r)
			r = set_owner(s, p, slave);
		if (!r && slave->sid)
			r = hold_slave(s, p);
	}
	if (!r)
		r = put(s, p, slave);
	if (!r && slave)
		r = set_locks(s, slave, p->master);
	return r ? r : set_modes(s, p, master, slave);
}

/* With the first terminal, all: every description stands. */
int tty_fill(struct restore *s, struct file *f)
{
	int r = 0;

	VEC_FOREACH(&s->terminals->ptys, p)
		if (!r && !p->filled)
			r = fill_pty(s, p);
	return r;
}

/* A console, virtual terminal or line: as some description of the tree has it. */
static int fd_of_device(struct restore *s, uint32_t id)
{
	VEC_FOREACH(&s->files, f)
		if (f->entry->tty && f->entry->tty->tty_info_id == id && f->fd >= 0)
			return f->fd;
	return -1;
}

static bool is_device(const TtyInfoEntry *e)
{
	return e->type == TTY_TYPE__CONSOLE || e->type == TTY_TYPE__VT || e->type == TTY_TYPE__SERIAL;
}

int tty_of_session(struct restore *s, pid_t sid, pid_t *ret_pgrp, bool *ret_external)
{
	for (size_t i = 0; i < s->ttys.count; i++) {
		const TtyInfoEntry *e = s->ttys.data[i];
		struct made_pty *p = s->terminals && e->pty ? find(s, e->pty->index) : NULL;
		if (e->sid != (uint32_t)sid || e->hung_up || e->type == TTY_TYPE__CTTY || (e->type == TTY_TYPE__PTY && !e->pty))
			continue;
		*ret_pgrp = (pid_t)e->pgrp;
		*ret_external = e->external && e->type == TTY_TYPE__PTY;
		return e->type == TTY_TYPE__EXT_TTY ? s->terminals ? given_fd(s, e) : -1 :
		       is_device(e)		    ? fd_of_device(s, e->id) :
		       e->external		    ? s->tty :
		       p			    ? p->slave :
						      -1;
	}
	return -1;
}

/* A terminal that is not the tree's alone becomes as the tree left its own; a size that differs is told. */
static int take_over(struct restore *s, const TtyInfoEntry *e, int fd, uint32_t sid)
{
	struct winsize now;
	sigset_t set, before;

	sigemptyset(&set);
	sigaddset(&set, SIGTTOU);
	sigprocmask(SIG_BLOCK, &set, &before);
	int r = set_settings(s, e, fd);
	sigprocmask(SIG_SETMASK, &before, NULL);
	if (r || !e->winsize || ioctl(fd, TIOCGWINSZ, &now) < 0 || (now.ws_row == e->winsize->ws_row && now.ws_col == e->winsize->ws_col))
		return r;
	for (size_t i = 0; i < s->tasks.count; i++)
		if (!s->tasks.data[i]->dead && s->tasks.data[i]->tree->sid == sid)
			kill(s->tasks.data[i]->pid, SIGWINCH);
	return 0;
}

int tty_settle(struct restore *s, struct file *f)
{
	const TtyInfoEntry *e = info_of(s, f->entry->tty->tty_info_id);
	uint32_t *slot, root = s->tasks.data[0]->tree->sid;

	if (!e || e->hung_up || e->type == TTY_TYPE__CTTY || (e->type == TTY_TYPE__PTY && !e->external))
		return 0;
	VEC_FOREACH(&s->terminals->settled, id)
		if (*id == e->id)
			return 0;
	if (!(slot = VEC_PUSH(&s->terminals->settled)))
		return error_set(s->e, -ENOMEM, "out of memory");
	*slot = e->id;
	if (e->type == TTY_TYPE__PTY)
		return take_over(s, e, s->tty, root);
	return take_over(s, e, f->fd, e->sid ? e->sid : root);
}

/* Once, with the first file. */
void tty_release(struct restore *s, struct file *f)
{
	struct tty_table *t = s->terminals;

	if (!t)
		return;
	VEC_FOREACH(&t->ptys, p) {
		if (p->master >= 0)
			close(p->master);
		if (p->slave >= 0)
			close(p->slave);
	}
	VEC_FOREACH(&t->data, d)
		tty_data_entry__free_unpacked(*d, NULL);
	VEC_FOREACH(&t->given, g)
		close(g->fd);
	VEC_FREE(&t->given);
	VEC_FREE(&t->settled);
	VEC_FREE(&t->ptys);
	VEC_FREE(&t->data);
	free(t);
	s->terminals = NULL;
}
