/*
 * The guard of a lazy restore, which pager_start makes: it starts the pager and holds the same descriptors. Should the pager die, or the checkpoint turn out to be
 * damaged, it ends the restored processes, who would otherwise find zeroes in place of what they had. The comparing is done by a third process, behind all others.
 */
#include "engine/memory/pager_private.h"

#include "base/log.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/ioprio.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define CHECK_NICE 10

static int next_kept(const int *kept, size_t count, int from)
{
	int next = INT32_MAX;

	for (size_t i = 0; i < count; i++)
		if (kept[i] >= from)
			next = MIN(next, kept[i]);
	return next;
}

/* Whatever else the caller had is closed: the other end of a pipe, say, which the processes wait to see closed. */
static void close_others(const int *kept, size_t count)
{
	for (int fd = 3; fd < INT32_MAX;) {
		int next = next_kept(kept, count, fd);
		if (next > fd)
			syscall(__NR_close_range, fd, next == INT32_MAX ? ~0U : (unsigned int)next - 1, 0);
		fd = next == INT32_MAX ? next : next + 1;
	}
}

static void leave_caller(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct stat st;
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	/* A log file stays; pipes and terminals would seem to be in use. */
	for (int fd = 0; fd < 3 && null >= 0; fd++)
		if (fd == 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
			dup2(null, fd);
	if (null > 2)
		close(null);
	log_setup(-1, STDERR_FILENO);
}

/* Kills those whose memory can't be had. A descriptor of the process is the caller's way to be sure that it is still the same. */
static void end_processes(const struct pager_space *spaces, size_t count, const int *pidfds, const char *why)
{
	for (size_t i = 0; i < count; i++) {
		log_error("process %d is ended: %s", (int)spaces[i].pid, why);
		syscall(__NR_pidfd_send_signal, pidfds[i], SIGKILL, NULL, 0);
	}
}

static bool is_damaged(const struct pager_source *sources, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (sources[i].digest.size && image_digest_check(sources[i].fd, sources[i].packed, &sources[i].digest))
			return true;
	return false;
}

/* For the processors, which the kernel may share out between sessions first (autogroup), and for the disk. */
static void set_priority(pid_t pid, int nice)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/%d/autogroup", (int)pid);
	_cleanup_close_ int group = open(path, O_WRONLY | O_CLOEXEC);
	if ((group >= 0 && dprintf(group, "%d", nice) < 0) || setpriority(PRIO_PROCESS, (id_t)pid, nice) < 0 ||
	    syscall(__NR_ioprio_set, IOPRIO_WHO_PROCESS, pid, IOPRIO_PRIO_VALUE(nice ? IOPRIO_CLASS_IDLE : IOPRIO_CLASS_NONE, 0)) < 0)
		log_debug("the priority of process %d can't be set: %s", (int)pid, strerror(errno));
}

/* As long as one has them, the memory is watched; the program may see that. */
static void close_watched(const struct pager_lot *all)
{
	for (size_t i = 0; i < all->n_spaces; i++)
		close(all->spaces[i].uffd);
}

/* A process of its own, since the guard must see at once when the pager dies. */
static pid_t start_check(const struct pager_lot *all)
{
	pid_t guard = getpid(), pid = fork();

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "fermata-check");
	if (getppid() != guard)
		_exit(0);
	close_watched(all);
	setsid();
	set_priority(getpid(), CHECK_NICE);
	_exit(is_damaged(all->sources, all->n_sources) ? 2 : 0);
}

static _Noreturn void guard(const struct pager_lot *all, const int *pidfds, pid_t pager)
{
	const char *why = NULL;
	int status;

	prctl(PR_SET_NAME, "fermata-guard");
	pid_t check = start_check(all), pid;
	if (check < 0 && is_damaged(all->sources, all->n_sources))
		why = "its pages were altered since they were written (checksum): the checkpoint is damaged";
	for (int left = 1 + (check > 0); left && !why;) {
		pid = waitpid(-1, &status, 0);
		if (pid < 0 && errno != EINTR)
			break;
		left -= pid == pager || pid == check;
		if (pid == pager && (!WIFEXITED(status) || WEXITSTATUS(status)))
			why = "the process that brought its memory has died";
		else if (pid == check && WIFEXITED(status) && WEXITSTATUS(status) == 2)
			why = "its pages were altered since they were written (checksum): the checkpoint is damaged";
		else if (pid == pager)
			close_watched(all);
		if (pid == pager && check > 0)
			set_priority(check, 0); /* all the memory is there: nobody is in its way */
	}
	if (why) {
		end_processes(all->spaces, all->n_spaces, pidfds, why);
		kill(pager, SIGKILL);
		if (check > 0)
			kill(check, SIGKILL);
	}
	while (waitpid(-1, &status, 0) > 0 || errno == EINTR)
		;
	if (all->waiter)
		_exit(send(all->waiter, why ? "1" : "", 1, MSG_NOSIGNAL) != 1);
	_exit(0);
}

/* Descriptors that stay. Those of packed sources: where several are of one archive, each time. */
static int keep_own(const struct pager_lot *all, const int *pidfds, int started)
{
	size_t n = 0, room = 2 * all->n_spaces + all->n_sources + 3;

	for (size_t i = 0; i < all->n_sources; i++)
		room += all->sources[i].packed ? image_raw_adopt(all->sources[i].packed, NULL, 0) : 0;
	_cleanup_free_ int *kept = malloc(room * sizeof(*kept));
	if (!kept)
		return -ENOMEM;
	for (size_t i = 0; i < all->n_spaces; i++) {
		kept[n++] = all->spaces[i].uffd;
		kept[n++] = pidfds[i];
	}
	for (size_t i = 0; i < all->n_sources; i++) {
		kept[n++] = all->sources[i].fd;
		n += all->sources[i].packed ? image_raw_adopt(all->sources[i].packed, &kept[n], room - n) : 0;
	}
	kept[n++] = all->dir_fd;
	kept[n++] = all->waiter;
	kept[n++] = started;
	close_others(kept, n);
	return 0;
}

static _Noreturn void become_guard(const struct pager_lot *all, const int *pidfds, int started)
{
	char ok = 0;

	leave_caller();
	if (keep_own(all, pidfds, started))
		_exit(1);
	const int listener = pager_listen();
	struct pager *pager = listener < 0 ? NULL : pager_new(all, listener);
	if (!pager)
		_exit(1);
	pid_t pid = fork();
	if (pid < 0 || (pid && write(started, &ok, 1) != 1))
		_exit(1);
	close(started);
	if (pid)
		guard(all, pidfds, pid);
	pager_serve(pager);
}

int pager_start(const struct pager_lot *lot, struct error *e)
{
	_cleanup_free_ int *pidfds = malloc((lot->n_spaces + 1) * sizeof(*pidfds));
	int ready[2];
	char byte;

	if (!pidfds)
		return error_set(e, -ENOMEM, "out of memory");
	for (size_t i = 0; i < lot->n_spaces; i++)
		pidfds[i] = (int)syscall(__NR_pidfd_open, lot->spaces[i].pid, 0);
	if (pipe2(ready, O_CLOEXEC) < 0)
		return error_errno(e, -errno, "cannot make a pipe");
	pid_t pid = fork();
	if (pid == 0) {
		close(ready[0]);
		become_guard(lot, pidfds, ready[1]);
	}
	int r = pid < 0 ? -errno : 0;
	close(ready[1]);
	if (!r && read(ready[0], &byte, 1) != 1)
		r = -ECHILD;
	close(ready[0]);
	for (size_t i = 0; i < lot->n_spaces; i++)
		if (pidfds[i] >= 0)
			close(pidfds[i]);
	return r ? error_errno(e, r, "cannot start the process that brings pages") : 0;
}
