/* See clocks.h. */
#include "engine/task/clocks.h"

#include "base/log.h"
#include "engine/constants.h"
#include "engine/task/task.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <time.h>

#define NS_PER_S 1000000000LL
#define BOOT_ID "/proc/sys/kernel/random/boot_id"
#define OFFSETS_MAX 4096

static const clockid_t clocks[CLOCKS] = { CLOCK_MONOTONIC, CLOCK_BOOTTIME };
static const char *const names[CLOCKS] = { "monotonic", "boottime" };

/* As whoever calls sees them. */
static void read_clocks(int64_t ret[CLOCKS])
{
	struct timespec now;

	for (int i = 0; i < CLOCKS; i++) {
		clock_gettime(clocks[i], &now);
		ret[i] = now.tv_sec * NS_PER_S + now.tv_nsec;
	}
}

/* How much the clocks of a process are ahead of the machine's: "monotonic SECONDS NANOSECONDS", a line each. 0 where there are no such namespaces. */
static void read_offsets(pid_t pid, int64_t ret[CLOCKS])
{
	_cleanup_free_ char *text = NULL;
	long long seconds, nanoseconds;
	char path[64], format[32];

	memset(ret, 0, CLOCKS * sizeof(*ret));
	snprintf(path, sizeof(path), "/proc/%d/timens_offsets", pid);
	if (read_file_at(AT_FDCWD, path, OFFSETS_MAX, &text, NULL))
		return;
	for (int i = 0; i < CLOCKS; i++) {
		const char *line = strstr(text, names[i]);
		snprintf(format, sizeof(format), "%s %%lld %%lld", names[i]);
		if (line && sscanf(line, format, &seconds, &nanoseconds) == 2)
			ret[i] = seconds * NS_PER_S + nanoseconds;
	}
}

static void read_boot(char ret[BOOT_ID_SIZE])
{
	_cleanup_free_ char *text = NULL;

	ret[0] = '\0';
	if (!read_file_at(AT_FDCWD, BOOT_ID, 100, &text, NULL))
		snprintf(ret, BOOT_ID_SIZE, "%.*s", (int)strcspn(text, "\n"), text);
}

/* ---- dump ---- */

void clocks_capture(const struct dump *d, FermataClocksEntry *to, char boot[BOOT_ID_SIZE])
{
	int64_t now[CLOCKS], own[CLOCKS], theirs[CLOCKS];

	fermata_clocks_entry__init(to);
	read_boot(boot);
	to->boot_id = boot;
	read_offsets(getpid(), own);
	read_offsets(d->request->pid, theirs);
	read_clocks(now);
	to->monotonic = now[0] + theirs[0] - own[0];
	to->boottime = now[1] + theirs[1] - own[1];
	to->has_monotonic_offset = to->has_boottime_offset = memcmp(own, theirs, sizeof(own)) != 0;
	to->monotonic_offset = theirs[0];
	to->boottime_offset = theirs[1];
}

/* ---- restore ---- */

struct clocks_parent {
	struct restore *s;
	int (*birth)(struct restore *s);
	int result;
	pthread_t thread;
	sem_t born, end;
};

int clocks_prepare(struct restore *s)
{
	const FermataClocksEntry *e = s->inventory->clocks;
	int64_t now[CLOCKS], own[CLOCKS];
	char boot[BOOT_ID_SIZE];

	if (!e)
		return 0;
	if (e->monotonic < 0 || e->boottime < 0)
		return error_set(s->e, -EBADMSG, "inventory.img has clocks that can't be");
	read_boot(boot);
	read_clocks(now);
	read_offsets(getpid(), own);
	const bool same = boot[0] && e->boot_id && !strcmp(boot, e->boot_id);
	const int64_t saved[CLOCKS] = { e->monotonic, e->boottime }, before[CLOCKS] = { e->monotonic_offset, e->boottime_offset };
	s->clocks.moved = !same || e->has_monotonic_offset || now[0] < saved[0];
	for (int i = 0; i < CLOCKS; i++) {
		s->clocks.offset[i] = same && e->has_monotonic_offset ? before[i] : own[i] + saved[i] - now[i];
		s->clocks.behind[i] = saved[i] - now[i];
	}
	return 0;
}

/* What this thread makes from now on has the tree's clocks. */
static int enter_namespace(struct restore *s)
{
	char path[64], text[128];
	size_t used = 0;

	if (unshare(CLONE_NEWTIME) < 0)
		return -errno;
	for (int i = 0; i < CLOCKS; i++) {
		int64_t seconds = s->clocks.offset[i] / NS_PER_S, rest = s->clocks.offset[i] % NS_PER_S;
		if (rest < 0) {
			rest += NS_PER_S;
			seconds--;
		}
		used += (size_t)snprintf(text + used, sizeof(text) - used, "%s %lld %lld\n", names[i], (long long)seconds, (long long)rest);
	}
	/* A thread has no such file among those of its process, but under its own number. */
	snprintf(path, sizeof(path), "/proc/%d/timens_offsets", (int)syscall(__NR_gettid));
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
	return fd < 0 || write(fd, text, used) != (ssize_t)used ? -errno : 0;
}

void clocks_unshare(struct restore *s)
{
	const int64_t behind = s->clocks.behind[0];
	int r = s->clocks.moved ? enter_namespace(s) : 0;

	if (r && behind > 0)
		log_warning("CLOCK_MONOTONIC of the restored processes goes back by %lld s, since they can't have a time namespace (%s): what waits until a "
			    "moment waits that much longer", (long long)(behind / NS_PER_S), strerror(-r));
}

static void *parent_main(void *argument)
{
	struct clocks_parent *p = argument;

	clocks_unshare(p->s);
	/* The root is to have none; memory_plan_clear leaves that out. */
	if (__rseq_size)
		syscall(__NR_rseq, (char *)__builtin_thread_pointer() + __rseq_offset, 32, RSEQ_FLAG_UNREGISTER, RSEQ_SIG);
	p->result = p->birth(p->s);
	sem_post(&p->born);
	while (sem_wait(&p->end) < 0)
		;
	return NULL;
}

int clocks_birth(struct restore *s, int (*birth)(struct restore *s))
{
	struct clocks_parent *p;

	if (!s->clocks.moved || s->ns.seed)
		return birth(s);
	p = calloc(1, sizeof(*p));
	if (!p)
		return error_set(s->e, -ENOMEM, "out of memory");
	p->s = s;
	p->birth = birth;
	sem_init(&p->born, 0, 0);
	sem_init(&p->end, 0, 0);
	int r = pthread_create(&p->thread, NULL, parent_main, p);
	if (r) {
		free(p);
		return error_errno(s->e, -r, "cannot start a thread");
	}
	s->clocks.parent = p;
	while (sem_wait(&p->born) < 0)
		;
	return p->result;
}

/* PR_SET_PDEATHSIG: the end of the thread that made it would be told to the root. */
static bool asks_for_end(const struct restore *s)
{
	const struct rtask *root = s->tasks.data[0];

	for (size_t i = 0; i < root->threads.count; i++) {
		const CoreEntry *c = root->threads.data[i].core;
		if (c && c->thread_core && c->thread_core->pdeath_sig)
			return true;
	}
	return false;
}

void clocks_release(struct restore *s)
{
	struct clocks_parent *p = TAKE_PTR(s->clocks.parent);

	if (!p)
		return;
	/* It stays, as long as we do. */
	if (s->succeeded && asks_for_end(s)) {
		pthread_detach(p->thread);
		return;
	}
	sem_post(&p->end);
	pthread_join(p->thread, NULL);
	sem_destroy(&p->born);
	sem_destroy(&p->end);
	free(p);
}
