/* See identity.h. /proc/PID/stat field 22 is the start time, in clock ticks after boot. */
#include "daemon/identity.h"

#include "gpu/gpu.h"
#include "proc/freezer.h"
#include "proc/proc.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>

#define ROUNDS_MAX 1000
#define HOLD_MS 10000
#define STOP_MS 2000
#define MAPS_MAX (64u << 20)

/* It stays while we live, and is asked for each time that anybody is looked at. */
static char own_boot[40];
static pthread_once_t boot_once = PTHREAD_ONCE_INIT;

static void read_boot_once(void)
{
	char *text = NULL;

	if (read_file_at(AT_FDCWD, "/proc/sys/kernel/random/boot_id", 100, &text, NULL) == 0) {
		text[strcspn(text, "\n")] = '\0';
		snprintf(own_boot, sizeof(own_boot), "%.39s", text);
	}
	free(text);
}

static const char *read_boot(void)
{
	pthread_once(&boot_once, read_boot_once);
	return own_boot;
}

int identity_of(pid_t pid, struct identity *ret)
{
	struct proc_stat stat;
	int r = proc_read_stat(pid, &stat);

	if (r)
		return r == -ENOENT ? -ESRCH : r;
	ret->pid = pid;
	ret->start = (int64_t)stat.start_time;
	snprintf(ret->boot, sizeof(ret->boot), "%s", read_boot());
	return 0;
}

int identity_state(const struct identity *who)
{
	struct proc_stat stat;

	if (who->pid <= 0)
		return 0;
	if (strcmp(read_boot(), who->boot) || proc_read_stat((pid_t)who->pid, &stat))
		return 0;
	return (int64_t)stat.start_time == who->start ? stat.state : -1;
}

bool identity_alive(const struct identity *who)
{
	int state = identity_state(who);

	return state > 0 && state != 'Z' && state != 'X';
}

int identity_open(const struct identity *who)
{
	int fd = who->pid > 0 ? (int)syscall(SYS_pidfd_open, (pid_t)who->pid, 0) : -1;

	if (fd < 0)
		return -ESRCH;
	if (identity_alive(who))
		return fd;
	close(fd);
	return -ESRCH;
}

static int add(struct tree *t, pid_t pid)
{
	pid_t *slot = VEC_PUSH(t);

	if (!slot)
		return -ENOMEM;
	*slot = pid;
	return 0;
}

int tree_list(pid_t root, struct tree *ret)
{
	int r = add(ret, root);

	for (size_t i = 0; !r && i < ret->count; i++) {
		struct proc_pids threads = {};
		if (proc_list_threads(ret->data[i], &threads) == 0)
			for (size_t k = 0; !r && k < threads.count; k++) {
				struct proc_pids children = {};
				if (proc_list_children(ret->data[i], threads.data[k], &children) == 0)
					for (size_t c = 0; !r && c < children.count; c++)
						r = add(ret, children.data[c]);
				free(children.data);
			}
		free(threads.data);
	}
	return r;
}

/* What the kernel's page tables say: pages of its own, or shared without a file, here or in swap. */
static uint64_t memory_of(pid_t pid)
{
	static const char *const lines[] = { "\nRssAnon:", "\nRssShmem:", "\nVmSwap:", "\nHugetlbPages:" };
	char path[40], *text = NULL;
	uint64_t sum = 0;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	if (read_file_at(AT_FDCWD, path, 1 << 16, &text, NULL) == 0)
		for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
			const char *line = strstr(text, lines[i]);
			sum += line ? strtoull(line + strlen(lines[i]), NULL, 10) << 10 : 0;
		}
	free(text);
	return sum;
}

uint64_t tree_memory(pid_t root)
{
	struct tree t = {};
	uint64_t sum = 0;

	if (tree_list(root, &t))
		sum = UINT64_MAX;
	for (size_t i = 0; i < t.count && sum != UINT64_MAX; i++)
		sum += memory_of(t.data[i]);
	VEC_FREE(&t);
	return sum;
}

bool process_is_dead(pid_t pid)
{
	struct proc_stat stat;

	return proc_read_stat(pid, &stat) == 0 && (stat.state == 'Z' || stat.state == 'X') && stat.num_threads <= 1;
}

/* A signal is sent, not yet heard: whoever is told that it stands still must find it so. */
static bool all_stopped(const struct tree *t)
{
	for (size_t i = 0; i < t->count; i++) {
		struct proc_stat stat;
		if (proc_read_stat(t->data[i], &stat) == 0 && !strchr("TtZX", stat.state))
			return false;
	}
	return true;
}

static int signal_all(pid_t root, bool stop, struct error *e)
{
	size_t before = 0;

	for (int round = 0; round < ROUNDS_MAX; round++) {
		struct tree t = {};
		int r = tree_list(root, &t);
		for (size_t i = 0; !r && i < t.count; i++)
			if (kill(t.data[i], stop ? SIGSTOP : SIGCONT) < 0 && errno != ESRCH)
				r = -errno;
		for (int ms = 0; !r && stop && ms < STOP_MS && !all_stopped(&t); ms++)
			usleep(1000);
		size_t count = t.count;
		VEC_FREE(&t);
		if (r)
			return error_errno(e, r, "cannot %s process %d", stop ? "stop" : "continue", root);
		if (!stop || count == before)
			return 0;
		before = count;
	}
	return error_set(e, -EBUSY, "the tree of process %d makes new processes faster than they can be stopped", root);
}

/* Gives how many of the tree the freezer held, or a negative errno. */
static int release_all(pid_t root)
{
	struct tree t = {};
	int r = tree_list(root, &t), released = 0;

	for (size_t i = 0; i < t.count; i++) {
		int one = freezer_release(t.data[i]);
		released += one > 0;
		if (one < 0 && one != -ESRCH && one != -ENOENT && !r)
			r = one;
	}
	VEC_FREE(&t);
	return r ? r : released;
}

static int hold_each(const struct tree *t)
{
	int r = 0;

	for (size_t i = 0; !r && i < t->count; i++) {
		r = process_is_dead(t->data[i]) ? 0 : freezer_hold(t->data[i]);
		if (i && (r == -ESRCH || r == -ENOENT) && kill(t->data[i], 0) < 0)
			r = 0;
	}
	for (size_t i = 0; !r && i < t->count; i++) {
		r = process_is_dead(t->data[i]) ? 0 : freezer_wait(t->data[i], HOLD_MS);
		if (i && r == -ESRCH)
			r = 0;
	}
	return r;
}

/* All of it by the freezer, or none. What is held has no more children: once a round finds no others all are. */
static int hold_all(pid_t root)
{
	size_t before = 0;

	for (int round = 0; round < ROUNDS_MAX; round++) {
		struct tree t = {};
		int r = tree_list(root, &t);
		if (!r)
			r = hold_each(&t);
		size_t count = t.count;
		VEC_FREE(&t);
		if (r) {
			release_all(root);
			return r;
		}
		if (count == before)
			return 0;
		before = count;
	}
	release_all(root);
	return -EBUSY;
}

bool tree_holds_us(pid_t root)
{
	struct proc_stat stat = {};
	pid_t pid = getpid();

	while (pid > 0 && pid != root)
		pid = proc_read_stat(pid, &stat) ? 0 : stat.ppid;
	return pid == root;
}

int tree_freeze_all(pid_t root, struct error *e)
{
	if (kill(root, 0) < 0)
		return errno == ESRCH ? error_set(e, -ESRCH, "there is no process %d", root) : error_errno(e, -errno, "cannot stop process %d", root);
	if (tree_holds_us(root))
		return error_set(e, -EINVAL, "cannot stop process %d: this command runs below it and would be stopped with it; run it from elsewhere", root);
	int r = hold_all(root);
	if (r == -ETIMEDOUT || r == -EBUSY)
		return error_errno(e, r, "cannot stop process %d", root);
	return r ? signal_all(root, true, e) : 0;
}

int tree_unfreeze_all(pid_t root, struct error *e)
{
	if (kill(root, 0) < 0 && errno == ESRCH)
		return error_set(e, -ESRCH, "there is no process %d", root);
	int released = release_all(root);
	if (released < 0)
		return error_errno(e, released, "cannot continue process %d", root);
	return released ? 0 : signal_all(root, false, e);
}

int tree_require_owner(pid_t root, uid_t uid, struct error *e)
{
	struct tree t = {};
	int r = uid == 0 ? 0 : tree_list(root, &t);

	for (size_t i = 0; !r && i < t.count; i++) {
		struct proc_status status;
		if (process_is_dead(t.data[i]))
			continue;
		if (proc_read_status(t.data[i], &status))
			r = i ? 0 : error_set(e, -ESRCH, "there is no process %d", root);
		else if (status.uid[0] != uid || status.uid[1] != uid || status.uid[2] != uid || status.cap_prm)
			r = error_set(e, -EPERM, "process %d is not yours alone (it has another user's id or a capability); ask root", t.data[i]);
	}
	VEC_FREE(&t);
	return r;
}

bool tree_uses_gpu(pid_t root)
{
	struct tree t = {};
	bool found = false;

	/* As the engine has it: without a driver nobody is looked at. */
	if (!gpu_present() || tree_list(root, &t))
		return false;
	for (size_t i = 0; i < t.count && !found; i++) {
		char path[40], *text = NULL;
		snprintf(path, sizeof(path), "/proc/%d/maps", t.data[i]);
		found = read_file_at(AT_FDCWD, path, MAPS_MAX, &text, NULL) == 0 && (strstr(text, "/libcuda.so") || strstr(text, " /dev/nvidia"));
		free(text);
	}
	VEC_FREE(&t);
	return found;
}
