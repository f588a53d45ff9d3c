/*
 * Stores from which a checkpoint was removed: what only that needed goes by `fermata store prune`, a helper. One at a time, a moment after the
 * removal, so that several removals are one prune, and with rests that are long beside the work, since the next may come soon.
 */
#include "daemon/daemon.h"

#include "base/log.h"
#include "base/store_path.h"
#include "daemon/helper.h"

#include <sys/wait.h>

#define DELAY_NS 5000000000LL
#define REST 20 /* times as long as the last one took */

void prune_want(struct daemon *d, const char *path)
{
	struct pruner *p = &d->pruner;
	char dir[STORE_PATH_MAX];

	if (!store_is_path(path))
		return;
	snprintf(dir, sizeof(dir), "%.*s", (int)(strrchr(path, '/') - path), path);
	pthread_mutex_lock(&d->lock);
	bool known = false;
	VEC_FOREACH(&p->wanted, w)
		known |= !strcmp(w->dir, dir);
	struct wanted_prune *w = known ? NULL : VEC_PUSH(&p->wanted);
	if (w)
		memcpy(w->dir, dir, sizeof(dir));
	p->next_ns = MAX(p->next_ns, now_ns() + DELAY_NS);
	pthread_mutex_unlock(&d->lock);
	daemon_wake(d);
}

/* With the lock held: the one that has waited longest. */
static bool take(struct pruner *p, char dir[STORE_PATH_MAX])
{
	if (!p->wanted.count || p->pid || now_ns() < p->next_ns)
		return false;
	memcpy(dir, p->wanted.data[0].dir, STORE_PATH_MAX);
	memmove(p->wanted.data, p->wanted.data + 1, --p->wanted.count * sizeof(*p->wanted.data));
	return true;
}

static void look_at_helper(struct pruner *p)
{
	int status;

	if (!p->pid || waitpid(p->pid, &status, WNOHANG) == 0)
		return;
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		log_warning("a store could not be pruned; fermata store prune says why");
	p->pid = 0;
	p->next_ns = MAX(p->next_ns, now_ns() + REST * (now_ns() - p->started_ns));
}

long long prune_tend(struct daemon *d)
{
	struct pruner *p = &d->pruner;
	char dir[STORE_PATH_MAX];
	struct error e = {};

	pthread_mutex_lock(&d->lock);
	look_at_helper(p);
	if (take(p, dir)) {
		char *const argv[] = { (char *)"fermata", (char *)"store", (char *)"prune", dir, (char *)"--no-server", NULL };
		p->started_ns = now_ns();
		if (daemon_helper_start(argv, -1, -1, -1, &p->pid, &e)) {
			log_warning("cannot prune %s: %s", dir, e.text);
			p->pid = 0;
		}
	}
	bool waits = p->wanted.count || p->pid;
	pthread_mutex_unlock(&d->lock);
	return waits ? 1000 : 3600000;
}
