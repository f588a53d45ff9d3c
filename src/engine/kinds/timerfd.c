/*
 * timerfd_create(2): clock, time left, interval and expirations that were not read, from fdinfo. The time left goes on from
 * where it was, as that of the other timers does, also for one that was set to an absolute time.
 */
#include "engine/kinds/anon.h"
#include "engine/task/task.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>

#ifndef TFD_IOC_SET_TICKS
#define TFD_IOC_SET_TICKS _IOW('T', 0, uint64_t)
#endif

static bool recognise(const struct descriptor *f)
{
	return anon_is(f, "timerfd");
}

static bool parse_time(const char *text, uint64_t *sec, uint64_t *nsec)
{
	unsigned long long s, n;

	if (!text || sscanf(text, "(%llu, %llu)", &s, &n) != 2)
		return false;
	*sec = s;
	*nsec = n;
	return true;
}

static int capture(struct dump *d, struct descriptor *f)
{
	FileEntry entry = FILE_ENTRY__INIT;
	TimerfdEntry e = TIMERFD_ENTRY__INIT;
	_cleanup_free_ char *text = NULL;
	struct itimerspec now;
	char path[64];

	/* Expirations of an interval are counted when someone asks: do, then look again. */
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", f->own_fd);
	if (timerfd_gettime(f->own_fd, &now) == 0 && !read_file_at(AT_FDCWD, path, 1 << 16, &text, NULL)) {
		free(f->fdinfo);
		f->fdinfo = TAKE_PTR(text);
	}
	const char *clock = fdinfo_value(f, "clockid"), *ticks = fdinfo_value(f, "ticks"), *flags = fdinfo_value(f, "settime flags");

	if (!clock || !ticks || !flags || !parse_time(fdinfo_value(f, "it_value"), &e.vsec, &e.vnsec) ||
	    !parse_time(fdinfo_value(f, "it_interval"), &e.isec, &e.insec))
		return fd_error(d, f, -ENOTSUP, "does not tell its setting (Linux 3.17)");
	e.id = f->id;
	e.flags = f->flags;
	e.fown = f->fown;
	e.clockid = (uint32_t)atoi(clock);
	e.ticks = strtoull(ticks, NULL, 10);
	e.settime_flags = (uint32_t)strtoul(flags, NULL, 8);
	entry.tfd = &e;
	return file_entry_write(d, &entry, f, FD_TYPES__TIMERFD);
}

/* As what it was set with: relative, or the absolute time at which what is left is over. */
static int arm(int fd, const TimerfdEntry *e)
{
	struct itimerspec v = { { (time_t)e->isec, (long)e->insec }, { (time_t)e->vsec, (long)e->vnsec } };
	struct timespec now;

	if (e->settime_flags & TFD_TIMER_ABSTIME && (e->vsec || e->vnsec)) {
		clockid_t clock = e->clockid == 8 ? CLOCK_REALTIME : e->clockid == 9 ? CLOCK_BOOTTIME : (clockid_t)e->clockid;
		if (clock_gettime(clock, &now) < 0)
			return -errno;
		v.it_value.tv_sec += now.tv_sec;
		v.it_value.tv_nsec += now.tv_nsec;
		if (v.it_value.tv_nsec >= 1000000000) {
			v.it_value.tv_sec++;
			v.it_value.tv_nsec -= 1000000000;
		}
	}
	return timerfd_settime(fd, (int)e->settime_flags, &v, NULL) < 0 ? -errno : 0;
}

static int create(struct restore *s, struct file *f, int *ret_fd)
{
	const TimerfdEntry *e = f->entry->tfd;

	if (!e)
		return error_set(s->e, -EBADMSG, "file %u lacks its entry", f->id);
	int fd = timerfd_create((int)e->clockid, TFD_CLOEXEC | ((int)e->flags & TFD_NONBLOCK));
	if (fd < 0)
		return error_errno(s->e, -errno, "cannot make a timerfd");
	*ret_fd = fd;
	return 0;
}

/* As late as can be, so that the making of the rest does not count. */
static int settle(struct restore *s, struct file *f)
{
	const TimerfdEntry *e = f->entry->tfd;
	int r = arm(f->fd, e);

	if (!r && e->ticks && ioctl(f->fd, TFD_IOC_SET_TICKS, &e->ticks) < 0)
		r = -errno;
	return r ? error_errno(s->e, r, "cannot set a timerfd") : 0;
}

const struct kind kind_timerfd = {
	.name = "a timerfd",
	.summary = "timerfd: clock, time left, interval, expirations that were not read",
	.type = FD_TYPES__TIMERFD,
	.recognise = recognise,
	.capture = capture,
	.create = create,
	.settle = settle,
};
