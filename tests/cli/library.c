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

static pid_t start(int obstacle)
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
	for (int fd = 3; fd < 256; fd++)
		if (fd != ready[1])
			close(fd);
	if (obstacle)
		socket(AF_NETLINK, SOCK_RAW, 12 /* of netfilter */);
	close(ready[1]);
	for (;;)
		pause();
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
	puts("ok");
	return 0;
}
