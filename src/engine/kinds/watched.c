/*
 * See watched.h. A watched file is found by its handle, with open_by_handle_at(2), and saved by its path; what was deleted and is still open
 * somewhere as a file of its own, what has no path that the kernel knows of by its handle alone.
 */
#include "engine/kinds/watched.h"

#include "engine/kinds/regfile.h"
#include "engine/ns/mnt.h"
#include "engine/path.h"
#include "engine/task/task.h"

#include <fcntl.h>

struct handle {
	struct file_handle head;
	unsigned char bytes[WATCHED_HANDLE_MAX];
};

void watched_unescape(char *text)
{
	char *to = text;

	for (const char *at = text; *at; at++) {
		unsigned int c;
		if (*at == '\\' && sscanf(at + 1, "%3o", &c) == 1) {
			*to++ = (char)c;
			at += 3;
		} else {
			*to++ = *at;
		}
	}
	*to = '\0';
}

int watched_open_mount(uint32_t dev)
{
	_cleanup_free_ char *text = NULL;
	char *line, *save = NULL;

	if (read_file_at(AT_FDCWD, "/proc/self/mountinfo", 16 << 20, &text, NULL))
		return -1;
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		unsigned int maj, min;
		char point[4096];
		if (sscanf(line, "%*d %*d %u:%u %*s %4095s", &maj, &min, point) != 3 || ((maj << 20) | min) != dev)
			continue;
		watched_unescape(point);
		int fd = open(point, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
		if (fd >= 0)
			return fd;
	}
	return -1;
}

/* `d`: of the dump; or NULL. */
static int open_handle(const struct dump *d, uint32_t dev, struct file_handle *handle)
{
	_cleanup_close_ int mount = d && d->mounts ? mounts_open_of(d, dev) : watched_open_mount(dev);
	int fd = mount < 0 ? -1 : open_by_handle_at(mount, handle, O_PATH | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/* Its path; or the id of a file that was deleted; or neither, where the kernel has forgotten the name: the handle will do. */
static int find_file(struct dump *d, struct descriptor *f, struct handle *handle, uint32_t dev, uint64_t ino, struct watched *w)
{
	static const char mark[] = " (deleted)";
	struct descriptor g = { .task = f->task, .fd = -1, .flags = O_PATH };
	FownEntry fown = FOWN_ENTRY__INIT;
	char link[64];
	struct stat st;
	_cleanup_close_ int fd = open_handle(d, dev, &handle->head);

	if (fd < 0)
		return fd_errno(d, f, fd, "watches a file (inode %llu) that can't be found", (unsigned long long)ino);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, g.target, sizeof(g.target) - 1);
	if (n < 0 || fstat(fd, &g.st) < 0)
		return fd_errno(d, f, -errno, "watches a file (inode %llu) that can't be examined", (unsigned long long)ino);
	g.target[n] = '\0';
	w->handle.has_mode = 1;
	w->handle.mode = g.st.st_mode;
	if ((size_t)n < sizeof(w->path) && path_is_canonical(g.target) && path_stat(d->root_fd, g.target, &st) == 0 && st.st_ino == g.st.st_ino && st.st_dev == g.st.st_dev) {
		memcpy(w->path, g.target, (size_t)n + 1);
		w->handle.path = w->path;
		return 0;
	}
	if ((size_t)n < sizeof(mark) || strcmp(g.target + n - (sizeof(mark) - 1), mark))
		return g.st.st_nlink ? 0 : fd_error(d, f, -ENOENT, "watches a deleted file (inode %llu) whose name is not known", (unsigned long long)ino);
	g.own_fd = fd;
	g.fown = &fown;
	g.id = w->file = ++d->next_file_id;
	return regfile_capture(d, &g);
}

int watched_capture(struct dump *d, struct descriptor *f, const char *text, uint32_t dev, uint64_t ino, struct watched *ret)
{
	unsigned int bytes, type;
	int used = 0;
	struct handle handle;

	fh_entry__init(&ret->handle);
	ret->file = 0;
	if (sscanf(text, "fhandle-bytes:%x fhandle-type:%x f_handle:%n", &bytes, &type, &used) != 2 || !used || bytes > WATCHED_HANDLE_MAX)
		return fd_error(d, f, -ENOTSUP, "does not tell what it watches (CONFIG_FHANDLE)");
	handle.head.handle_bytes = bytes;
	handle.head.handle_type = (int)type;
	for (unsigned int i = 0; i < bytes; i++) {
		unsigned int byte;
		if (sscanf(text + used + 2 * i, "%2x", &byte) != 1)
			return fd_error(d, f, -EBADMSG, "has a file handle that can't be read");
		handle.bytes[i] = ((unsigned char *)ret->words)[i] = (unsigned char)byte;
	}
	ret->handle.bytes = bytes;
	ret->handle.type = type;
	ret->handle.handle = ret->words;
	ret->handle.n_handle = (bytes + 7) / 8;
	return find_file(d, f, &handle, dev, ino, ret);
}

static int open_by_entry(struct restore *s, const FhEntry *h, uint32_t dev, uint64_t ino)
{
	struct handle handle = {};
	struct stat st;

	if (h->bytes > WATCHED_HANDLE_MAX || (h->bytes + 7) / 8 > h->n_handle)
		return error_set(s->e, -EBADMSG, "a watched file has a handle that can't be");
	handle.head.handle_bytes = h->bytes;
	handle.head.handle_type = (int)h->type;
	memcpy(handle.bytes, h->handle, h->bytes);
	int fd = open_handle(NULL, dev, &handle.head);
	if (fd >= 0 && fstat(fd, &st) == 0 && st.st_ino == ino)
		return fd;
	if (fd >= 0)
		close(fd);
	return error_set(s->e, -ENOENT, "a file (inode %llu) that is watched is no longer there, and its name was not known", (unsigned long long)ino);
}

int watched_open(struct restore *s, const FhEntry *handle, uint32_t file, uint32_t dev, uint64_t ino)
{
	const char *path = handle ? handle->path : NULL;

	if (file) {
		int fd = file_fd_early(s, file);
		int copy = fd < 0 ? fd : fcntl(fd, F_DUPFD_CLOEXEC, 0);
		return fd >= 0 && copy < 0 ? error_errno(s->e, -errno, "cannot hold a descriptor") : copy;
	}
	if (!path || !path[0])
		return handle ? open_by_entry(s, handle, dev, ino) : error_set(s->e, -EBADMSG, "a watch is on nothing");
	int fd = path_open(s->root_fd, path, O_PATH | O_NOFOLLOW);
	struct stat st;
	if (fd < 0)
		return path_error(s->e, fd, path);
	if (!handle->has_mode || (fstat(fd, &st) == 0 && (st.st_mode & S_IFMT) == (handle->mode & S_IFMT)))
		return fd;
	close(fd);
	return error_set(s->e, -ESTALE, "%s is of another kind than at the dump; put back what was there", path);
}
