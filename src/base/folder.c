/* See folder.h. */
#include "base/folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

static bool is_same(const char *a, const struct stat *b)
{
	struct stat st;

	return stat(a, &st) == 0 && st.st_dev == b->st_dev && st.st_ino == b->st_ino;
}

static bool leads_to(const char *folder, const char *link, const struct stat *target)
{
	char name[PATH_MAX];
	struct stat st;

	if (snprintf(name, sizeof(name), "%s/%s", folder, link) >= (int)sizeof(name))
		return false;
	return lstat(name, &st) == 0 && S_ISLNK(st.st_mode) && is_same(name, target);
}

bool folder_refers(const char *folder, const char *link, const char *path)
{
	struct stat target;

	return stat(path, &target) == 0 && leads_to(folder, link, &target);
}

int folder_find_referrer(const char *path, const char *link, const char *except, char ret[PATH_MAX])
{
	char full[PATH_MAX], found[PATH_MAX + 260];
	struct stat target, other = {};
	int r = 0;

	if (!realpath(path, full) || stat(full, &target) < 0)
		return -errno;
	if (except && stat(except, &other) < 0)
		return -errno;
	char *name = strrchr(full, '/');
	*name = '\0';
	DIR *dir = opendir(full[0] ? full : "/");
	if (!dir)
		return -errno;
	for (struct dirent *entry; !r && (entry = readdir(dir));) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..") || !strncmp(entry->d_name, ".fermata-", 9))
			continue;
		snprintf(found, sizeof(found), "%s/%s", full, entry->d_name);
		r = strlen(found) < PATH_MAX && leads_to(found, link, &target) && !(except && is_same(found, &other));
	}
	closedir(dir);
	if (r)
		snprintf(ret, PATH_MAX, "%.*s", PATH_MAX - 1, found);
	return r;
}

int folder_remove(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	int r = dir ? 0 : -errno;

	if (!dir) {
		if (fd >= 0)
			close(fd);
		return r;
	}
	unlinkat(fd, "inventory.img", 0);
	for (struct dirent *entry; !r && (entry = readdir(dir));)
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..") && unlinkat(fd, entry->d_name, 0) < 0)
			r = -errno;
	closedir(dir);
	return r ? r : rmdir(path) < 0 ? -errno : 0;
}
