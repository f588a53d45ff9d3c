/* Dump and restore as both programs do them. See cli.h. */
#include "base/log.h"
#include "cli/cli.h"
#include "engine/stats.h"
#include "proc/proc.h"

#include <jansson.h>
#include <limits.h>
#include <linux/capability.h>
#include <malloc.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#define LARGE_LIST (1 << 20)

/* To the log; where that is a file, to stderr too. */
int cli_report(const struct command_line *c, const struct error *e)
{
	log_error("%s", e->text);
	if (c->log_file)
		fprintf(stderr, "Error: %s\n", e->text);
	return 1;
}

int cli_parse_pid(const char *text, pid_t *ret, struct error *e)
{
	char *end;

	errno = 0;
	long pid = strtol(text, &end, 10);
	if (errno || *end || end == text || pid <= 0 || pid > INT_MAX)
		return error_set(e, -EINVAL, "%s is no process id; give a number that ps shows", text);
	*ret = (pid_t)pid;
	return 0;
}

/* The terminal that the tree was given, when it leads a group of its own there (--shell-job); or -1. */
static int shared_terminal(const struct command_line *c, pid_t pid)
{
	for (int fd = 0; c->request.shell_job && fd < 3; fd++)
		if (isatty(fd))
			return getpgid(pid) == pid && tcgetpgrp(fd) == pid ? fd : -1;
	return -1;
}

static void bring_forward(int tty, pid_t pgrp)
{
	void (*before)(int) = signal(SIGTTOU, SIG_IGN);

	tcsetpgrp(tty, pgrp);
	signal(SIGTTOU, before);
}

/* The tree was stopped: so are we, for the shell that waits for us; continued by it, we continue the tree. */
static void stop_with(int tty, pid_t pid)
{
	bring_forward(tty, getpgrp());
	kill(0, SIGSTOP);
	if (tcgetpgrp(tty) == getpgrp())
		bring_forward(tty, pid);
	kill(-pid, SIGCONT);
}

/*
 * A child's change, or a signal of the terminal: whoever has the terminal while a shell moves us between foreground and background, what is typed
 * is meant for the tree. Gives what waitpid(2) does.
 */
static pid_t wait_on_terminal(int tty, pid_t pid, int *ret_status)
{
	sigset_t typed;

	sigemptyset(&typed);
	sigaddset(&typed, SIGCHLD);
	sigaddset(&typed, SIGINT);
	sigaddset(&typed, SIGQUIT);
	sigaddset(&typed, SIGTSTP);
	sigprocmask(SIG_BLOCK, &typed, NULL);
	for (;;) {
		pid_t found = waitpid(pid, ret_status, WUNTRACED | WNOHANG);
		if (found)
			return found;
		int sig = sigwaitinfo(&typed, NULL);
		if (sig < 0 || sig == SIGCHLD)
			continue;
		if (tcgetpgrp(tty) == getpgrp())
			bring_forward(tty, pid);
		kill(-pid, sig);
	}
}

/* A restored tree that is not detached: its end is ours. */
static int wait_for_end(const struct command_line *c, pid_t pid)
{
	int status, tty = shared_terminal(c, pid);

	for (;;) {
		if ((tty >= 0 ? wait_on_terminal(tty, pid, &status) : waitpid(pid, &status, 0)) < 0) {
			if (errno != EINTR)
				return 1;
		} else if (WIFSTOPPED(status)) {
			stop_with(tty, pid);
		} else {
			break;
		}
	}
	if (tty >= 0)
		bring_forward(tty, getpgrp());
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int write_pidfile(const char *path, pid_t pid, struct error *e)
{
	_cleanup_fclose_ FILE *f = fopen(path, "we");

	if (!f || fprintf(f, "%d", pid) < 0 || fflush(f))
		return error_errno(e, -errno, "process %d was restored, but the pid file %s can't be written", pid, path);
	return 0;
}

static void print_time(const struct command_line *c, const char *what, const struct timespec *start)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	if (c->display_stats)
		printf("%s time: %lld us\n", what, (now.tv_sec - start->tv_sec) * 1000000LL + (now.tv_nsec - start->tv_nsec) / 1000);
}

int cli_require_root(struct error *e)
{
	return geteuid() == 0 ? 0 : error_set(e, -EPERM, "this needs root (CAP_SYS_ADMIN and more); run it with sudo");
}

/* A user with two capabilities can do what concerns their own processes (Linux 5.9). */
static int require_rights(const struct command_line *c, struct error *e)
{
	struct proc_status s;

	if (geteuid() == 0)
		return 0;
	if (!c->unprivileged)
		return error_set(e, -EPERM, "this needs root (CAP_SYS_ADMIN and more); run it with sudo, or your own processes with --unprivileged");
	int r = proc_read_status(getpid(), &s);
	if (r)
		return error_errno(e, r, "cannot read our own status");
	if (!(s.cap_eff >> CAP_CHECKPOINT_RESTORE & 1) || !(s.cap_eff >> CAP_SYS_PTRACE & 1))
		return error_set(e, -EPERM, "--unprivileged needs CAP_CHECKPOINT_RESTORE and CAP_SYS_PTRACE; see setcap(8), or setpriv --ambient-caps");
	/* With capabilities of its file it could not read its own folder in /proc. */
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	return 0;
}

/* What failed for a lack of rights says what would help. */
static int explain(const struct command_line *c, int r, struct error *e)
{
	const size_t used = strlen(e->text);

	if ((r == -EPERM || r == -EACCES) && c->unprivileged && geteuid() != 0)
		snprintf(e->text + used, sizeof(e->text) - used, "; that takes more rights than --unprivileged has, use sudo");
	return r;
}

/* As criu does; what was asked for is done already, so a failure is only told. */
static void write_stats(const struct command_line *c, bool restore)
{
	struct error e = {};

	if (c->program->configured && stats_write(c->work_dir ? c->work_dir : c->request.images_dir, restore, &c->profile, &e))
		log_warning("%s", e.text);
}

int cli_dump_tree(struct command_line *c, struct error *e)
{
	struct error later = {};
	struct timespec start;

	clock_gettime(CLOCK_MONOTONIC, &start);
	if (c->scripts.count && !c->request.hook.call)
		c->request.hook = (struct request_hook){ script_call, c };
	int r = require_rights(c, e);
	if (!r)
		r = cli_gpu_options(c, e);
	if (r)
		error_prefix(e, r, "cannot dump process %d", c->request.pid);
	progress_begin(c);
	mallopt(M_MMAP_THRESHOLD, LARGE_LIST); /* lists of pages go back to the kernel; the C library would begin to keep such */
	if (!r)
		r = explain(c, engine_dump(&c->request, e), e);
	progress_end(c);
	if (r)
		return r;
	write_stats(c, false);
	print_time(c, "Dump", &start);
	if (c->request.dedup && c->request.parent && engine_dedup(c->request.images_dir, &later)) /* the checkpoint stands */
		log_warning("%s", later.text);
	return 0;
}

int cli_dump(struct command_line *c)
{
	struct error e = {};

	return cli_dump_tree(c, &e) ? cli_report(c, &e) : 0;
}

/* --exec-cmd: the command that the caller becomes once the tree runs. */
static int become(const struct command_line *c)
{
	struct error e = {};

	fflush(stdout);
	execvp(c->rest[0], c->rest);
	error_errno(&e, -errno, "cannot run %s", c->rest[0]);
	return cli_report(c, &e);
}

static void announce_restored(const struct command_line *c, pid_t pid)
{
	if (c->json) {
		json_t *root = json_pack("{s:i, s:o*}", "pid", pid, "profile", profile_json(c, false));
		json_dumpf(root, stdout, JSON_INDENT(1));
		puts("");
		json_decref(root);
	} else {
		profile_print(c, false);
		printf("Restored successfully, PID: %d\n", pid);
	}
	fflush(stdout);
}

int cli_lazy_options(struct command_line *c, struct error *e)
{
	const bool touched = c->lazy && !strcmp(c->lazy, "touched"), all = c->lazy && !strcmp(c->lazy, "all");

	if (c->lazy && *c->lazy && !touched && !all)
		return error_set(e, -EINVAL, "--lazy takes all, touched, or nothing, not %s", c->lazy);
	if (c->lazy || c->lazy_pages)
		c->request.lazy = touched ? LAZY_TOUCHED : all || c->lazy_pages ? LAZY_ALL : LAZY_WORTH;
	return 0;
}

int cli_restore_tree(struct command_line *c, pid_t *ret_pid, struct error *e)
{
	struct timespec start;

	clock_gettime(CLOCK_MONOTONIC, &start);
	if (c->scripts.count && !c->request.hook.call)
		c->request.hook = (struct request_hook){ script_call, c };
	else if (c->for_user)
		c->request.hook = (struct request_hook){ restrict_call, c };
	c->request.only_uid = (uid_t)c->for_user;
	int r = require_rights(c, e);
	if (!r)
		r = cli_gpu_options(c, e);
	if (!r)
		r = cli_lazy_options(c, e);
	if (!r && c->lazy_pages)
		c->request.lazy_waiter = lazy_pages_connect(c);
	if (r)
		error_prefix(e, r, "cannot restore from %s", c->request.images_dir);
	c->request.ends = c->request.detach;
	progress_begin(c);
	if (!r)
		r = explain(c, engine_restore(&c->request, ret_pid, e), e);
	progress_end(c);
	if (r)
		return r;
	write_stats(c, true);
	print_time(c, "Restore", &start);
	return 0;
}

int cli_restore(struct command_line *c, bool announce)
{
	struct error e = {};
	pid_t pid;
	int r = cli_restore_tree(c, &pid, &e);

	if (r)
		return cli_report(c, &e);
	if (c->request.pidfile)
		r = write_pidfile(c->request.pidfile, pid, &e);
	if (r)
		cli_report(c, &e);
	if (announce)
		announce_restored(c, pid);
	if (c->exec_command)
		return become(c);
	return !c->request.detach ? wait_for_end(c, pid) : r ? 1 : 0;
}
