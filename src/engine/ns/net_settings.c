/*
 * What stands below /proc/sys/net of a network namespace: all of it goes into netns-ID.img, and what is other in the new one is set there. Files
 * that can't be read, or written, are left out; one that this kernel has not is said and left out.
 *
 * IPv6 addresses are given to devices by the kernel too, and tried out on the link first (DAD): neither is wanted while the namespace is made.
 */
#include "engine/ns/net.h"

#include "base/log.h"
#include "proc/sysctl.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#define VALUE_MAX 65536
#define PATH_SIZE 256
#define SETTINGS_MAX 1000000
#define DEPTH_MAX 8
#define ROOT "sys/net"

struct settings {
	struct pool *pool;
	VEC(NetSetting *) list;
	char *value; /* VALUE_MAX bytes */
	bool failed;
};

/* Without what ends the line; negative errno. */
static ssize_t read_value(int dir, const char *name, char *to)
{
	_cleanup_close_ int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	ssize_t n = fd < 0 ? -1 : read(fd, to, VALUE_MAX);

	if (n < 0)
		return -errno;
	while (n > 0 && to[n - 1] == '\n')
		n--;
	return n;
}

static void take_file(struct settings *s, int dir, const char *name, const char *path)
{
	const ssize_t n = read_value(dir, name, s->value);
	NetSetting *x = n < 0 || n == VALUE_MAX ? NULL : pool_take(s->pool, sizeof(*x));
	NetSetting **slot = x ? VEC_PUSH(&s->list) : NULL;

	if (n < 0 || n == VALUE_MAX)
		return;
	if (!slot) {
		s->failed = true;
		return;
	}
	net_setting__init(x);
	x->path = pool_copy(s->pool, path, strlen(path) + 1);
	x->value = (ProtobufCBinaryData){ (size_t)n, pool_copy(s->pool, s->value, (size_t)n + 1) };
	s->failed |= !x->path || !x->value.data;
	*slot = x;
}

/* `path`: of the directory, "" or with a slash behind it. Takes `fd`. */
static void take_directory(struct settings *s, int fd, const char *path, int depth)
{
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *entry;

	if (!dir && fd >= 0)
		close(fd);
	while (dir && (entry = readdir(dir))) {
		char below[PATH_SIZE];
		struct stat st;
		if (entry->d_name[0] == '.' || fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		int n = snprintf(below, sizeof(below), "%s%s%s", path, entry->d_name, S_ISDIR(st.st_mode) ? "/" : "");
		if (n >= (int)sizeof(below) || depth == DEPTH_MAX)
			continue;
		if (S_ISDIR(st.st_mode))
			take_directory(s, openat(dirfd(dir), entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC), below, depth + 1);
		else if (S_ISREG(st.st_mode) && (st.st_mode & 0600) == 0600)
			take_file(s, dirfd(dir), entry->d_name, below);
	}
	if (dir)
		closedir(dir);
}

int net_settings_capture(struct net_dump *n, NetnsEntry *e)
{
	_cleanup_free_ char *value = malloc(VALUE_MAX + 1);
	struct settings s = { .pool = &n->pool, .value = value };
	_cleanup_close_ int proc = sysctl_proc();

	if (proc < 0)
		return error_errno(n->d->e, proc, "cannot look at the settings of its network namespace");
	if (value)
		take_directory(&s, openat(proc, ROOT, O_RDONLY | O_DIRECTORY | O_CLOEXEC), "", 0);
	e->n_settings = s.list.count;
	e->settings = pool_copy(&n->pool, s.list.data, s.list.count * sizeof(*s.list.data));
	VEC_FREE(&s.list);
	return !value || s.failed || (e->n_settings && !e->settings) ? error_set(n->d->e, -ENOMEM, "out of memory") : 0;
}

/* ---- restore ---- */

static bool is_path(const char *path)
{
	return path[0] && path[0] != '/' && !strstr(path, "..") && strlen(path) < PATH_SIZE;
}

static int write_value(int dir, const char *path, const char *value, size_t size)
{
	_cleanup_close_ int fd = openat(dir, path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);

	if (fd < 0)
		return -errno;
	/* An empty list is a line without anything. */
	ssize_t n = size ? write(fd, value, size) : write(fd, "\n", 1);
	return n < 0 ? -errno : 0;
}

/* Those of all devices change others when they are written: they come before those of new devices, and these before each device's own. */
static int turn_of(const char *path)
{
	const char *conf = strstr(path, "/conf/");

	return !conf ? 0 : !strncmp(conf, "/conf/all/", 10) ? 1 : !strncmp(conf, "/conf/default/", 14) ? 2 : 3;
}

static bool comes_last(const char *path)
{
	const char *name = strrchr(path, '/');

	return name && (!strcmp(name, "/accept_dad") || !strcmp(name, "/addr_gen_mode"));
}

/* Of a device that comes with a descriptor: "ipv4/conf/NAME/…", "ipv4/neigh/NAME/…". */
static bool is_descriptors(const struct net_restore *n, const char *path)
{
	VEC_FOREACH(&n->devices, e) {
		const size_t size = strlen((*e)->name);
		const char *at = net_device_is_descriptors(n->s, *e) ? strchr(path, '/') : NULL;
		at = at ? strchr(at + 1, '/') : NULL;
		if (at && !strncmp(at + 1, (*e)->name, size) && at[1 + size] == '/')
			return true;
	}
	return false;
}

static int set(struct net_restore *n, int root, const NetSetting *x, char *is, const char **ret_lacking)
{
	const ssize_t size = read_value(root, x->path, is);

	if (size == -ENOENT) {
		*ret_lacking = x->path;
		return 0;
	}
	if (size < 0 || ((size_t)size == x->value.len && !memcmp(is, x->value.data, x->value.len)))
		return 0;
	int r = write_value(root, x->path, (const char *)x->value.data, x->value.len);
	if (r && n->s->request->weak_sysctls) {
		log_warning("Cannot set net/%s of the network namespace: %s", x->path, strerror(-r));
		return 0;
	}
	return r ? error_errno(n->s->e, r, "cannot set net/%s of the network namespace (--weak-sysctls goes on without)", x->path) : 0;
}

int net_settings_prepare(struct net_restore *n)
{
	_cleanup_close_ int proc = sysctl_proc();
	_cleanup_close_ int root = proc < 0 ? -1 : openat(proc, ROOT, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (root < 0)
		return error_errno(n->s->e, -errno, "cannot set up a network namespace");
	/* Where there is no IPv6 there is none of these. */
	write_value(root, "ipv6/conf/all/accept_dad", "0", 1);
	write_value(root, "ipv6/conf/default/accept_dad", "0", 1);
	write_value(root, "ipv6/conf/default/addr_gen_mode", "1", 1);
	return 0;
}

int net_settings_make(struct net_restore *n, const NetnsEntry *e, enum net_settings which)
{
	const char *lacking = NULL;
	_cleanup_free_ char *is = malloc(VALUE_MAX + 1);
	_cleanup_close_ int proc = sysctl_proc();
	_cleanup_close_ int root = proc < 0 ? -1 : openat(proc, ROOT, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = 0;

	if (root < 0 || !is)
		return error_errno(n->s->e, is ? -errno : -ENOMEM, "cannot set up a network namespace");
	if (e->n_settings > SETTINGS_MAX)
		return error_set(n->s->e, -EBADMSG, "netns-%u.img is damaged", n->id);
	for (int turn = 0; turn < 4; turn++)
		for (size_t i = 0; !r && i < e->n_settings; i++) {
			const NetSetting *x = e->settings[i];
			if (!is_path(x->path))
				return error_set(n->s->e, -EBADMSG, "netns-%u.img is damaged", n->id);
			const enum net_settings its = is_descriptors(n, x->path) ? NET_SETTINGS_DESCRIPTORS : comes_last(x->path) ? NET_SETTINGS_LAST : NET_SETTINGS_FIRST;
			if (turn_of(x->path) == turn && its == which)
				r = set(n, root, x, is, &lacking);
		}
	if (lacking)
		log_warning("The network namespace had settings that this kernel has not, net/%s among them", lacking);
	return r;
}
