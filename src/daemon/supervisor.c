/*
 * The supervisor: one small process for each job, parent of it and of nobody else. It starts the job or has it restored, holds the job's
 * terminal and log, waits for its end and writes that to the job's folder. It is nobody's child, so neither the daemon's end nor its
 * restart touches it; the daemon finds it again by `state.json`.
 *
 * A restore is done by `fermata restore process` in a child of its own: what that leaves behind, the restored tree, becomes ours
 * (PR_SET_CHILD_SUBREAPER). In a pid namespace of its own (`restore --as`) the first process of the namespace does the same, and its exit
 * status is the job's.
 *
 * The request is JSON on standard input, the answer a line of JSON on standard output: {"pid": N} once it runs, or {"error": "…"}; before
 * it, of a restore, the lines that tell how far it is (events.h).
 */
#include "daemon/supervisor.h"

#include "base/log.h"
#include "daemon/helper.h"
#include "proc/proc.h"

#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define ARGUMENTS_MAX 200
#define ANSWER_MAX 8192
#define GIVEN_MAX 1100

static const char *text_of(const struct supervisor *s, const char *key)
{
	return json_string_value(json_object_get(s->spec, key));
}

static bool flag_of(const struct supervisor *s, const char *key)
{
	return json_is_true(json_object_get(s->spec, key));
}

static json_int_t number_of(const struct supervisor *s, const char *key)
{
	return json_integer_value(json_object_get(s->spec, key));
}

bool supervisor_write_state(struct supervisor *s, const char *phase)
{
	char fresh[] = SUPERVISOR_STATE ".new";
	json_t *state = json_pack("{s:s, s:I, s:I, s:I, s:I, s:s, s:i, s:b, s:b}", "phase", phase, "supervisor", (json_int_t)s->self.pid,
				  "supervisor_start", (json_int_t)s->self.start, "pid", (json_int_t)s->root.pid, "start", (json_int_t)s->root.start,
				  "boot", s->self.boot, "code", s->ended ? s->code : -1, "own_namespace", flag_of(s, "own_namespace"), "rest", (int)s->rest);
	_cleanup_close_ int fd = openat(s->dir, fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	bool written = fd >= 0 && json_dumpfd(state, fd, JSON_COMPACT) == 0 && renameat(s->dir, fresh, s->dir, SUPERVISOR_STATE) == 0;
	json_decref(state);
	return written;
}

bool supervisor_reap(struct supervisor *s)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		if (pid == s->child) {
			s->ended = true;
			s->code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
		}
	return s->ended;
}

/* ---- a new job ---- */

static char **text_list(const json_t *list)
{
	size_t n = json_array_size(list);
	char **all = calloc(n + 1, sizeof(*all));

	for (size_t i = 0; all && i < n; i++)
		all[i] = (char *)json_string_value(json_array_get(list, i));
	return all;
}

static int become_user(const struct supervisor *s)
{
	const json_t *list = json_object_get(s->spec, "groups");
	gid_t groups[256];
	size_t n = MIN(json_array_size(list), ARRAY_SIZE(groups));

	for (size_t i = 0; i < n; i++)
		groups[i] = (gid_t)json_integer_value(json_array_get(list, i));
	gid_t gid = (gid_t)number_of(s, "gid");
	uid_t uid = (uid_t)number_of(s, "uid");
	return setgroups(n, groups) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0 ? -errno : 0;
}

static void forget_signals(void)
{
	sigset_t none;

	for (int i = 1; i < 65; i++)
		signal(i, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Descriptors 0 to 2: the terminal, or nothing and the log. */
static int take_stdio(const struct supervisor *s, bool controlling)
{
	_cleanup_close_ int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (s->slave >= 0 && controlling && ioctl(s->slave, TIOCSCTTY, 0) < 0)
		return -errno;
	int in = s->slave >= 0 ? s->slave : null, out = s->slave >= 0 ? s->slave : s->log >= 0 ? s->log : null;
	return dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0 ? -errno : 0;
}

static _Noreturn void become_job(const struct supervisor *s, int failure)
{
	_cleanup_free_ char **argv = text_list(json_object_get(s->spec, "argv"));
	_cleanup_free_ char **env = text_list(json_object_get(s->spec, "env"));
	const char *what = "cannot start it";
	int r = argv && env ? 0 : -ENOMEM;

	forget_signals();
	setsid();
	if (!r)
		r = take_stdio(s, true);
	if (!r && (r = become_user(s)))
		what = "cannot take the user's id";
	umask((mode_t)number_of(s, "umask"));
	if (!r && chdir(text_of(s, "cwd")) < 0) {
		r = -errno;
		what = "cannot enter the working directory";
	}
	if (!r) {
		environ = env;
		execvp(argv[0], argv);
		r = -errno;
		what = "cannot run the program";
	}
	dprintf(failure, "%s: %s", what, strerror(-r));
	_exit(127);
}

static int start_job(struct supervisor *s, struct error *e)
{
	char text[256];
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_errno(e, -errno, "cannot make a pipe");
	s->child = fork();
	if (s->child == 0)
		become_job(s, ends[1]);
	close(ends[1]);
	ssize_t n = s->child < 0 ? -1 : read(ends[0], text, sizeof(text) - 1);
	close(ends[0]);
	if (s->child < 0)
		return error_errno(e, -errno, "cannot make a process");
	if (n <= 0)
		return identity_of(s->child, &s->root);
	text[n] = '\0';
	waitpid(s->child, NULL, 0);
	const char *program = json_string_value(json_array_get(json_object_get(s->spec, "argv"), 0));
	return error_set(e, -ENOEXEC, "%.300s: %s", program, text);
}

/* ---- a restore ---- */

static _Noreturn void become_restorer(const struct supervisor *s, int out, int err)
{
	char *argv[ARGUMENTS_MAX] = { (char *)"fermata", (char *)"restore", (char *)"process", (char *)"--no-server", (char *)"--detach",
				      (char *)"--events", (char *)"--path", (char *)text_of(s, "path") };
	const json_t *options = json_object_get(s->spec, "options");
	const char *before = text_of(s, "log_before");
	char given[GIVEN_MAX];
	size_t n = 8;

	if (before && s->log >= 0 && fcntl(s->log, F_SETFD, 0) == 0) {
		snprintf(given, sizeof(given), "--inherit-fd=fd[%d]:%s", s->log, before);
		argv[n++] = given;
	}

	for (size_t i = 0; i < json_array_size(options) && n + 1 < ARRAY_SIZE(argv); i++)
		argv[n++] = (char *)json_string_value(json_array_get(options, i));
	forget_signals();
	setsid();
	if (take_stdio(s, false) == 0 && dup2(out, 1) >= 0 && dup2(err, 2) >= 0)
		execv("/proc/self/exe", argv);
	dprintf(err, "Error: cannot start the restore: %s\n", strerror(errno));
	_exit(127);
}

/* What it says of its end is kept; all else, its progress above all, is passed on. */
static void listen_to_restorer(const struct supervisor *s, int fd, char text[ANSWER_MAX])
{
	FILE *f = fdopen(fd, "r");
	char line[ANSWER_MAX];

	text[0] = '\0';
	while (f && fgets(line, sizeof(line), f)) {
		bool end = !strncmp(line, "Restored successfully", 21) || !strncmp(line, "Error: ", 7);
		if (end)
			snprintf(text, ANSWER_MAX, "%s", line);
		else if (s->tell >= 0)
			dprintf(s->tell, "%s", line);
	}
	if (f)
		fclose(f);
	else
		close(fd);
}

/* Runs it to its end, and gives the pid that it tells. */
static int run_restorer(const struct supervisor *s, pid_t *ret, struct error *e)
{
	char text[ANSWER_MAX];
	int ends[2], status;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_errno(e, -errno, "cannot make a pipe");
	pid_t child = fork();
	if (child == 0)
		become_restorer(s, ends[1], ends[1]);
	close(ends[1]);
	listen_to_restorer(s, ends[0], text);
	if (child < 0 || waitpid(child, &status, 0) < 0)
		return error_errno(e, -errno, "cannot make a process");
	const char *found = strstr(text, "Restored successfully, PID: ");
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && found) {
		*ret = (pid_t)strtol(strrchr(found, ':') + 1, NULL, 10);
		return 0;
	}
	const char *error = strstr(text, "Error: ");
	if (!error)
		return error_set(e, -EIO, "the restore ended with status %d", status);
	error += strlen("Error: ");
	return error_set(e, -EIO, "%.*s", (int)strcspn(error, "\n"), error);
}

/* The first process of a namespace: sees to it that /proc shows that, restores, and is parent to whoever lost theirs. */
static int namespace_main(void *data)
{
	struct supervisor *s = data;
	struct error e = {};
	int status, answer = (int)number_of(s, "answer");
	pid_t root = 0, pid;

	forget_signals();
	signal(SIGPIPE, SIG_IGN);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "fermata-init");
	setsid();
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int fd = 0; fd < 3; fd++)
		dup2(null, fd);
	if (mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) < 0 || mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		error_errno(&e, -errno, "cannot mount /proc in the new namespace");
	else
		run_restorer(s, &root, &e);
	if (!root) {
		dprintf(answer, "%s", e.text);
		_exit(127);
	}
	dprintf(answer, "=%d", root);
	close(answer);
	for (int fd = 3; fd < 256; fd++)
		close(fd);
	while ((pid = waitpid(-1, &status, 0)) > 0 || errno == EINTR)
		if (pid == root)
			_exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
	_exit(127);
}

/* The child of the namespace's first process that is `inner` within. */
static int find_outer(pid_t first, pid_t inner, struct identity *ret)
{
	struct proc_pids children = {};
	int r = proc_list_children(first, first, &children);

	for (size_t i = 0; !r && i < children.count; i++) {
		char path[64], *text = NULL;
		snprintf(path, sizeof(path), "/proc/%d/status", children.data[i]);
		const char *line = read_file_at(AT_FDCWD, path, 1 << 16, &text, NULL) ? NULL : strstr(text, "\nNSpid:");
		if (line) {
			char copy[200];
			snprintf(copy, sizeof(copy), "%.*s", (int)strcspn(line + 1, "\n"), line + 1);
			if (atoi(strrchr(copy, '\t') + 1) == inner) {
				r = identity_of(children.data[i], ret);
				free(text);
				free(children.data);
				return r;
			}
		}
		free(text);
	}
	free(children.data);
	return r ? r : -ESRCH;
}

static int start_namespace(struct supervisor *s, struct error *e)
{
	char text[1100];
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_errno(e, -errno, "cannot make a pipe");
	json_object_set_new(s->spec, "answer", json_integer(ends[1]));
	const size_t size = 256UL << 10;
	_cleanup_free_ char *stack = aligned_alloc(16, size);
	s->child = stack ? clone(namespace_main, stack + size, CLONE_NEWPID | CLONE_NEWNS | SIGCHLD, s) : -1;
	int r = s->child < 0 ? error_errno(e, -errno, "cannot make a pid namespace") : 0;
	close(ends[1]);
	ssize_t n = r ? 0 : read(ends[0], text, sizeof(text) - 1);
	close(ends[0]);
	text[MAX(n, 0)] = '\0';
	if (!r && text[0] != '=') {
		waitpid(s->child, NULL, 0);
		return error_set(e, -EIO, "%s", n > 0 ? text : "the first process of the new namespace died");
	}
	return r ? r : find_outer(s->child, atoi(text + 1), &s->root);
}

static int start_restore(struct supervisor *s, struct error *e)
{
	if (flag_of(s, "own_namespace"))
		return start_namespace(s, e);
	int r = run_restorer(s, &s->child, e);
	if (r)
		return r;
	r = identity_of(s->child, &s->root);
	/* It may have ended already; it is ours to wait for all the same. */
	if (r == -ESRCH) {
		s->root = (struct identity){ .pid = s->child };
		r = 0;
	}
	return r;
}

/* ---- both ---- */

static int open_log(struct supervisor *s, struct error *e)
{
	const char *path = text_of(s, "log");
	uid_t uid = (uid_t)number_of(s, "uid");

	if (!path || !*path)
		return 0;
	s->log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (s->log < 0)
		return error_errno(e, -errno, "cannot open the log %s", path);
	if (uid && fchown(s->log, uid, (gid_t)number_of(s, "gid")) < 0)
		return error_errno(e, -errno, "cannot give the log %s to its user", path);
	return 0;
}

/* Unless the job was given up meanwhile, see helper.h. */
static int take_up(struct supervisor *s, struct error *e)
{
	const char *token = text_of(s, "token");
	char *wanted = NULL;

	if (flock(s->dir, LOCK_EX) < 0)
		return error_errno(e, -errno, "cannot lock %s", text_of(s, "dir"));
	bool is = token && read_file_at(s->dir, SUPERVISOR_WANTED, 100, &wanted, NULL) == 0 && !strcmp(wanted, token);
	if (is)
		supervisor_write_state(s, "starting");
	else
		s->unwanted = true;
	flock(s->dir, LOCK_UN);
	free(wanted);
	return is ? 0 : error_set(e, -ECANCELED, "the job was given up before it began");
}

static int prepare(struct supervisor *s, struct error *e)
{
	sigset_t set;
	int r = 0;

	setsid();
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	prctl(PR_SET_NAME, "fermata-job");
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	s->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	s->dir = open(text_of(s, "dir"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->signals < 0 || s->dir < 0)
		return error_errno(e, -errno, "cannot use %s", text_of(s, "dir"));
	r = identity_of(getpid(), &s->self);
	if (!r)
		r = take_up(s, e);
	if (!r)
		r = open_log(s, e);
	if (!r && flag_of(s, "attachable"))
		r = supervisor_open_terminal(s, e);
	return r ? r : supervisor_listen(s, e);
}

static void answer(struct supervisor *s, const json_t *document)
{
	if (s->tell >= 0)
		close(s->tell);
	s->tell = -1;
	json_dumpfd(document, STDOUT_FILENO, JSON_COMPACT);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int fd = 0; fd < 3 && null >= 0; fd++)
		dup2(null, fd);
	if (null > 2)
		close(null);
}

static int supervise(struct supervisor *s)
{
	struct error e = {};
	int r = prepare(s, &e);

	if (flag_of(s, "restore"))
		s->tell = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
	if (!r)
		r = flag_of(s, "restore") ? start_restore(s, &e) : start_job(s, &e);
	if (r) {
		s->ended = true;
		s->code = 127;
		if (!s->unwanted) {
			supervisor_write_state(s, "failed");
			unlinkat(s->dir, SUPERVISOR_SOCKET, 0);
		}
		json_t *document = json_pack("{s:s, s:i}", "error", e.text, "code", r);
		answer(s, document);
		json_decref(document);
		return 1;
	}
	unlinkat(s->dir, SUPERVISOR_KILLED, 0);
	supervisor_write_state(s, "running");
	json_t *document = json_pack("{s:I}", "pid", (json_int_t)s->root.pid);
	answer(s, document);
	json_decref(document);
	supervisor_serve(s);
	return 0;
}

int supervisor_main(void)
{
	struct supervisor s = { .master = -1, .slave = -1, .log = -1, .listener = -1, .dir = -1, .tell = -1 };
	json_error_t where;

	s.spec = json_loadfd(STDIN_FILENO, 0, &where);
	if (!s.spec || !text_of(&s, "dir") || !text_of(&s, "jid"))
		return 2;
	/* Nobody's child: whoever started us waits for the process that ends here. */
	pid_t pid = fork();
	if (pid)
		return pid < 0;
	s.jid = text_of(&s, "jid");
	s.raw = flag_of(&s, "raw");
	s.wait_for_first = flag_of(&s, "attach");
	return supervise(&s);
}
