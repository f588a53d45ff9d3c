/*
 * The command line: `fermata dump process PID …`, `fermata restore process …`, and, called as `criu`, its dump and restore.
 */
#include "base/error.h"
#include "base/log.h"
#include "engine/engine.h"

#include <fcntl.h>
#include <getopt.h>
#include <libgen.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

enum { OPT_PATH = 256, OPT_NAME, OPT_SKIP, OPT_PIDFILE, OPT_LINK_REMAP, OPT_SKIP_VERIFY };

static const struct option options[] = {
	{ "tree", required_argument, NULL, 't' },	  { "images-dir", required_argument, NULL, 'D' },
	{ "log-file", required_argument, NULL, 'o' },	  { "shell-job", no_argument, NULL, 'j' },
	{ "leave-running", no_argument, NULL, 'R' },	  { "leave-stopped", no_argument, NULL, 's' },
	{ "restore-detached", no_argument, NULL, 'd' },	  { "version", no_argument, NULL, 'V' },
	{ "dir", required_argument, NULL, 'D' },	  { "name", required_argument, NULL, OPT_NAME },
	{ "path", required_argument, NULL, OPT_PATH },	  { "no-server", no_argument, NULL, OPT_SKIP },
	{ "detach", no_argument, NULL, 'd' },		  { "pidfile", required_argument, NULL, OPT_PIDFILE },
	{ "pid-file", required_argument, NULL, OPT_PIDFILE }, { "help", no_argument, NULL, 'h' },
	{ "link-remap", no_argument, NULL, OPT_LINK_REMAP },  { "file-locks", no_argument, NULL, 'l' },
	{ "skip-verify", no_argument, NULL, OPT_SKIP_VERIFY },
	{},
};

struct command_line {
	struct request request;
	const char *log_file, *name, *path;
	int verbosity;
	bool version, help;
};

static int parse(int argc, char **argv, struct command_line *c)
{
	int option;

	while ((option = getopt_long(argc, argv, "t:D:o:jRsdVhlv::", options, NULL)) != -1) {
		switch (option) {
		case 't': c->request.pid = atoi(optarg); break;
		case 'D': c->request.images_dir = optarg; break;
		case 'o': c->log_file = optarg; break;
		case 'j': c->request.shell_job = true; break;
		case 'R': c->request.leave_running = true; break;
		case 's': c->request.leave_stopped = true; break;
		case 'd': c->request.detach = true; break;
		case 'V': c->version = true; break;
		case 'h': c->help = true; break;
		case 'v': c->verbosity = optarg ? atoi(optarg) : c->verbosity + 1; break;
		case OPT_NAME: c->name = optarg; break;
		case OPT_PATH: c->path = optarg; break;
		case OPT_PIDFILE: c->request.pidfile = optarg; break;
		case OPT_SKIP: break;
		case OPT_SKIP_VERIFY: c->request.skip_verify = true; break;
		case OPT_LINK_REMAP: c->request.link_remap = true; break;
		case 'l': c->request.file_locks = true; break;
		default: return -EINVAL;
		}
	}
	return 0;
}

static int report(const struct error *e)
{
	log_error("%s", e->text);
	return 1;
}

/* A restored tree that is not detached: its end is ours. */
static int wait_for_end(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return 1;
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int restore(const struct command_line *c, bool announce)
{
	struct error e = {};
	pid_t pid;

	if (engine_restore(&c->request, &pid, &e))
		return report(&e);
	if (c->request.pidfile) {
		FILE *f = fopen(c->request.pidfile, "we");
		if (!f)
			log_error("cannot write %s: %s", c->request.pidfile, strerror(errno));
		else
			fprintf(f, "%d", pid), fclose(f);
	}
	if (announce) {
		printf("Restored successfully, PID: %d\n", pid);
		fflush(stdout);
	}
	return c->request.detach ? 0 : wait_for_end(pid);
}

static int criu_main(struct command_line *c, const char *verb)
{
	struct error e = {};

	if (!c->request.images_dir)
		c->request.images_dir = ".";
	if (!strcmp(verb, "dump") && c->request.pid > 0)
		return engine_dump(&c->request, &e) ? report(&e) : 0;
	if (!strcmp(verb, "restore"))
		return restore(c, false);
	fprintf(stderr, "Usage: criu dump -t PID -D DIR [-j] [-R] | criu restore -D DIR [-j] [-d]\n");
	return 2;
}

static int fermata_dump(struct command_line *c, const char *pid)
{
	char path[4096], unique[64];
	struct error e = {};
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	snprintf(unique, sizeof(unique), "dump-process-%lld%09ld", (long long)now.tv_sec, now.tv_nsec);
	snprintf(path, sizeof(path), "%s/%s", c->request.images_dir ? c->request.images_dir : "/tmp", c->name ? c->name : unique);
	c->request.pid = atoi(pid);
	c->request.images_dir = path;
	if (mkdir(path, 0700) < 0) {
		error_errno(&e, -errno, "cannot create the checkpoint %s", path);
		return report(&e);
	}
	if (engine_dump(&c->request, &e)) {
		rmdir(path);
		return report(&e);
	}
	printf("Dumped to %s\n", path);
	return 0;
}

int main(int argc, char **argv)
{
	struct command_line c = { .verbosity = LOG_LEVEL_WARNING };
	bool criu = !strcmp(basename(argv[0]), "criu");

	if (parse(argc, argv, &c))
		return 2;
	int log_fd = c.log_file ? open(c.log_file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : -1;
	log_setup(c.verbosity, log_fd);
	if (c.version) {
		puts(criu ? "Version: 4.2" : "fermata " FERMATA_VERSION);
		return 0;
	}
	const char *verb = optind < argc ? argv[optind] : "", *kind = optind + 1 < argc ? argv[optind + 1] : "";
	if (criu)
		return criu_main(&c, verb);
	if (!strcmp(verb, "dump") && !strcmp(kind, "process") && optind + 2 < argc)
		return fermata_dump(&c, argv[optind + 2]);
	if (!strcmp(verb, "restore") && !strcmp(kind, "process") && c.path) {
		c.request.images_dir = c.path;
		return restore(&c, true);
	}
	fprintf(stderr, "Usage: fermata dump process PID [--dir DIR] [--name NAME] [--leave-running] [--shell-job]\n"
			"       fermata restore process --path CHECKPOINT [--shell-job] [--detach]\n");
	return c.help ? 0 : 2;
}
