/*
 * timerfd_create(2): clock, time left, interval and expirations that were not read, from fdinfo. One that was set to a time of day
 * (TFD_TIMER_ABSTIME and CLOCK_REALTIME) runs out at that time, with all expirations between dump and restore counted. Of all
 * others the time left goes on from where it was, as that of the other timers does, also of one that was set to an absolute time: the
 * other clocks are those of a boot.
 *
 * Left out: that the clock was set (TFD_TIMER_CANCEL_ON_SET) and nobody has read so yet; it is not to be seen.
 */
#include "engine/kinds/anon.h"
#include "engine/task/task.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <time.h>

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

static bool is_time_of_day(const TimerfdEntry *e)
{
	return e->settime_flags & TFD_TIMER_ABSTIME && (e->clockid == CLOCK_REALTIME || e->clockid == CLOCK_REALTIME_ALARM) && (e->vsec || e->vnsec);
}

/*
 * Expirations of an interval are counted, and the next one is set, when someone asks: do, then look. One that runs out between the two looks
 * like one that is not set.
 */
static void refresh(struct descriptor *f)
{
	struct itimerspec now;
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", f->own_fd);
	for (int tries = 0; tries < 10; tries++) {
		uint64_t sec, nsec;
		char *text;
		if (timerfd_gettime(f->own_fd, &now) < 0 || read_file_at(AT_FDCWD, path, 1 << 16, &text, NULL))
			return;
		free(f->fdinfo);
		f->fdinfo = text;
		bool set = now.it_value.tv_sec || now.it_value.tv_nsec, ticks = now.it_interval.tv_sec || now.it_interval.tv_nsec;
		if (!set || !ticks || !parse_time(fdinfo_value(f, "it_value"), &sec, &nsec) || sec || nsec)
			return;
	}
}

static int capture(struct dump *d, struct descriptor *f)
{
	FileEntry entry = FILE_ENTRY__INIT;
	TimerfdEntry e = TIMERFD_ENTRY__INIT;
	struct timespec clock_now;

	refresh(f);
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
	/* One that runs out again and again before it is looked at, on a slow machine: it must go on, while a time of 0 would end it. */
	if (e.ticks && (e.isec || e.insec) && !e.vsec && !e.vnsec)
		e.vnsec = 1;
	if (is_time_of_day(&e)) {
		clock_gettime(CLOCK_REALTIME, &clock_now);
		uint64_t nsec = (uint64_t)clock_now.tv_nsec + e.vnsec;
		e.has_until_sec = e.has_until_nsec = 1;
		e.until_sec = clock_now.tv_sec + (int64_t)e.vsec + (int64_t)(nsec / 1000000000);
		e.until_nsec = (uint32_t)(nsec % 1000000000);
	}
	entry.tfd = &e;
	return file_entry_write(d, &entry, f, FD_TYPES__TIMERFD);
}

static int64_t between(const struct timespec *from, const struct timespec *to)
{
	return (to->tv_sec - from->tv_sec) * 1000000000 + to->tv_nsec - from->tv_nsec;
}

static void add_ns(struct timespec *t, uint64_t ns)
{
	t->tv_sec += (time_t)(ns / 1000000000);
	t->tv_nsec += (long)(ns % 1000000000);
	if (t->tv_nsec >= 1000000000) {
		t->tv_sec++;
		t->tv_nsec -= 1000000000;
	}
}

/* At a time of day: an interval's expirations that are over are counted, and the next one is set. */
static void set_until(const TimerfdEntry *e, const struct timespec *now, struct itimerspec *v, uint64_t *ticks)
{
	v->it_value = (struct timespec){ (time_t)e->until_sec, (long)e->until_nsec };
	bool small = e->isec < 1ULL << 32 && now->tv_sec - e->until_sec < 1LL << 32 && now->tv_sec >= e->until_sec;
	uint64_t interval = e->isec * 1000000000 + e->insec;
	int64_t late = small ? between(&v->it_value, now) : -1;
	if (late < 0 || !interval)
		return;
	uint64_t missed = (uint64_t)late / interval + 1;
	add_ns(&v->it_value, missed * interval);
	*ticks += missed;
}

/* As what it was set with: relative, or the absolute time at which what is left is over. */
static int arm(int fd, const TimerfdEntry *e, uint64_t *ticks)
{
	struct itimerspec v = { { (time_t)e->isec, (long)e->insec }, { (time_t)e->vsec, (long)e->vnsec } };
	struct timespec now;

	if (e->settime_flags & TFD_TIMER_ABSTIME && (e->vsec || e->vnsec)) {
		clockid_t clock = e->clockid == CLOCK_REALTIME_ALARM ? CLOCK_REALTIME :
				  e->clockid == CLOCK_BOOTTIME_ALARM ? CLOCK_BOOTTIME : (clockid_t)e->clockid;
		if (clock_gettime(clock, &now) < 0)
			return -errno;
		if (e->has_until_sec && e->has_until_nsec && e->until_nsec < 1000000000) {
			set_until(e, &now, &v, ticks);
		} else {
			v.it_value.tv_sec += now.tv_sec;
			add_ns(&v.it_value, (uint64_t)now.tv_nsec);
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
	uint64_t ticks = e->ticks;
	int r = arm(f->fd, e, &ticks);

	if (!r && ticks && ioctl(f->fd, TFD_IOC_SET_TICKS, &ticks) < 0)
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
