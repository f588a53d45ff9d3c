/*
 * What starts containers on this machine, and whether it would find our criu. Runtimes run the program `criu` of their PATH (crun through
 * libcriu.so); so that must be this program. Of a service that runs, its own PATH is looked at.
 */
#include "cli/check.h"

#include <ctype.h>
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#define ANSWER_MS 5000
#define USUAL_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define MEND_CRIU "make install-criu"

extern char **environ;

static const struct runtime {
	const char *name, *program, *service, *option;
	bool runs_criu; /* itself, and not by another of these */
} runtimes[] = {
	{ "runc", "runc", NULL, "--version", true },
	{ "crun", "crun", NULL, "--version", true },
	{ "podman", "podman", NULL, "--version", true },
	{ "containerd", "containerd", "containerd", "--version", true },
	{ "docker", "dockerd", "dockerd", "--version", true },
	{ "CRI-O", "crio", "crio", "--version", true },
	{ "kubelet", "kubelet", "kubelet", "--version", false },
	{ "slurm", "slurmd", "slurmd", "-V", false },
};

/* ---- programs ---- */

static bool find_program(const char *path, const char *name, char ret[PATH_MAX])
{
	struct stat st;

	while (*path) {
		size_t length = strcspn(path, ":");
		int n = snprintf(ret, PATH_MAX, "%.*s/%s", (int)length, path, name);
		if (length && n < PATH_MAX && stat(ret, &st) == 0 && S_ISREG(st.st_mode) && access(ret, X_OK) == 0)
			return true;
		path += length + (path[length] == ':');
	}
	return false;
}

/* PATH in the environment of the process named `name`, the caller's; or NULL. */
static char *service_path(const char *name)
{
	DIR *dir = opendir("/proc");
	char *found = NULL;

	for (struct dirent *entry; dir && !found && (entry = readdir(dir));) {
		char file[300], *text = NULL;
		size_t size = 0;
		snprintf(file, sizeof(file), "/proc/%s/comm", entry->d_name);
		if (!isdigit((unsigned char)entry->d_name[0]) || read_file_at(AT_FDCWD, file, 64, &text, NULL))
			continue;
		text[strcspn(text, "\n")] = '\0';
		bool is = !strcmp(text, name);
		free(TAKE_PTR(text));
		snprintf(file, sizeof(file), "/proc/%s/environ", entry->d_name);
		if (!is || read_file_at(AT_FDCWD, file, 1 << 20, &text, &size))
			continue;
		for (const char *at = text; at < text + size && !found; at += strlen(at) + 1)
			found = !strncmp(at, "PATH=", 5) ? strdup(at + 5) : NULL;
		free(text);
	}
	if (dir)
		closedir(dir);
	return found;
}

static bool is_fermata(const char *path)
{
	struct stat one, own;
	char full[PATH_MAX];

	if (stat(path, &one) < 0 || !realpath(path, full))
		return false;
	const char *slash = strrchr(full, '/');
	return (stat("/proc/self/exe", &own) == 0 && one.st_ino == own.st_ino && one.st_dev == own.st_dev) || (slash && !strcmp(slash + 1, "fermata"));
}

static pid_t start(const char *program, const char *option, int out)
{
	char *argv[] = { (char *)program, (char *)option, NULL };
	posix_spawn_file_actions_t actions;
	pid_t pid = -1;

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDWR, 0);
	posix_spawn_file_actions_adddup2(&actions, out, 1);
	posix_spawn_file_actions_adddup2(&actions, out, 2);
	if (posix_spawn(&pid, program, &actions, NULL, argv, environ))
		pid = -1;
	posix_spawn_file_actions_destroy(&actions);
	return pid;
}

/* What it says of itself; it gets some seconds. */
static void ask(const char *program, const char *option, char *text, size_t size)
{
	int ends[2], left = ANSWER_MS;
	size_t have = 0;

	text[0] = '\0';
	if (pipe2(ends, O_CLOEXEC) < 0)
		return;
	pid_t pid = start(program, option, ends[1]);
	close(ends[1]);
	struct pollfd poller = { .fd = ends[0], .events = POLLIN };
	while (pid > 0 && have + 1 < size && left > 0) {
		struct timespec before, after;
		clock_gettime(CLOCK_MONOTONIC, &before);
		ssize_t n = poll(&poller, 1, left) > 0 ? read(ends[0], text + have, size - 1 - have) : -1;
		clock_gettime(CLOCK_MONOTONIC, &after);
		left -= (int)((after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000);
		if (n <= 0)
			break;
		have += (size_t)n;
	}
	text[have] = '\0';
	close(ends[0]);
	if (pid > 0) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
}

/* The first word that begins with a digit, or with v and one. */
static void take_version(const char *text, char *ret, size_t size)
{
	snprintf(ret, size, "of an unknown version");
	for (const char *at = text; *at; at++) {
		const char *digit = *at == 'v' ? at + 1 : at;
		if ((at == text || strchr(" \t\n", at[-1])) && isdigit((unsigned char)*digit)) {
			snprintf(ret, size, "%.*s", (int)strcspn(digit, " ,\t\n"), digit);
			return;
		}
	}
}

/* ---- each ---- */

static bool finds_libcriu(void)
{
	void *library = dlopen("libcriu.so.2", RTLD_LAZY);

	if (library)
		dlclose(library);
	return library;
}

/* 0, or what is missing in `f->why`. */
static void look_for_criu(const struct runtime *r, const char *said, const char *path, struct finding *f)
{
	char criu[PATH_MAX];

	if (!strcmp(r->name, "crun") && !strstr(said, "+CRIU"))
		snprintf(f->why, sizeof(f->why), "it was built without CRIU; needs a build with it, as distributions have it");
	else if (!strcmp(r->name, "crun") && !finds_libcriu())
		snprintf(f->why, sizeof(f->why), "it speaks through libcriu.so.2, which is not there; needs apt install libcriu2, or your distribution's");
	else if (!find_program(path, "criu", criu))
		snprintf(f->why, sizeof(f->why), "there is no criu in its PATH; needs " MEND_CRIU);
	else if (!is_fermata(criu))
		snprintf(f->why, sizeof(f->why), "its criu is %.200s, another program; needs " MEND_CRIU " into a folder before that one's", criu);
	else
		snprintf(f->what, sizeof(f->what), "finds our criu, %.200s", criu);
}

static void look(const struct runtime *r, struct finding *f)
{
	_cleanup_free_ char *of_service = r->service ? service_path(r->service) : NULL;
	const char *ours = getenv("PATH"), *path = of_service ? of_service : ours && *ours ? ours : USUAL_PATH;
	char said[4096];

	*f = (struct finding){ .name = r->name };
	f->there = find_program(path, r->program, f->path) || find_program(USUAL_PATH, r->program, f->path);
	if (!f->there)
		return;
	ask(f->path, r->option, said, sizeof(said));
	take_version(said, f->version, sizeof(f->version));
	if (r->runs_criu)
		look_for_criu(r, said, path, f);
	else
		snprintf(f->what, sizeof(f->what), "%s", !strcmp(r->name, "slurm") ? "jobs call fermata as any program" : "asks containerd or CRI-O for checkpoints");
}

size_t check_runtimes(void (*found)(void *data, const struct finding *f), void *data)
{
	size_t missing = 0;

	for (size_t i = 0; i < ARRAY_SIZE(runtimes); i++) {
		struct finding f;
		look(&runtimes[i], &f);
		missing += f.why[0] != '\0';
		found(data, &f);
	}
	return missing;
}
