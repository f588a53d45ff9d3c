/*
 * Terminals: pseudo-terminals of which the tree holds the master, with all that is in them; the terminal of the caller
 * (--shell-job); one outside that the user names, for which restore takes another of the caller's; consoles, virtual terminals and
 * serial lines, which are opened again and get their modes.
 *
 * A controlling terminal is known by its session in tty-info.img. What a pseudo-terminal holds is looked at when all
 * descriptors were seen: both ends are needed for it.
 */
#include "engine/kinds/tty.h"

#include "base/apart.h"
#include "engine/kinds/external.h"
#include "engine/kinds/regfile.h"
#include "engine/ns/mnt.h"
#include "engine/path.h"
#include "engine/task/task.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/kd.h>
#include <linux/vt.h>
#include <poll.h>
#include <sys/sysmacros.h>

#define TTYAUX_MAJOR 5U
#define TTY_MAJOR 4U

/* A terminal that some description refers to. */
struct terminal {
	TtyType type;
	uint32_t index; /* of a pseudo-terminal */
	uint32_t device; /* which it is, in the kernel's encoding: of /dev/console the one behind it */
	bool hung_up;
	int master, fd; /* duplicates: of the master, and of any description; -1 */
	struct stat st;
	const struct task *task; /* who has it, for messages */
	int number;
	char target[64];
};

struct state {
	VEC(struct terminal) terminals;
	struct image_file *info, *data;
	bool any; /* pseudo-terminals, and all of them are in: */
	uint32_t devpts;
};

extern const struct kind kind_tty;

static bool recognise(const struct descriptor *f)
{
	struct termios2 t;
	uint32_t index;

	if (!S_ISCHR(f->st.st_mode) || f->flags & O_PATH || f->own_fd < 0)
		return false;
	/* A slave that was hung up answers nothing. */
	return tty_is_slave((uint32_t)(major(f->st.st_rdev) << 8 | (minor(f->st.st_rdev) & 0xff)), &index) ||
	       f->st.st_rdev == makedev(TTYAUX_MAJOR, 2) || ioctl(f->own_fd, TCGETS2, &t) == 0;
}

static struct state *state_of(struct dump *d)
{
	void **at = kind_state(d, &kind_tty);

	if (!*at)
		*at = calloc(1, sizeof(struct state));
	return *at;
}

static struct terminal *find(struct state *s, uint32_t index, bool hung_up)
{
	VEC_FOREACH(&s->terminals, t)
		if (t->type == TTY_TYPE__PTY && t->index == index && t->hung_up == hung_up)
			return t;
	return NULL;
}

static dev_t to_rdev(uint32_t device)
{
	return makedev(device >> 8 & 0xfff, (device & 0xff) | (device >> 12 & 0xfff00));
}

static uint32_t to_device(dev_t rdev)
{
	return major(rdev) << 8 | (minor(rdev) & 0xff) | (minor(rdev) & 0xfff00) << 12;
}

static uint32_t id_of_external(const struct state *s, const struct terminal *t)
{
	return TTY_ID_EXTERNAL(t - s->terminals.data);
}

static struct terminal *find_external(struct state *s, dev_t rdev, dev_t dev)
{
	VEC_FOREACH(&s->terminals, t)
		if (t->type == TTY_TYPE__EXT_TTY && t->st.st_rdev == rdev && (!dev || t->st.st_dev == dev))
			return t;
	return NULL;
}

static struct terminal *add(struct state *s, const struct descriptor *f, TtyType type, uint32_t index)
{
	struct terminal *t = VEC_PUSH(&s->terminals);

	if (!t)
		return NULL;
	*t = (struct terminal){ .type = type, .index = index, .device = to_device(f->st.st_rdev), .master = -1, .fd = -1, .st = f->st, .task = f->task, .number = f->fd };
	snprintf(t->target, sizeof(t->target), "%.60s", f->target);
	return t;
}

/* Consoles, virtual terminals, serial lines. What a virtual terminal holds beyond its modes is its driver's or program's: refused. */
static int add_device(struct dump *d, struct state *s, const struct descriptor *f, struct terminal **t)
{
	TtyType type = f->st.st_rdev == makedev(TTYAUX_MAJOR, 1)			    ? TTY_TYPE__CONSOLE :
		       major(f->st.st_rdev) == TTY_MAJOR && minor(f->st.st_rdev) < 64 ? TTY_TYPE__VT :
											    TTY_TYPE__SERIAL;
	struct vt_mode mode = {};
	int text = KD_TEXT, unread = 0;

	VEC_FOREACH(&s->terminals, x)
		if (x->type == type && x->st.st_rdev == f->st.st_rdev)
			*t = x;
	if (*t)
		return 0;
	if (ioctl(f->own_fd, KDGETMODE, &text) == 0 && ioctl(f->own_fd, VT_GETMODE, &mode) == 0 && (text != KD_TEXT || mode.mode != VT_AUTO))
		return fd_error(d, f, -ENOTSUP, "is a virtual terminal in graphics mode, or switched by a program, which is not saved; leave that first");
	if ((f->flags & (uint32_t)O_ACCMODE) != O_WRONLY && ioctl(f->own_fd, FIONREAD, &unread) == 0 && unread)
		return fd_error(d, f, -ENOTSUP, "is a console or line with input that was not read, which is not saved; try again");
	*t = add(s, f, type, 0);
	if (*t)
		ioctl(f->own_fd, TIOCGDEV, &(*t)->device);
	return 0;
}

/* Numbers are those of one devpts: the host's, or one that only the tree has. */
static int take_devpts(struct dump *d, struct state *s, const struct descriptor *f)
{
	const uint32_t devpts = mounts_devpts_of(d, f);

	if (s->any && s->devpts != devpts)
		return fd_error(d, f, -ENOTSUP, "is a pseudo-terminal of another devpts than others of the tree, which is not saved; close one of them first");
	s->any = true;
	s->devpts = devpts;
	return 0;
}

/* What the description is, and the number of its entry in tty-info.img. */
static int classify(struct dump *d, struct state *s, const struct descriptor *f, uint32_t *ret_id)
{
	uint32_t index = 0, device = 0;
	struct terminal *t = NULL;
	struct termios2 settings;

	if (external_is_tty(d->request, f->st.st_rdev, f->st.st_dev) && f->st.st_rdev != makedev(TTYAUX_MAJOR, 2)) {
		t = find_external(s, f->st.st_rdev, f->st.st_dev);
		t = t ? t : add(s, f, TTY_TYPE__EXT_TTY, 0);
		*ret_id = t ? id_of_external(s, t) : 0;
	} else if (f->st.st_rdev == makedev(TTYAUX_MAJOR, 2)) {
		if (ioctl(f->own_fd, TIOCGPTN, &index) < 0)
			return fd_errno(d, f, -errno, "is a pseudo-terminal that does not tell its number");
		t = find(s, index, false);
		*ret_id = TTY_ID_PTY(index, 1);
		if (take_devpts(d, s, f))
			return d->e->code;
		t = t ? t : add(s, f, TTY_TYPE__PTY, index);
		if (t && t->master < 0 && (t->master = fcntl(f->own_fd, F_DUPFD_CLOEXEC, 0)) < 0)
			return fd_errno(d, f, -errno, "can't be held");
	} else if (f->st.st_rdev == makedev(TTYAUX_MAJOR, 0)) {
		if (ioctl(f->own_fd, TIOCGDEV, &device) < 0 || !tty_is_slave(device, &index))
			return fd_error(d, f, -ENOTSUP, "is a controlling terminal that is gone, or is no pseudo-terminal; close it first");
		*ret_id = TTY_ID_CURRENT(index);
		VEC_FOREACH(&s->terminals, x)
			if (x->type == TTY_TYPE__CTTY && x->index == index)
				t = x;
		t = t ? t : add(s, f, TTY_TYPE__CTTY, index);
		if (t)
			t->device = device;
	} else if (tty_is_slave((uint32_t)(major(f->st.st_rdev) << 8), &index)) {
		index += minor(f->st.st_rdev);
		bool hung_up = ioctl(f->own_fd, TCGETS2, &settings) < 0;
		t = find(s, index, hung_up);
		*ret_id = hung_up ? TTY_ID_HUNG_UP(index) : TTY_ID_PTY(index, 0);
		if (take_devpts(d, s, f))
			return d->e->code;
		t = t ? t : add(s, f, TTY_TYPE__PTY, index);
		if (t) {
			t->hung_up = hung_up;
			t->st = f->st;
		}
	} else {
		*ret_id = TTY_ID_DEVICE(major(f->st.st_rdev), minor(f->st.st_rdev));
		int r = add_device(d, s, f, &t);
		if (r)
			return r;
	}
	if (!t)
		return error_set(d->e, -ENOMEM, "out of memory");
	if (t->fd < 0 && f->st.st_rdev != makedev(TTYAUX_MAJOR, 2) && (t->fd = fcntl(f->own_fd, F_DUPFD_CLOEXEC, 0)) < 0)
		return fd_errno(d, f, -errno, "can't be held");
	return 0;
}

static int capture(struct dump *d, struct descriptor *f)
{
	FileEntry entry = FILE_ENTRY__INIT;
	TtyFileEntry e = TTY_FILE_ENTRY__INIT;
	struct state *s = state_of(d);
	struct termios2 settings;
	int r = s ? classify(d, s, f, &e.tty_info_id) : error_set(d->e, -ENOMEM, "out of memory");

	if (r)
		return r;
	e.id = f->id;
	e.flags = f->flags;
	e.fown = f->fown;
	if (ioctl(f->own_fd, TCGETS2, &settings) == 0) { /* one that was hung up has no name any more */
		e.has_regf_id = 1;
		e.regf_id = f->id = ++d->next_file_id;
		r = regfile_capture(d, f);
		f->id = e.id;
	}
	entry.tty = &e;
	return r ? r : file_entry_write(d, &entry, f, FD_TYPES__TTY);
}

/* ---- once all descriptors were seen ---- */

/* The entry and all that it points to. */
struct info {
	TtyInfoEntry e;
	TermiosEntry termios, locked;
	WinsizeEntry winsize;
	TtyPtyEntry pty;
	uint32_t cc[2][NCCS]; /* all zero but for the bytes; see tty.h */
};

static void info_init(struct info *i, const struct terminal *t, uint32_t id)
{
	tty_info_entry__init(&i->e);
	termios_entry__init(&i->termios);
	termios_entry__init(&i->locked);
	winsize_entry__init(&i->winsize);
	tty_pty_entry__init(&i->pty);
	memset(i->cc, 0, sizeof(i->cc));
	i->e.id = id;
	i->e.type = t->type;
	i->e.rdev = (uint32_t)t->st.st_rdev;
	if (t->type == TTY_TYPE__PTY || t->type == TTY_TYPE__CTTY) {
		i->pty.index = t->index;
		i->e.pty = &i->pty;
	}
}

static void take_settings(struct info *i, int fd)
{
	struct termios2 t;
	struct termios locked;
	struct winsize size;

	if (ioctl(fd, TCGETS2, &t) == 0) {
		i->termios = (TermiosEntry){ i->termios.base, t.c_iflag, t.c_oflag, t.c_cflag, t.c_lflag, t.c_line, t.c_ispeed, t.c_ospeed,
					     NCCS, i->cc[0] };
		memcpy(i->cc[0], t.c_cc, NCCS);
		i->e.termios = &i->termios;
	}
	if (ioctl(fd, TIOCGLCKTRMIOS, &locked) == 0) {
		i->locked = (TermiosEntry){ i->locked.base, locked.c_iflag, locked.c_oflag, locked.c_cflag, locked.c_lflag, locked.c_line, 0, 0,
					    NCCS, i->cc[1] };
		memcpy(i->cc[1], locked.c_cc, NCCS);
		i->e.termios_locked = &i->locked;
	}
	if (ioctl(fd, TIOCGWINSZ, &size) == 0) {
		i->winsize = (WinsizeEntry){ i->winsize.base, size.ws_row, size.ws_col, size.ws_xpixel, size.ws_ypixel };
		i->e.winsize = &i->winsize;
	}
}

static int write_info(struct dump *d, struct state *s, const struct info *i)
{
	int r = s->info ? 0 : image_create(d->dir, "tty-info.img", IMAGE_MAGIC_TTY_INFO, &s->info);

	if (!r)
		r = image_write_message(s->info, &i->e.base);
	return r ? error_errno(d->e, r, "cannot write tty-info.img") : 0;
}

static int write_queue(struct dump *d, struct state *s, uint32_t id, const struct tty_queue *q)
{
	TtyDataEntry e = TTY_DATA_ENTRY__INIT;
	int r = 0;

	if (!q->size && !q->ends.count)
		return 0;
	e.tty_id = id;
	e.data = (ProtobufCBinaryData){ q->size, (uint8_t *)(q->data ? q->data : "") };
	e.n_ends = q->ends.count;
	e.ends = q->ends.data;
	if (!s->data)
		r = image_create(d->dir, "tty-data.img", IMAGE_MAGIC_TTY_DATA, &s->data);
	if (!r)
		r = image_write_message(s->data, &e.base);
	return r ? error_errno(d->e, r, "cannot write tty-data.img") : 0;
}

static int terminal_error(struct dump *d, const struct terminal *t, int code, const char *why)
{
	return task_error(d, t->task, code, "descriptor %d (%s) %s", t->number, t->target, why);
}

static const struct task *task_of(struct dump *d, pid_t pid)
{
	for (size_t i = 0; i < d->tasks.count; i++)
		if (d->tasks.data[i]->pid == pid)
			return d->tasks.data[i];
	return NULL;
}

static bool is_in(const struct dump *d, uint32_t devpts, const char *path)
{
	const struct mount *m = mounts_find(d->mounts, devpts);
	struct stat st;

	return stat(path, &st) == 0 && m && m->dev == (uint32_t)(major(st.st_dev) << 20 | minor(st.st_dev));
}

/* Whether some descriptor anywhere refers to it; only asked where the tree has the master and no slave. */
static bool held_by_someone(const struct dump *d, const struct state *s, uint32_t index)
{
	char name[32], path[300], target[64];
	DIR *proc = opendir("/proc");
	bool held = false;

	snprintf(name, sizeof(name), "/dev/pts/%u", index);
	for (struct dirent *p; proc && !held && (p = readdir(proc));) {
		snprintf(path, sizeof(path), "/proc/%.20s/fd", p->d_name);
		DIR *fds = strspn(p->d_name, "0123456789") ? opendir(path) : NULL;
		for (struct dirent *f; fds && !held && (f = readdir(fds));) {
			snprintf(path, sizeof(path), "/proc/%.20s/fd/%.20s", p->d_name, f->d_name);
			ssize_t n = readlink(path, target, sizeof(target) - 1);
			held = n > 0 && (size_t)n == strlen(name) && !memcmp(target, name, (size_t)n);
			/* The same name in another devpts is another terminal. */
			held = held && (!s->devpts || is_in(d, s->devpts, path));
		}
		if (fds)
			closedir(fds);
	}
	if (proc)
		closedir(proc);
	return held;
}

struct taking {
	int master, slave;
	struct tty_queues queues;
};

static int take_apart(void *argument)
{
	struct taking *t = argument;

	return tty_take(t->master, t->slave, &t->queues);
}

static int write_pair(struct dump *d, struct state *s, const struct terminal *t, struct info *master, struct info *slave)
{
	struct taking taking = { .master = t->master, .slave = -1 };
	struct pollfd p = { .fd = t->master, .events = POLLPRI };

	poll(&p, 1, 0);
	if (p.revents & POLLPRI)
		return terminal_error(d, t, -ENOTSUP, "is in packet mode and has news that were not read (TIOCPKT), which are not saved; try again");
	master->e.has_slave_closed = master->e.slave_closed = t->fd < 0 && p.revents & POLLHUP;
	if (t->fd < 0 && !(p.revents & POLLHUP) && held_by_someone(d, s, t->index))
		return terminal_error(d, t, -ENOTSUP,
				      "is a pseudo-terminal whose other end is held by a process outside the tree; dump a parent of both");
	if (t->fd >= 0)
		taking.slave = tty_open_peer(t->master, O_RDWR | O_NONBLOCK);
	int r = t->fd >= 0 && taking.slave < 0 ? taking.slave : run_apart(NULL, take_apart, &taking);
	if (taking.slave >= 0)
		close(taking.slave);
	if (r) {
		tty_queues_free(&taking.queues);
		return task_errno(d, t->task, r, "descriptor %d (%s) is a pseudo-terminal whose content can't be read", t->number, t->target);
	}
	slave->e.has_stopped = taking.queues.stopped != TTY_RUNS;
	slave->e.stopped = taking.queues.stopped;
	r = write_queue(d, s, master->e.id, &taking.queues.output);
	if (!r)
		r = write_queue(d, s, slave->e.id, &taking.queues.input);
	tty_queues_free(&taking.queues);
	if (!r)
		r = write_info(d, s, master);
	return r ? r : write_info(d, s, slave);
}

/* Whose controlling terminal it is. */
static int take_session(struct dump *d, const struct terminal *t, struct info *slave)
{
	pid_t sid = 0, pgrp = 0;

	if (ioctl(t->master, TIOCGSID, &sid) < 0 || !sid)
		return 0;
	const struct task *leader = task_of(d, sid);
	if (!leader) {
		char why[160];
		snprintf(why, sizeof(why), "is the controlling terminal of process %d, which is outside the tree; dump a parent of both", sid);
		return terminal_error(d, t, -ENOTSUP, why);
	}
	ioctl(t->master, TIOCGPGRP, &pgrp);
	slave->e.sid = (uint32_t)sid;
	slave->e.pgrp = (uint32_t)MAX(pgrp, 0);
	return 0;
}

static void take_owner_of_node(const struct dump *d, const struct terminal *t, struct info *slave)
{
	struct stat st = t->st;
	char path[32];

	snprintf(path, sizeof(path), "/dev/pts/%u", t->index);
	if (t->fd < 0 && path_stat(d->root_fd, path, &st))
		return;
	slave->e.has_uid = slave->e.has_gid = slave->e.has_mode = 1;
	slave->e.uid = st.st_uid;
	slave->e.gid = st.st_gid;
	slave->e.mode = st.st_mode & 07777;
	slave->e.rdev = (uint32_t)st.st_rdev;
}

static int finish_own(struct dump *d, struct state *s, const struct terminal *t)
{
	struct info master, slave;
	int value = 0;

	info_init(&master, t, TTY_ID_PTY(t->index, 1));
	info_init(&slave, t, TTY_ID_PTY(t->index, 0));
	master.e.has_devpts = slave.e.has_devpts = s->devpts != 0;
	master.e.devpts = slave.e.devpts = s->devpts;
	take_settings(&slave, t->master);
	take_settings(&master, t->master); /* which CRIU sets them by */
	take_owner_of_node(d, t, &slave);
	master.e.rdev = (uint32_t)makedev(TTYAUX_MAJOR, 2);
	if (ioctl(t->master, TIOCGPTLCK, &value) == 0)
		master.e.locked = value;
	if (ioctl(t->master, TIOCGPKT, &value) == 0)
		master.e.packet_mode = value;
	if (ioctl(t->master, TIOCGEXCL, &value) == 0)
		master.e.exclusive = value;
	if (t->fd >= 0 && ioctl(t->fd, TIOCGEXCL, &value) == 0)
		slave.e.exclusive = value;
	int r = take_session(d, t, &slave);
	return r ? r : write_pair(d, s, t, &master, &slave);
}

/* The session in the tree that it controls. */
static void take_session_of(struct dump *d, const struct terminal *t, struct info *i)
{
	for (size_t k = 0; k < d->tasks.count; k++) {
		const struct task *x = d->tasks.data[k];
		if (x->pid == x->sid && x->stat.tty && (uint32_t)x->stat.tty == t->device) {
			i->e.sid = (uint32_t)x->sid;
			i->e.pgrp = (uint32_t)MAX(x->stat.tty_pgrp, 0);
		}
	}
}

static int finish_other(struct dump *d, struct state *s, const struct terminal *t)
{
	struct terminal *own = find(s, t->index, false);
	bool named = t->type == TTY_TYPE__EXT_TTY || (t->type == TTY_TYPE__CTTY && external_is_tty(d->request, to_rdev(t->device), 0));
	struct info i;

	info_init(&i, t,
		  t->type == TTY_TYPE__EXT_TTY ? id_of_external(s, t) :
		  t->hung_up		       ? TTY_ID_HUNG_UP(t->index) :
		  t->type == TTY_TYPE__PTY     ? TTY_ID_PTY(t->index, 0) :
		  t->type == TTY_TYPE__CTTY    ? TTY_ID_CURRENT(t->index) :
						 TTY_ID_DEVICE(major(t->st.st_rdev), minor(t->st.st_rdev)));
	i.e.has_hung_up = i.e.hung_up = t->hung_up;
	bool external = named || (!t->hung_up && i.e.pty && !(own && own->master >= 0));
	if (external && !named && !d->request->shell_job)
		return terminal_error(d, t, -ENOTSUP,
				      "is a terminal that belongs to someone outside the tree; use --shell-job to restore it on the terminal of the caller, or --external 'tty[…]' "
				      "to give it another");
	i.e.has_external = i.e.external = external;
	if (named) {
		i.e.rdev = (uint32_t)(t->type == TTY_TYPE__CTTY ? to_rdev(t->device) : t->st.st_rdev);
		i.e.has_dev = t->type == TTY_TYPE__EXT_TTY;
		i.e.dev = (uint32_t)t->st.st_dev;
	}
	if (!t->hung_up && t->type != TTY_TYPE__CTTY) {
		if (external || !i.e.pty)
			take_settings(&i, t->fd);
		take_session_of(d, t, &i);
	}
	return write_info(d, s, &i);
}

/* Sessions whose terminal is outside, by the user's word, and that nobody in the tree has open. */
static int add_sessions(struct dump *d)
{
	for (size_t i = 0; i < d->tasks.count; i++) {
		const struct task *t = d->tasks.data[i];
		const dev_t rdev = to_rdev((uint32_t)t->stat.tty);
		if (t->state == TASK_DEAD || t->pid != t->sid || !t->stat.tty || !external_is_tty(d->request, rdev, 0))
			continue;
		struct state *s = state_of(d);
		struct terminal *x = s ? find_external(s, rdev, 0) : NULL;
		if (!x && s && (x = VEC_PUSH(&s->terminals)))
			*x = (struct terminal){ .type = TTY_TYPE__EXT_TTY, .device = (uint32_t)t->stat.tty, .master = -1, .fd = -1, .st.st_rdev = rdev, .task = t };
		if (!x)
			return error_set(d->e, -ENOMEM, "out of memory");
	}
	return 0;
}

/* Sessions of the tree whose terminal nobody in it has open. */
static int check_sessions(struct dump *d, struct state *s)
{
	for (size_t i = 0; i < d->tasks.count; i++) {
		const struct task *t = d->tasks.data[i];
		uint32_t index;
		bool known = false;
		if (t->state == TASK_DEAD || t->pid != t->sid || !t->stat.tty || d->request->shell_job)
			continue;
		if (s && tty_is_slave(t->stat.tty, &index))
			known = find(s, index, false);
		if (s && !known)
			VEC_FOREACH(&s->terminals, x)
				known |= x->type != TTY_TYPE__PTY && x->type != TTY_TYPE__CTTY && x->device == (uint32_t)t->stat.tty;
		if (!known)
			return task_error(d, t, -ENOTSUP,
					  "has a controlling terminal that belongs to someone outside the tree; use --shell-job to restore it on the terminal of the caller");
	}
	return 0;
}

static int finish(struct dump *d, void **at, bool success)
{
	int r = success ? add_sessions(d) : 0;
	struct state *s = *at;

	if (!s)
		return success && !r ? check_sessions(d, NULL) : r;
	VEC_FOREACH(&s->terminals, t)
		if (success && !r)
			r = t->type == TTY_TYPE__PTY && t->master >= 0 && !t->hung_up ? finish_own(d, s, t) : finish_other(d, s, t);
	if (success && !r)
		r = check_sessions(d, s);
	struct image_file *files[] = { s->info, s->data };
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		int closed = files[i] ? image_close(files[i]) : 0;
		if (success && !r && closed)
			r = error_errno(d->e, closed, "cannot write what terminals hold");
	}
	VEC_FOREACH(&s->terminals, t) {
		if (t->master >= 0)
			close(t->master);
		if (t->fd >= 0)
			close(t->fd);
	}
	VEC_FREE(&s->terminals);
	free(s);
	*at = NULL;
	return r;
}

const struct kind kind_tty = {
	.name = "a terminal",
	.summary = "Pseudo-terminals with both ends in the tree: data under way, settings, size, session and foreground group, packet and "
		   "exclusive mode, locked settings; the caller's terminal with --shell-job; others outside with --external and --inherit-fd; consoles, "
		   "virtual terminals and serial lines by name, with their settings and session",
	.type = FD_TYPES__TTY,
	.recognise = recognise,
	.capture = capture,
	.finish = finish,
	.create = tty_create,
	.fill = tty_fill,
	.settle = tty_settle,
	.release = tty_release,
};
