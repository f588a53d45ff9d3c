/* See path.h. */
#include "engine/path.h"

#include <asm/unistd.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <sys/stat.h>

bool path_is_canonical(const char *name)
{
	if (name[0] != '/' || strlen(name) >= PATH_MAX)
		return false;
	for (const char *at = name; at; at = strchr(at, '/')) {
		at++;
		size_t n = strcspn(at, "/");
		if ((n == 1 && at[0] == '.') || (n == 2 && at[0] == '.' && at[1] == '.'))
			return false;
	}
	return true;
}

int path_open(int root, const char *name, int flags)
{
	struct open_how how = { .flags = (uint64_t)(unsigned int)(flags | O_CLOEXEC | O_NOCTTY),
				.resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | (root ? RESOLVE_IN_ROOT : 0) };

	if (!path_is_canonical(name))
		return -EBADMSG;
	if (flags & O_PATH) /* takes no others */
		how.flags &= O_PATH | O_CLOEXEC | O_DIRECTORY | O_NOFOLLOW;
	int fd = (int)syscall(__NR_openat2, root ? root : AT_FDCWD, name, &how, sizeof(how));
	return fd < 0 ? -errno : fd;
}

int path_follow(int root, const char *name, int flags)
{
	struct open_how how = { .flags = (uint64_t)(unsigned int)(flags | O_CLOEXEC | O_NOCTTY), .resolve = root ? RESOLVE_IN_ROOT : 0 };
	int fd = (int)syscall(__NR_openat2, root ? root : AT_FDCWD, name, &how, sizeof(how));

	return fd < 0 ? -errno : fd;
}

int path_stat(int root, const char *name, struct stat *ret)
{
	if (!root)
		return lstat(name, ret) < 0 ? -errno : 0;
	_cleanup_close_ int fd = path_open(root, name, O_PATH | O_NOFOLLOW);
	return fd < 0 ? fd : fstat(fd, ret) < 0 ? -errno : 0;
}

int path_open_parent(int root, const char *name, const char **ret_base)
{
	const char *slash = strrchr(name, '/');
	char dir[PATH_MAX];

	if (!path_is_canonical(name) || !slash || !slash[1])
		return -EBADMSG;
	snprintf(dir, sizeof(dir), "%.*s", (int)MAX(slash - name, 1L), name);
	*ret_base = slash + 1;
	return path_open(root, dir, O_PATH | O_DIRECTORY);
}

int path_error(struct error *e, int code, const char *name)
{
	if (code == -ENOENT || code == -ENOTDIR)
		return error_set(e, code, "%s is no longer there; put it back", name);
	if (code == -EBADMSG)
		return error_set(e, code, "the images are damaged: %s is no name that a file was saved under", name);
	if (code == -ELOOP)
		return error_set(e, code, "the way to %s leads over a symbolic link, which it did not; put back what was there", name);
	return error_errno(e, code, "cannot open %s", name);
}
