/* run process: a program as a job of the daemon, or with --no-server as our child; manage, job set. */
#include "cli/remote.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

extern char **environ;

static int write_pid(const struct command_line *c, long long pid)
{
	FILE *f = c->request.pidfile ? fopen(c->request.pidfile, "we") : NULL;
	bool good = f && fprintf(f, "%lld", pid) > 0;

	if (f && fclose(f))
		good = false;
	if (!c->request.pidfile || good)
		return 0;
	fprintf(stderr, "Error: process %lld runs, but the pid file %s can't be written: %s\n", pid, c->request.pidfile, strerror(errno));
	return 1;
}

static void pass_signal(int signal)
{
}

/* What a job has, and a child of ours has not. */
static int refuse_job_options(const struct command_line *c, struct error *e)
{
	static const char *const names[] = { "jid", "attachable", "checkpoint-every", "keep", "restart", "restart-limit" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (given_find(c->given, names[i]))
			return error_set(e, -EINVAL, "option --%s is of jobs, which are the daemon's; leave it away, or --no-server", names[i]);
	return 0;
}

static _Noreturn void become_program(const struct command_line *c, char **argv, const sigset_t *mask, int failure)
{
	const char *what = c->out ? c->out : argv[0];
	int out = c->out ? open(c->out, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1, code;

	sigprocmask(SIG_SETMASK, mask, NULL);
	if (out >= 0) {
		what = argv[0];
		dup2(out, 1);
		dup2(out, 2);
	}
	if (!c->out || out >= 0)
		execvp(argv[0], argv);
	code = errno;
	dprintf(failure, "%s %.300s: %s", c->out && out < 0 ? "cannot write" : "cannot run", what, strerror(code));
	_exit(127);
}

/* 0 once it runs. */
static int begin_here(const struct command_line *c, char **argv, const sigset_t *mask, pid_t *ret, struct error *e)
{
	char text[400];
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_errno(e, -errno, "cannot make a pipe");
	*ret = fork();
	if (*ret == 0)
		become_program(c, argv, mask, ends[1]);
	int r = *ret < 0 ? error_errno(e, -errno, "cannot run %s", argv[0]) : 0;
	close(ends[1]);
	ssize_t n = r ? 0 : read(ends[0], text, sizeof(text) - 1);
	close(ends[0]);
	if (n <= 0)
		return r;
	text[n] = '\0';
	waitpid(*ret, NULL, 0);
	return error_set(e, -ENOEXEC, "%s", text);
}

/* Without a daemon: our child, in our terminal. Its end is ours, and what ends us ends it. */
static int run_here(struct command_line *c, char **argv)
{
	struct sigaction pass = { .sa_handler = pass_signal };
	struct error e = {};
	int status, got;
	sigset_t set, before;
	pid_t child = -1;

	if (refuse_job_options(c, &e)) {
		cli_report(c, &e);
		return c->program->usage_status;
	}
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, &before);
	sigaction(SIGCHLD, &pass, NULL);
	int r = begin_here(c, argv, &before, &child, &e);
	if (r) {
		cli_report(c, &e);
		return r == -ENOEXEC ? 127 : 1;
	}
	/* What it writes itself goes to standard output. */
	fprintf(stderr, c->json ? "{\"pid\": %d}\n" : "Running managed process PID %d\n", child);
	write_pid(c, child);
	while (waitpid(child, &status, WNOHANG) == 0) {
		sigwait(&set, &got);
		/* Ctrl-C reached the child too: it is in our group. */
		if (got == SIGTERM)
			kill(child, SIGTERM);
	}
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static json_t *texts(char **list)
{
	json_t *all = json_array();

	for (; list && *list; list++)
		if (json_array_append_new(all, json_string(*list))) {
			json_decref(all);
			return NULL;
		}
	return all;
}

/* Variables that are no UTF-8 can't be written as JSON; they are few and are left out by name. */
static json_t *environment(void)
{
	json_t *all = json_array();

	for (char **at = environ; *at; at++)
		if (json_array_append_new(all, json_string(*at)))
			fprintf(stderr, "Warning: the variable %.*s is no UTF-8 and is not passed on\n", (int)strcspn(*at, "="), *at);
	return all;
}

static int add_times(const struct command_line *c, json_t *body, struct error *e)
{
	long seconds;
	int r = 0;

	if (c->every && (r = remote_duration(c->every, &seconds, e)))
		return error_prefix(e, r, "option --checkpoint-every");
	if (c->every)
		json_object_set_new(body, "every", json_integer(seconds));
	if (given_find(c->given, "keep"))
		json_object_set_new(body, "keep", json_integer(c->keep));
	if (given_find(c->given, "restart-limit"))
		json_object_set_new(body, "restart_limit", json_integer(c->restart_limit));
	if (c->restart)
		json_object_set_new(body, "restart", json_string(c->restart));
	return 0;
}

static json_t *run_body(struct command_line *c, char **argv, struct error *e)
{
	json_t *list = texts(argv), *body = json_object();
	_cleanup_free_ char *here = getcwd(NULL, 0);
	mode_t mask = umask(0);

	umask(mask);
	if (!list || !here) {
		error_set(e, -EINVAL, list ? "there is no working directory" : "an argument is no UTF-8, which can't be told to the daemon; use --no-server");
		json_decref(body);
		json_decref(list);
		return NULL;
	}
	json_object_set_new(body, "argv", list);
	json_object_set_new(body, "env", environment());
	json_object_set_new(body, "cwd", json_string(here));
	json_object_set_new(body, "umask", json_integer(mask));
	json_object_set_new(body, "as_root", json_boolean(c->as_root));
	json_object_set_new(body, "attachable", json_boolean(c->attachable));
	json_object_set_new(body, "attach", json_boolean(c->attach));
	if (c->jid)
		json_object_set_new(body, "jid", json_string(c->jid));
	if (c->out)
		json_object_set_new(body, "out", remote_absolute(c->out));
	terminal_into(c, body);
	if (add_times(c, body, e)) {
		json_decref(body);
		return NULL;
	}
	return body;
}

static char **command_of(const struct command_line *c)
{
	size_t words = 0, rest = 0;

	while (c->words[words])
		words++;
	while (c->rest && c->rest[rest])
		rest++;
	char **argv = calloc(words + rest + 1, sizeof(*argv));
	for (size_t i = 0; argv && i < words + rest; i++)
		argv[i] = i < words ? c->words[i] : c->rest[i - words];
	return argv;
}

int verb_run(struct command_line *c)
{
	_cleanup_free_ char **argv = command_of(c);
	char path[200];
	struct error e = {};

	if (!argv || !argv[0]) {
		fprintf(stderr, "Error: %s %s needs the program: %s %s -- PROGRAM ARGUMENTS\n", c->program->name, c->verb->name, c->program->name, c->verb->name);
		return c->program->usage_status;
	}
	if (c->no_server)
		return run_here(c, argv);
	json_t *body = run_body(c, argv, &e);
	if (!body)
		return cli_report(c, &e);
	json_t *job = remote_call(c, "POST", "/v1/jobs/run", body);
	if (!job)
		return 1;
	long long pid = json_integer_value(json_object_get(job, "pid"));
	const char *jid = json_string_value(json_object_get(job, "job"));
	int status = write_pid(c, pid);
	if (c->json && !c->attach)
		return remote_print(job) || status;
	fprintf(c->attach ? stderr : stdout, "Running managed process PID %lld\n", pid);
	snprintf(path, sizeof(path), "/v1/jobs/%s/attach", jid ? jid : "");
	if (c->attach)
		status = attach_to(c, path, jid);
	json_decref(job);
	return status;
}

/* ---- manage, job set ---- */

int verb_manage(struct command_line *c)
{
	struct error e = {};
	pid_t pid;
	json_t *body = json_object();
	int r = cli_parse_pid(c->words[0], &pid, &e);

	if (!r)
		r = add_times(c, body, &e);
	if (r) {
		json_decref(body);
		return cli_report(c, &e);
	}
	json_object_set_new(body, "pid", json_integer(pid));
	json_object_set_new(body, "upcoming", json_boolean(c->upcoming));
	if (c->jid)
		json_object_set_new(body, "jid", json_string(c->jid));
	json_t *job = remote_call(c, "POST", "/v1/jobs/manage", body);
	if (!job)
		return 1;
	if (write_pid(c, pid)) {
		json_decref(job);
		return 1;
	}
	if (c->json)
		return remote_print(job);
	printf("Managing process PID %d\n", pid);
	json_decref(job);
	return 0;
}

int verb_job_set(struct command_line *c)
{
	json_t *body = json_object();
	struct error e = {};
	char path[200];

	if (add_times(c, body, &e)) {
		json_decref(body);
		return cli_report(c, &e);
	}
	if (!remote_path(c, path, sizeof(path), "/v1/jobs/%s", c->words[0])) {
		json_decref(body);
		return 1;
	}
	json_t *job = remote_call(c, "PATCH", path, body);
	if (!job)
		return 1;
	if (c->json)
		return remote_print(job);
	json_int_t every = json_integer_value(json_object_get(job, "checkpoint_every"));
	if (every)
		printf("Job %s: a checkpoint every %lld s, the last %lld kept; restart: %s\n", c->words[0], (long long)every,
		       (long long)json_integer_value(json_object_get(job, "keep")), json_string_value(json_object_get(job, "restart")));
	else
		printf("Job %s: no periodic checkpoints; restart: %s\n", c->words[0], json_string_value(json_object_get(job, "restart")));
	json_decref(job);
	return 0;
}
