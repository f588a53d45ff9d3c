/* See freezer.h. Of the kernel: cgroups(7), admin-guide/cgroup-v2.rst, admin-guide/cgroup-v1/freezer-subsystem.rst. */
#include "proc/freezer.h"

#include <fcntl.h>
#include <limits.h>
#include <mntent.h>
#include <sys/stat.h>
#include <time.h>

#define TEXT_MAX (1u << 16)
#define STEP_NS 1000000L
#define TRIES 10

enum version { V2, V1 };
static const struct {
	const char *type, *option, *file, *freeze, *state;
} versions[] = {
	[V2] = { "cgroup2", NULL, "cgroup.freeze", "1", "cgroup.events" },
	[V1] = { "cgroup", "freezer", "freezer.state", "FROZEN", "freezer.state" },
};

/* The group's path within the hierarchy, as /proc/PID/cgroup has it: "0::/a/b", "6:cpu,freezer:/a/b". */
static int read_path(pid_t pid, enum version v, char ret[PATH_MAX])
{
	char name[64], *text = NULL, *save = NULL;
	int found = -ENOENT;

	snprintf(name, sizeof(name), "/proc/%d/cgroup", pid);
	int r = read_file_at(AT_FDCWD, name, TEXT_MAX, &text, NULL);
	for (char *line = r ? NULL : strtok_r(text, "\n", &save); line && found; line = strtok_r(NULL, "\n", &save)) {
		char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;
		if (!path)
			continue;
		*path++ = '\0';
		bool has = v == V2 ? !names[1] : false;
		for (char *one = v == V1 ? names + 1 : NULL; one; one = strchr(one, ',') ? strchr(one, ',') + 1 : NULL)
			has |= !strncmp(one, "freezer", 7) && (one[7] == ',' || !one[7]);
		/* Above the root of our cgroup namespace: there is no way to name it. */
		if (has && strncmp(path, "/..", 3))
			found = snprintf(ret, PATH_MAX, "%s", path) < PATH_MAX ? 0 : -ENAMETOOLONG;
	}
	free(text);
	return r ? r : found;
}

static bool is_ours(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash && !strcmp(slash + 1, FREEZER_GROUP);
}

static bool holds(pid_t pid, enum version v, char path[PATH_MAX])
{
	return read_path(pid, v, path) == 0 && is_ours(path);
}

/* The directory of the hierarchy. */
static int find_mount(enum version v, char ret[PATH_MAX])
{
	FILE *f = setmntent("/proc/self/mounts", "re");
	char buffer[4 * PATH_MAX];
	struct mntent m;
	int r = -ENOENT;

	while (f && r && getmntent_r(f, &m, buffer, sizeof(buffer)))
		if (!strcmp(m.mnt_type, versions[v].type) && (!versions[v].option || hasmntopt(&m, versions[v].option)))
			r = snprintf(ret, PATH_MAX, "%s", m.mnt_dir) < PATH_MAX ? 0 : -ENAMETOOLONG;
	if (f)
		endmntent(f);
	return r;
}

/* A directory of the hierarchy, to be closed. */
static int open_group(enum version v, const char *path)
{
	char mount[PATH_MAX], full[2 * PATH_MAX];
	int r = find_mount(v, mount);

	if (r)
		return r;
	snprintf(full, sizeof(full), "%s%s", mount, path);
	r = open(full, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return r < 0 ? -errno : r;
}

static int write_at(int dir, const char *name, const char *text)
{
	_cleanup_close_ int fd = openat(dir, name, O_WRONLY | O_CLOEXEC);

	return fd < 0 || write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

static int move(int group, pid_t pid)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", pid);
	return write_at(group, "cgroup.procs", text);
}

static int hold_below(int group, enum version v, pid_t pid)
{
	if (mkdirat(group, FREEZER_GROUP, 0755) < 0 && errno != EEXIST)
		return -errno;
	_cleanup_close_ int ours = openat(group, FREEZER_GROUP, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = ours < 0 ? -errno : write_at(ours, versions[v].file, versions[v].freeze);
	if (!r)
		r = move(ours, pid);
	if (r)
		unlinkat(group, FREEZER_GROUP, AT_REMOVEDIR);
	return r;
}

static int hold_by(enum version v, pid_t pid)
{
	char path[PATH_MAX];
	int r = read_path(pid, v, path);

	if (r)
		return r;
	_cleanup_close_ int group = open_group(v, path);
	if (group < 0)
		return group;
	/* Another may remove ours in between: it was empty until now. */
	for (int i = 0; i < TRIES; i++)
		if ((r = hold_below(group, v, pid)) != -ENOENT && r != -ENODEV)
			break;
	return r;
}

int freezer_hold(pid_t pid)
{
	int r = freezer_holds(pid) ? 0 : hold_by(V2, pid);

	return r ? hold_by(V1, pid) : 0;
}

static bool is_frozen(int group, enum version v)
{
	char *text = NULL;
	bool frozen = false;

	if (read_file_at(group, versions[v].state, TEXT_MAX, &text, NULL) == 0)
		frozen = v == V2 ? strstr(text, "frozen 1") != NULL : !strncmp(text, "FROZEN", 6);
	free(text);
	return frozen;
}

int freezer_wait(pid_t pid, int timeout_ms)
{
	const struct timespec step = { .tv_nsec = STEP_NS };
	char path[PATH_MAX];
	enum version v = holds(pid, V2, path) ? V2 : V1;

	if (v == V1 && !holds(pid, V1, path))
		return -ESRCH;
	_cleanup_close_ int group = open_group(v, path);
	if (group < 0)
		return group;
	for (int i = 0; !is_frozen(group, v); i++) {
		if (i >= timeout_ms)
			return -ETIMEDOUT;
		nanosleep(&step, NULL);
	}
	return 0;
}

int freezer_release(pid_t pid)
{
	char path[PATH_MAX];
	int released = 0;

	for (enum version v = V2; v <= V1; v++) {
		if (!holds(pid, v, path))
			continue;
		*strrchr(path, '/') = '\0';
		_cleanup_close_ int group = open_group(v, path);
		int r = group < 0 ? group : move(group, pid);
		if (r)
			return r;
		/* It stays while others are in it. */
		unlinkat(group, FREEZER_GROUP, AT_REMOVEDIR);
		released = 1;
	}
	return released;
}

bool freezer_holds(pid_t pid)
{
	char name[64], *text = NULL;

	snprintf(name, sizeof(name), "/proc/%d/cgroup", pid);
	bool held = read_file_at(AT_FDCWD, name, TEXT_MAX, &text, NULL) == 0 && strstr(text, "/" FREEZER_GROUP "\n");
	free(text);
	return held;
}

int freezer_above(pid_t pid)
{
	char path[PATH_MAX];

	for (enum version v = V2; v <= V1; v++) {
		if (!holds(pid, v, path))
			continue;
		*strrchr(path, '/') = '\0';
		int fd = open_group(v, path);
		return MAX(fd, -1);
	}
	return -1;
}

void freezer_tidy(int above)
{
	if (above < 0)
		return;
	unlinkat(above, FREEZER_GROUP, AT_REMOVEDIR);
	close(above);
}
