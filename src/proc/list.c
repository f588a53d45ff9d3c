/* Lists of threads, descriptors, children and timers; see proc.h. */
#include "proc/proc.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>

/* What a folder whose names are numbers holds. */
struct numbers {
	int *data;
	size_t count, capacity;
};

static int by_number(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

/* In their order. */
static int list_numbers(pid_t pid, const char *what, struct numbers *ret)
{
	struct numbers numbers = {};
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, what);
	DIR *dir = opendir(path);
	if (!dir)
		return -errno;
	for (struct dirent *entry; (entry = readdir(dir));) {
		if (entry->d_name[0] == '.')
			continue;
		int *number = VEC_PUSH(&numbers);
		if (!number) {
			closedir(dir);
			VEC_FREE(&numbers);
			return -ENOMEM;
		}
		*number = atoi(entry->d_name);
	}
	closedir(dir);
	if (numbers.count)
		qsort(numbers.data, numbers.count, sizeof(int), by_number);
	*ret = numbers;
	return 0;
}

int proc_list_fds(pid_t pid, struct proc_fds *ret)
{
	struct numbers fds;
	int r = list_numbers(pid, "fd", &fds);

	if (!r)
		*ret = (struct proc_fds){ fds.data, fds.count, fds.capacity };
	return r;
}

int proc_list_threads(pid_t pid, struct proc_pids *ret)
{
	struct numbers tids;
	int r = list_numbers(pid, "task", &tids);

	if (r)
		return r;
	/* The leader first, whatever its number: ids may have wrapped. */
	for (size_t i = 1; i < tids.count; i++)
		if (tids.data[i] == pid) {
			memmove(&tids.data[1], &tids.data[0], i * sizeof(pid_t));
			tids.data[0] = pid;
		}
	*ret = (struct proc_pids){ tids.data, tids.count, tids.capacity };
	return 0;
}

int proc_list_children(pid_t pid, pid_t tid, struct proc_pids *ret)
{
	_cleanup_free_ char *text = NULL;
	struct proc_pids pids = {};
	char path[64], *at, *end;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, tid);
	int r = read_file_at(AT_FDCWD, path, 16 << 20, &text, NULL);
	if (r)
		return r;
	for (at = text; *at; at = end) {
		long number = strtol(at, &end, 10);
		if (end == at)
			break;
		pid_t *child = VEC_PUSH(&pids);
		if (!child) {
			VEC_FREE(&pids);
			return -ENOMEM;
		}
		*child = (pid_t)number;
		while (*end == ' ')
			end++;
	}
	*ret = pids;
	return 0;
}

#define THREAD_READER(what, type) \
	int proc_read_thread_##what(pid_t pid, pid_t tid, type *ret) \
	{ \
		_cleanup_free_ char *text = NULL; \
		char path[64]; \
		snprintf(path, sizeof(path), "/proc/%d/task/%d/" #what, pid, tid); \
		int r = read_small_at(AT_FDCWD, path, 64 << 20, &text, NULL); \
		return r ? r : proc_parse_##what(text, ret); \
	}
THREAD_READER(stat, struct proc_stat)
THREAD_READER(status, struct proc_status)

/* "signal/tid.4127" and the like: how it notifies, and whom. */
static int parse_notify(const char *word, struct proc_timer *t)
{
	int who;

	if (sscanf(word, "signal/tid.%d", &who) == 1) {
		t->notify = SIGEV_THREAD_ID;
		t->tid = who;
	} else if (sscanf(word, "signal/pid.%d", &who) == 1) {
		t->notify = SIGEV_SIGNAL;
	} else if (sscanf(word, "thread/pid.%d", &who) == 1) {
		t->notify = SIGEV_THREAD;
	} else if (!strncmp(word, "none/", 5)) {
		t->notify = SIGEV_NONE;
		if (sscanf(word, "none/tid.%d", &who) == 1)
			t->tid = who;
	} else {
		return -EBADMSG;
	}
	return 0;
}

int proc_parse_timers(const char *text, struct proc_timers *ret)
{
	struct proc_timers timers = {};
	struct proc_timer t;
	int r = 0, used;

	for (const char *at = text; *at && !r; at += used) {
		unsigned long value;
		char word[48];
		t = (struct proc_timer){};
		if (sscanf(at, "ID: %d signal: %d/%lx notify: %47s ClockID: %d %n", &t.id, &t.signal, &value, word, &t.clock, &used) != 5) {
			r = -EBADMSG;
			break;
		}
		t.sigev_value = value;
		r = parse_notify(word, &t);
		struct proc_timer *slot = r ? NULL : VEC_PUSH(&timers);
		if (slot)
			*slot = t;
		else
			r = r ? r : -ENOMEM;
	}
	if (r) {
		VEC_FREE(&timers);
		return r;
	}
	*ret = timers;
	return 0;
}

int proc_read_timers(pid_t pid, struct proc_timers *ret)
{
	_cleanup_free_ char *text = NULL;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/timers", pid);
	int r = read_file_at(AT_FDCWD, path, 1 << 20, &text, NULL);
	return r ? r : proc_parse_timers(text, ret);
}
