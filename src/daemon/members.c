/*
 * All processes of a job: not only those below its first one, but those too that have gone to the background, whose parents have ended. All descend from
 * the job's supervisor, which is a subreaper and stays until the last of them has ended. A job that is restored has a new one, and what an earlier run has
 * left stays with that one's, which are noted in the job's folder. Only when a supervisor was killed are they lost, but for those of the job's session.
 */
#include "daemon/daemon.h"

#include "proc/proc.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>

#define EARLIER "earlier" /* in the job's folder: a line for each earlier supervisor that had something left */
#define EARLIER_MAX (64u << 10)
#define REST_MS 2000
#define NAMED_MAX 10 /* processes that are named in a message */

static void earlier_path(const struct daemon *d, const struct job *j, char path[STORE_PATH_MAX + 200])
{
	snprintf(path, STORE_PATH_MAX + 200, "%s/%s/" EARLIER, d->jobs_dir, j->jid);
}

void members_note_supervisor(struct daemon *d, const struct job *j)
{
	char path[STORE_PATH_MAX + 200];

	if (!identity_alive(&j->supervisor))
		return;
	earlier_path(d, j, path);
	FILE *f = fopen(path, "ae");
	if (!f)
		return;
	fprintf(f, "%lld %lld %s\n", (long long)j->supervisor.pid, (long long)j->supervisor.start, j->supervisor.boot);
	fclose(f);
}

/* This run's and earlier ones', those that live. */
typedef VEC(struct identity) supervisors;

static void add_supervisor(supervisors *list, const struct identity *who)
{
	for (size_t i = 0; i < list->count; i++)
		if (list->data[i].pid == who->pid)
			return;
	struct identity *slot = who->pid > 0 && identity_alive(who) ? VEC_PUSH(list) : NULL;
	if (slot)
		*slot = *who;
}

static void find_supervisors(struct daemon *d, const struct job *j, supervisors *ret)
{
	char path[STORE_PATH_MAX + 200], *text = NULL;

	add_supervisor(ret, &j->supervisor);
	earlier_path(d, j, path);
	if (read_file_at(AT_FDCWD, path, EARLIER_MAX, &text, NULL) == 0)
		for (char *save = NULL, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
			long long pid, start;
			struct identity who = {};
			if (sscanf(line, "%lld %lld %39s", &pid, &start, who.boot) != 3)
				continue;
			who.pid = pid;
			who.start = start;
			add_supervisor(ret, &who);
		}
	free(text);
}

static bool tree_has(const struct tree *t, pid_t pid)
{
	for (size_t i = 0; i < t->count; i++)
		if (t->data[i] == pid)
			return true;
	return false;
}

/* What the daemon's own programs are called that a restore leaves with it: who brings its memory, the first process of a namespace. */
static bool is_own(pid_t pid)
{
	struct proc_stat stat;

	return proc_read_stat(pid, &stat) == 0 && !strncmp(stat.comm, "fermata", 7);
}

int members_list_strays(struct daemon *d, const struct job *j, struct tree *ret)
{
	supervisors list = {};
	struct tree own = {};
	int r = j->process.pid > 0 && identity_state(&j->process) > 0 ? tree_list((pid_t)j->process.pid, &own) : 0;

	find_supervisors(d, j, &list);
	for (size_t i = 0; !r && i < list.count; i++) {
		struct tree all = {};
		r = tree_list((pid_t)list.data[i].pid, &all);
		for (size_t k = 1; !r && k < all.count; k++) {
			pid_t *slot = tree_has(&own, all.data[k]) || process_is_dead(all.data[k]) || is_own(all.data[k]) ? NULL : VEC_PUSH(ret);
			if (slot)
				*slot = all.data[k];
		}
		VEC_FREE(&all);
	}
	VEC_FREE(&list);
	VEC_FREE(&own);
	return r;
}

int members_require_owner(struct daemon *d, const struct job *j, uid_t uid, struct error *e)
{
	struct tree strays = {};
	int r = uid && job_runs(j) ? tree_require_owner((pid_t)j->process.pid, uid, e) : 0;

	if (!r && uid && members_list_strays(d, j, &strays))
		r = error_set(e, -ENOMEM, "out of memory");
	for (size_t i = 0; !r && i < strays.count; i++) {
		r = tree_require_owner(strays.data[i], uid, e);
		r = r == -ESRCH ? 0 : r;
	}
	VEC_FREE(&strays);
	return r;
}

void members_describe(const struct tree *t, char *to, size_t size)
{
	size_t used = 0;

	to[0] = '\0';
	for (size_t i = 0; i < t->count && used < size; i++) {
		struct proc_stat stat;
		if (i == NAMED_MAX) {
			snprintf(to + used, size - used, " and %zu more", t->count - i);
			break;
		}
		used += (size_t)snprintf(to + used, size - used, "%s%d (%s)", i ? ", " : "", t->data[i], proc_read_stat(t->data[i], &stat) ? "?" : stat.comm);
	}
}

/* Those of the session that the job's first process led, before it went: its number is kept from others while they have it. */
static void list_session(const struct identity *leader, struct tree *ret)
{
	const int state = identity_state(leader);
	struct identity now;
	/* Of another boot the number may be anybody's. */
	const bool same_boot = identity_of(getpid(), &now) == 0 && !strcmp(now.boot, leader->boot);
	DIR *dir = leader->pid > 0 && same_boot && (state == 0 || state == 'Z') ? opendir("/proc") : NULL;

	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		struct proc_stat stat;
		pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
		if (pid <= 0 || proc_read_stat(pid, &stat) || stat.session != (pid_t)leader->pid || (int64_t)stat.start_time < leader->start ||
		    stat.state == 'Z' || stat.state == 'X' || tree_has(ret, pid))
			continue;
		pid_t *slot = VEC_PUSH(ret);
		if (slot)
			*slot = pid;
	}
	if (dir)
		closedir(dir);
}

/* What is another's by now, root's by sudo(8) for one, is not ended for the user of the job. */
static void leave_others(const struct job *j, struct tree *t)
{
	struct error ignored;
	size_t kept = 0;

	for (size_t i = 0; i < t->count; i++)
		if (!j->uid || tree_require_owner(t->data[i], (uid_t)j->uid, &ignored) == 0)
			t->data[kept++] = t->data[i];
	t->count = kept;
}

/* Each supervisor goes when it has waited for the last of its own. */
static bool supervisors_wait(struct daemon *d, const struct job *j)
{
	supervisors list = {};

	find_supervisors(d, j, &list);
	const bool waits = list.count > 0;
	VEC_FREE(&list);
	return waits;
}

size_t members_end(struct daemon *d, const struct job *j, char *names, size_t size)
{
	size_t most = 0;

	names[0] = '\0';
	for (int ms = 0; ms < REST_MS; ms += 10) {
		struct tree rest = {};
		if (members_list_strays(d, j, &rest) == 0)
			list_session(&j->process, &rest);
		leave_others(j, &rest);
		if (rest.count > most) {
			members_describe(&rest, names, size);
			most = rest.count;
		}
		for (size_t i = 0; i < rest.count; i++)
			kill(rest.data[i], SIGKILL);
		const size_t count = rest.count;
		VEC_FREE(&rest);
		if (!count && !supervisors_wait(d, j))
			break;
		usleep(10000);
	}
	return most;
}
