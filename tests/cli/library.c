/*
 * A user of libfermata, built by tests/cli/run.py against what `make install` installed: library DIR
 *
 * Starts a process that sleeps, checks, saves and restores it through the public API, and looks that it is the same one.
 */
#include <fermata/fermata.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(cond) do { if (!(cond)) { \
	fprintf(stderr, "%s:%d: %s (errno %d; %s)\n", __FILE__, __LINE__, #cond, errno, error.text); \
	exit(1); } } while (0)

static struct fermata_error error;
static int moments, found;

static int hook(void *data, const char *moment, pid_t pid)
{
	CHECK(data == &moments);
	moments++;
	return !strcmp(moment, "post-dump") && moments > 100 ? -EPERM : 0;
}

static void note(void *data, const struct fermata_error *obstacle)
{
	CHECK(data == &found && obstacle->code < 0 && strstr(obstacle->text, "a netlink socket"));
	found++;
}

static void told(void *data, const struct fermata_progress *progress)
{
	CHECK(data == &found && progress->size >= sizeof(*progress) && progress->stage && progress->seconds > 0);
}

/* `out`: a descriptor that it has as number 3 and writes to once it is continued. -1: none. */
static pid_t start_with(int obstacle, int out)
{
	int ready[2];
	char c;
	CHECK(pipe(ready) == 0);
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid)
		return close(ready[1]), (void)!read(ready[0], &c, 1), close(ready[0]), pid;
	int null = open("/dev/null", O_RDWR);
	setsid();
	for (int fd = 0; fd < 3; fd++)
		dup2(null, fd);
	if (out >= 0)
		dup2(out, 3);
	for (int fd = out >= 0 ? 4 : 3; fd < 256; fd++)
		if (fd != ready[1])
			close(fd);
	if (obstacle)
		socket(AF_NETLINK, SOCK_RAW, 11 /* the connector: events of processes */);
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	close(ready[1]);
	for (int sig; out >= 0;)
		if (sigwait(&set, &sig) == 0)
			(void)!write(3, "x", 1);
	for (;;)
		pause();
}

static pid_t start(int obstacle)
{
	return start_with(obstacle, -1);
}

/* One end of a pipe is here, outside: left out, and given again. */
static void try_outside(const char *dir)
{
	struct fermata_options options = FERMATA_OPTIONS_INIT;
	const char *external[] = { "pipe[]", NULL }, *bad[] = { "disk[1]", NULL }, *inherit[] = { NULL, NULL };
	int before[2], after[2];
	char text[64], c = 0;
	struct stat st;
	pid_t back;

	CHECK(mkdir(dir, 0700) == 0 && pipe2(before, O_CLOEXEC) == 0 && pipe2(after, O_CLOEXEC) == 0 && dup2(before[1], 200) == 200 && fstat(before[1], &st) == 0);
	pid_t pid = start_with(0, 200);
	close(200);
	CHECK(fermata_dump(pid, dir, NULL, &error) < 0 && strstr(error.text, "outside the tree"));
	options.external = bad;
	CHECK(fermata_dump(pid, dir, &options, &error) == -EINVAL && strstr(error.text, "disk[1]"));
	options.external = external;
	CHECK(fermata_dump(pid, dir, &options, &error) == 0);
	CHECK(fermata_restore(dir, NULL, &back, &error) < 0 && strstr(error.text, "--inherit-fd"));
	snprintf(text, sizeof(text), "fd[%d]:pipe[%llu]", after[1], (unsigned long long)st.st_ino);
	inherit[0] = text;
	options.inherit = inherit;
	CHECK(fermata_restore(dir, &options, &back, &error) == 0 && back == pid);
	CHECK(kill(pid, SIGUSR1) == 0 && read(after[0], &c, 1) == 1 && c == 'x');
	CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
}

/* With a deleted file of 8 KiB as descriptor 3, by options of each kind. */
static void try_options(const char *dir)
{
	const char *const wrong_map[] = { "GPU-1", NULL };
	struct fermata_options options = FERMATA_OPTIONS_INIT;
	char path[8192];
	pid_t back;
	int ghost = open(dir, O_RDWR | O_TMPFILE, 0600);

	CHECK(ghost >= 0 && ftruncate(ghost, 8192) == 0 && pwrite(ghost, "here", 4, 4096) == 4 && pwrite(ghost, "there", 5, 8187) == 5);
	pid_t pid = start_with(0, ghost);
	options.flags = FERMATA_LEAVE_RUNNING | FERMATA_LIVE;
	options.timeout_s = 5;
	options.gpu = "sometimes";
	CHECK(fermata_dump(pid, dir, &options, &error) == -EINVAL && strstr(error.text, "sometimes"));
	options.gpu = "off";
	options.gpu_map = wrong_map;
	CHECK(fermata_dump(pid, dir, &options, &error) == -EINVAL && strstr(error.text, "GPU-1"));
	options.gpu_map = NULL;
	options.ghost_limit = 1024;
	CHECK(fermata_dump(pid, dir, &options, &error) < 0 && strstr(error.text, "limit"));
	options.ghost_limit = 8192;
	options.file_validation = "filesize";
	CHECK(fermata_dump(pid, dir, &options, &error) == 0);
	options.flags = FERMATA_NO_LIVE;
	snprintf(path, sizeof(path), "%s/stopped", dir);
	CHECK(mkdir(path, 0700) == 0 && fermata_dump(pid, path, &options, &error) == 0);
	options = (struct fermata_options)FERMATA_OPTIONS_INIT;
	options.flags = FERMATA_LAZY | FERMATA_SKIP_FILE_MODES;
	CHECK(fermata_restore(dir, &options, &back, &error) == 0 && back == pid);
	CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
	close(ghost);
}

/* A checkpoint with a parent, and one in a store. */
static void try_chain(const char *dir)
{
	struct fermata_options options = FERMATA_OPTIONS_INIT;
	char first[4200], second[4200], stored[4200];
	pid_t back, pid = start(0);

	snprintf(first, sizeof(first), "%s/first", dir);
	snprintf(second, sizeof(second), "%s/second", dir);
	snprintf(stored, sizeof(stored), "store:%s/store/one", dir);
	CHECK(mkdir(first, 0700) == 0 && mkdir(second, 0700) == 0);
	options.flags = FERMATA_LEAVE_RUNNING | FERMATA_TRACK_MEM;
	CHECK(fermata_dump(pid, first, &options, &error) == 0);
	options.flags = 0;
	options.parent = first;
	CHECK(fermata_dump(pid, second, &options, &error) == 0);
	options.parent = NULL;
	CHECK(fermata_restore(second, &options, &back, &error) == 0 && back == pid);
	CHECK(fermata_dump(pid, stored, &options, &error) == 0);
	CHECK(fermata_restore(stored, &options, &back, &error) == 0 && back == pid);
	CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
}

static void end(pid_t pid)
{
	int status;
	CHECK(kill(pid, SIGTERM) == 0 && waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
}

int main(int argc, char **argv)
{
	struct fermata_options options = FERMATA_OPTIONS_INIT;
	char first[4096], second[4096];
	pid_t back = 0;
	size_t count = 9;

	if (argc < 2)
		return 2;
	snprintf(first, sizeof(first), "%s/first", argv[1]);
	snprintf(second, sizeof(second), "%s/second", argv[1]);
	CHECK(mkdir(first, 0700) == 0 && mkdir(second, 0700) == 0 && *fermata_version());
	pid_t pid = start(0);
	options.hook = hook;
	options.hook_data = &moments;

	CHECK(fermata_check(pid, NULL, note, &found, &count, &error) == 0 && count == 0 && found == 0);
	CHECK(fermata_dump(pid, first, &options, &error) == 0 && error.code == 0 && moments == 2);
	CHECK(waitpid(pid, NULL, 0) == -1 && errno == ECHILD);
	CHECK(fermata_restore(first, &options, &back, &error) == 0 && back == pid && moments == 6);

	/* The second stays when it is left running, and the checkpoint of the first is not written over. */
	options.flags = FERMATA_LEAVE_RUNNING;
	CHECK(fermata_dump(pid, first, &options, &error) == -EEXIST && strstr(error.text, "choose another"));
	CHECK(fermata_dump(pid, second, &options, &error) == 0);
	CHECK(fermata_restore(second, NULL, &back, &error) == -EEXIST && strstr(error.text, "is taken by another process"));
	end(pid);

	/* In an archive, and from one. */
	pid = start(0);
	snprintf(first, sizeof(first), "%s/an.archive", argv[1]);
	options.flags = 0;
	options.hook = NULL;
	options.compression = "zstd:3";
	options.progress = told;
	options.progress_data = &found;
	CHECK(fermata_dump(pid, first, &options, &error) == 0);
	CHECK(fermata_dump(pid, first, &options, &error) == -EEXIST && strstr(error.text, "there already"));
	CHECK(fermata_restore(first, &options, &back, &error) == 0 && back == pid);
	options.compression = "rar";
	CHECK(fermata_dump(pid, second, &options, &error) == -EINVAL && strstr(error.text, "no compression"));
	end(pid);
	options = (struct fermata_options)FERMATA_OPTIONS_INIT;
	options.hook = hook;
	options.hook_data = &moments;

	/* Refused by the caller's hook, by the state of the process, by wrong use. */
	pid = start(1);
	moments = 100;
	snprintf(first, sizeof(first), "%s/third", argv[1]);
	CHECK(mkdir(first, 0700) == 0);
	CHECK(fermata_check(pid, NULL, note, &found, &count, &error) == 0 && count == 1 && found == 1);
	CHECK(fermata_dump(pid, first, NULL, &error) < 0 && strstr(error.text, "a netlink socket"));
	end(pid);
	pid = start(0);
	options.flags = 0;
	CHECK(fermata_dump(pid, first, &options, &error) == -EPERM && strstr(error.text, "hook"));
	options.flags = 1ULL << 60;
	CHECK(fermata_dump(pid, first, &options, &error) == -EINVAL && strstr(error.text, "not known"));
	options.size = 0;
	CHECK(fermata_dump(pid, first, &options, NULL) == -EINVAL && fermata_dump(0, first, NULL, NULL) == -EINVAL);
	CHECK(rmdir(first) == 0); /* it is empty */
	end(pid);
	snprintf(first, sizeof(first), "%s/outside", argv[1]);
	try_outside(first);
	snprintf(first, sizeof(first), "%s/options", argv[1]);
	CHECK(mkdir(first, 0700) == 0);
	try_options(first);
	snprintf(first, sizeof(first), "%s/chain", argv[1]);
	CHECK(mkdir(first, 0700) == 0);
	try_chain(first);
	puts("ok");
	return 0;
}
