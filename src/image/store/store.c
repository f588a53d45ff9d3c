/* The directory of a store: opening it, its lock, its files that get their names when they are whole. See store.h. */
#include "image/store/key.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>

#define MARK "fermata-store"
#define MARK_TEXT "{\"format\": 1, \"chunk\": 4096, \"hash\": \"%s\", \"key\": \"%s\"}\n" /* key: a check of it, or nothing */

int store_split(const char *path, char dir[PATH_MAX], char name[NAME_MAX + 1])
{
	const char *from = store_is_path(path) ? path + strlen(STORE_PREFIX) : path, *slash = strrchr(from, '/');

	if (!slash || !slash[1] || slash[1] == '.')
		return -EINVAL;
	if (strlen(slash + 1) > NAME_MAX || slash - from >= PATH_MAX)
		return -ENAMETOOLONG;
	snprintf(dir, PATH_MAX, "%.*s", slash == from ? 1 : (int)(slash - from), from);
	snprintf(name, NAME_MAX + 1, "%s", slash + 1);
	return 0;
}

void store_hex(const unsigned char id[DIGEST], char to[HEX_ID])
{
	for (size_t i = 0; i < DIGEST; i++)
		snprintf(to + 2 * i, 3, "%02x", id[i]);
}

bool store_unhex(const char *text, unsigned char to[DIGEST])
{
	if (strlen(text) != HEX_ID - 1 || strspn(text, "0123456789abcdef") != HEX_ID - 1)
		return false;
	for (size_t i = 0; i < DIGEST; i++) {
		char two[3] = { text[2 * i], text[2 * i + 1], '\0' };
		to[i] = (unsigned char)strtoul(two, NULL, 16);
	}
	return true;
}

int store_each(int dirfd, int (*found)(void *data, int dirfd, const char *name), void *data)
{
	int r = 0, fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);

	if (!dir) {
		r = -errno;
		if (fd >= 0)
			close(fd);
		return r;
	}
	for (struct dirent *entry; !r && (entry = readdir(dir));)
		if (entry->d_name[0] != '.')
			r = found(data, dirfd, entry->d_name);
	closedir(dir);
	return r;
}

/* ---- files ---- */

int fresh_open(int dirfd, struct fresh *ret)
{
	uint64_t chance;

	*ret = (struct fresh){ .dirfd = dirfd, .fd = openat(dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600) };
	if (ret->fd >= 0)
		return 0;
	if (errno != EOPNOTSUPP && errno != EISDIR)
		return -errno;
	if (getrandom(&chance, sizeof(chance), 0) != sizeof(chance))
		return -EIO;
	snprintf(ret->temporary, sizeof(ret->temporary), TEMPORARY "%016llx", (unsigned long long)chance);
	ret->fd = openat(dirfd, ret->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (ret->fd >= 0)
		return 0;
	ret->temporary[0] = '\0';
	return -errno;
}

/* A name of its own, from which rename(2) can take it: linkat(2) replaces nothing. */
static int name_temporarily(struct fresh *f)
{
	char path[64];
	uint64_t chance;

	if (f->temporary[0])
		return 0;
	if (getrandom(&chance, sizeof(chance), 0) != sizeof(chance))
		return -EIO;
	snprintf(f->temporary, sizeof(f->temporary), TEMPORARY "%016llx", (unsigned long long)chance);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", f->fd);
	if (linkat(AT_FDCWD, path, f->dirfd, f->temporary, AT_SYMLINK_FOLLOW) == 0)
		return 0;
	f->temporary[0] = '\0';
	return -errno;
}

int fresh_name(struct fresh *f, const char *name, bool replace)
{
	char path[64];
	int r = fsync(f->fd) < 0 ? -errno : 0;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", f->fd);
	if (!r && replace) {
		r = name_temporarily(f);
		if (!r && renameat(f->dirfd, f->temporary, f->dirfd, name) < 0)
			r = -errno;
		if (!r)
			f->temporary[0] = '\0';
	} else if (!r) {
		int linked = f->temporary[0] ? linkat(f->dirfd, f->temporary, f->dirfd, name, 0) :
					       linkat(AT_FDCWD, path, f->dirfd, name, AT_SYMLINK_FOLLOW);
		r = linked < 0 ? -errno : 0;
	}
	if (!r && fsync(f->dirfd) < 0)
		r = -errno;
	return r;
}

void fresh_close(struct fresh *f)
{
	if (f->fd >= 0)
		close(f->fd);
	if (f->temporary[0])
		unlinkat(f->dirfd, f->temporary, 0);
	*f = (struct fresh){ .dirfd = -1, .fd = -1 };
}

/* ---- the directory ---- */

static int open_folder(int fd, const char *name, bool make)
{
	if (make && mkdirat(fd, name, 0700) < 0 && errno != EEXIST)
		return -errno;
	int folder = openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	return folder < 0 ? (errno == ENOENT ? -ENOTDIR : -errno) : folder;
}

static int is_empty(void *data, int dirfd, const char *name)
{
	/* What another that makes it at the same time has made is no obstacle. */
	return strcmp(name, "packs") && strcmp(name, "index") && strcmp(name, "checkpoints") && strcmp(name, "lock") && strcmp(name, MARK) ?
		       -ENOTDIR :
		       0;
}

/* The mark comes last: what lacks it is not whole, and is made again. */
static int make_store(struct store *s)
{
	char check[HEX_ID] = "", text[256];
	struct fresh mark;
	int r = store_each(s->fd, is_empty, NULL);

	for (size_t i = 0; !r && i < 3; i++) {
		const char *names[] = { "packs", "index", "checkpoints" };
		if (mkdirat(s->fd, names[i], 0700) < 0 && errno != EEXIST)
			r = -errno;
	}
	if (!r)
		r = fresh_open(s->fd, &mark);
	if (r)
		return r;
	if (s->key)
		store_hex(s->key->check, check);
	snprintf(text, sizeof(text), MARK_TEXT, s->key ? "hmac-sha256" : "sha256", check);
	r = write_whole(mark.fd, text, strlen(text), 0);
	if (!r)
		r = fresh_name(&mark, MARK, false);
	fresh_close(&mark);
	return r == -EEXIST ? 0 : r;
}

static int check_mark(struct store *s)
{
	char *text = NULL, check[HEX_ID] = "", want[HEX_ID + 16];
	int r = read_file_at(s->fd, MARK, 4096, &text, NULL);

	/* Another format has another number. */
	if (!r && !strstr(text, "\"format\": 1,"))
		r = -EPROTONOSUPPORT;
	if (s->key)
		store_hex(s->key->check, check);
	snprintf(want, sizeof(want), "\"key\": \"%s\"", check);
	/* What was made without a key is not read with one: it might be anybody's. */
	if (!r && !strstr(text, want))
		r = s->key ? -EKEYREJECTED : -ENOKEY;
	free(text);
	return r == -ENOENT ? -ENOTDIR : r;
}

static int open_all(struct store *s, bool make)
{
	int r = check_mark(s);

	if (r == -ENOTDIR && make) {
		r = make_store(s);
		if (!r)
			r = check_mark(s);
	}
	if (r)
		return r;
	s->packs = open_folder(s->fd, "packs", false);
	s->index = open_folder(s->fd, "index", make);
	s->checkpoints = open_folder(s->fd, "checkpoints", false);
	s->lock = openat(s->fd, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	/* Who only reads may not be allowed to write. */
	if (s->lock < 0 && !make)
		s->lock = openat(s->fd, "lock", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	return s->packs < 0 ? s->packs : s->checkpoints < 0 ? s->checkpoints : s->index < 0 ? s->index : s->lock < 0 && make ? -errno : 0;
}

int store_dir_open(const char *path, const char *key, bool make, struct store **ret)
{
	const char *dir = store_is_path(path) ? path + strlen(STORE_PREFIX) : path;
	struct store *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	*s = (struct store){ -1, -1, -1, -1, -1, NULL };
	int r = key && *key ? store_key_read(key, &s->key) : 0;
	if (r == -ENOENT || r == -EACCES)
		r = -ENOKEY;
	if (!r)
		r = make && mkdir(dir, 0700) < 0 && errno != EEXIST ? -errno : 0;
	if (!r)
		s->fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (!r)
		r = s->fd < 0 ? -errno : open_all(s, make);
	if (r)
		store_dir_close(s);
	else
		*ret = s;
	return r;
}

void store_dir_close(struct store *s)
{
	if (!s)
		return;
	const int fds[] = { s->fd, s->packs, s->index, s->checkpoints, s->lock };

	/* Said, since a helper that was forked meanwhile may have the descriptor for longer. */
	if (s->lock >= 0)
		flock(s->lock, LOCK_UN);
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	store_key_free(s->key);
	free(s);
}

int store_lock(struct store *s, int how)
{
	while (flock(s->lock, how) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}
