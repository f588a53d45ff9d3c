/*
 * Checkpoints on disk: which are whole, how large they are, which are to go. A directory is whole once it has inventory.img, which a dump
 * names last; an archive gets its name only when it is, and so does the file that is a checkpoint in a store.
 */
#include "daemon/daemon.h"

#include "base/folder.h"
#include "base/log.h"
#include "base/store_path.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/random.h>
#include <sys/stat.h>

static const char *const endings[] = { "", ".tar", ".tar.gz", ".tar.lz4", ".tar.zlib", ".tar.zst", ".gz", ".lz4", ".zlib", ".zst" };

/* What of it is on disk: in a store, the file that is the checkpoint. */
static const char *on_disk(const char *path, char file[STORE_PATH_MAX + 20])
{
	if (!store_is_path(path))
		return path;
	return store_file(path, "checkpoints", file, STORE_PATH_MAX + 20) ? "" : file;
}

bool checkpoint_find(const char *path, char ret[STORE_PATH_MAX])
{
	char file[STORE_PATH_MAX + 20];

	if (store_is_path(path))
		return snprintf(ret, STORE_PATH_MAX, "%s", path) < STORE_PATH_MAX && access(on_disk(path, file), F_OK) == 0;
	for (size_t i = 0; i < ARRAY_SIZE(endings); i++) {
		if (snprintf(ret, STORE_PATH_MAX, "%s%s", path, endings[i]) < STORE_PATH_MAX && access(ret, F_OK) == 0)
			return true;
	}
	return false;
}

bool checkpoint_is_whole(const char *path)
{
	char file[STORE_PATH_MAX + 20];
	struct stat st;

	if (stat(on_disk(path, file), &st) < 0)
		return false;
	if (S_ISREG(st.st_mode))
		return st.st_size > 0;
	snprintf(file, sizeof(file), "%s/inventory.img", path);
	if (access(file, F_OK) == 0)
		return true;
	/* One in streams, whose first is named last; its ending says how it is packed. */
	bool found = false;
	for (size_t i = 0; i < ARRAY_SIZE(endings) && !found; i++) {
		snprintf(file, sizeof(file), "%s/img-0%s", path, endings[i]);
		found = access(file, F_OK) == 0;
	}
	return found;
}

static uint64_t size_at(int parent, const char *name)
{
	struct stat st;
	uint64_t size = 0;

	if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return 0;
	if (!S_ISDIR(st.st_mode))
		return (uint64_t)st.st_size;
	int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	for (struct dirent *entry; dir && (entry = readdir(dir));)
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			size += size_at(fd, entry->d_name);
	if (dir)
		closedir(dir);
	return size;
}

/* Of one in a store: what it added there. */
uint64_t checkpoint_size(const char *path)
{
	char file[STORE_PATH_MAX + 20];
	uint64_t size = size_at(AT_FDCWD, on_disk(path, file)), added = 0;
	_cleanup_close_ int fd = store_is_path(path) ? open(file, O_RDONLY | O_CLOEXEC) : -1;

	return fd >= 0 && pread(fd, &added, sizeof(added), STORE_ADDED_OFFSET) == sizeof(added) ? size + added : size;
}

static int remove_at(int parent, const char *name)
{
	int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), r = 0;
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;

	if (!dir) {
		if (fd >= 0)
			close(fd);
		return unlinkat(parent, name, 0) < 0 && errno != ENOENT ? -errno : 0;
	}
	/* The mark that makes it a checkpoint goes first, so that half of one is none. */
	unlinkat(fd, "inventory.img", 0);
	for (struct dirent *entry; !r && (entry = readdir(dir));)
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			r = remove_at(fd, entry->d_name);
	closedir(dir);
	return r ? r : unlinkat(parent, name, AT_REMOVEDIR) < 0 && errno != ENOENT ? -errno : 0;
}

int remove_tree(const char *path)
{
	return remove_at(AT_FDCWD, path);
}

static bool is_beside(const char *a, const char *b)
{
	const char *end = strrchr(a, '/');
	const size_t length = end ? (size_t)(end - a) + 1 : 0;

	return !strncmp(a, b, length) && !strchr(b + length, '/');
}

/* Another checkpoint has pages in it. Those that the daemon knows may be anywhere, others are looked for beside it. */
static int check_needed(struct daemon *d, const struct checkpoint *c, struct error *e)
{
	struct checkpoint_list list = {};
	char other[PATH_MAX] = "";
	int r = store_list_checkpoints(d->store, NULL, &list, e);

	for (size_t i = 0; !r && !other[0] && i < list.count; i++)
		if (strcmp(list.data[i].id, c->id) != 0 && !is_beside(list.data[i].path, c->path) && folder_refers(list.data[i].path, "parent", c->path))
			snprintf(other, sizeof(other), "%s", list.data[i].path);
	VEC_FREE(&list);
	if (!r && (other[0] || folder_find_referrer(c->path, "parent", NULL, other) == 1))
		r = error_set(e, -EBUSY, "the checkpoint %s is the parent of %s, which has pages in it; fermata checkpoint flatten %s first, or remove that one",
			      c->path, other, other);
	return r;
}

int checkpoint_remove(struct daemon *d, const struct checkpoint *c, struct error *e)
{
	struct checkpoint leaving = *c;
	char file[STORE_PATH_MAX + 20];
	int r = check_needed(d, c, e);

	/* Whoever finds half of it after us must know that it is to go. */
	leaving.state = CHECKPOINT_LEAVING;
	if (!r)
		r = store_put_checkpoint(d->store, &leaving, false, e);
	if (r)
		return r;
	r = remove_tree(on_disk(c->path, file));
	if (r)
		return error_errno(e, r, "cannot remove the checkpoint %s", c->path);
	prune_want(d, c->path);
	d->counters.checkpoints_removed++;
	return store_delete_checkpoint(d->store, c->id, e);
}

int checkpoint_last(struct daemon *d, const char *jid, struct checkpoint *ret, struct error *e)
{
	struct checkpoint_list list = {};
	int r = store_list_checkpoints(d->store, jid, &list, e);
	const struct checkpoint *found = NULL;

	for (size_t i = 0; !r && i < list.count && !found; i++)
		if (list.data[i].state == CHECKPOINT_WHOLE)
			found = &list.data[i];
	if (found)
		*ret = *found;
	VEC_FREE(&list);
	return r ? r : found ? 0 : error_set(e, -ENOENT, "job %s has no checkpoint; fermata dump job %s makes one", jid, jid);
}

void checkpoint_new_id(char ret[24])
{
	uint64_t number = 0;

	if (getrandom(&number, sizeof(number), 0) < 0)
		number = (uint64_t)now_ns();
	snprintf(ret, 24, "%012llx", (unsigned long long)(number & 0xffffffffffffULL));
}

void checkpoint_retain(struct daemon *d, const char *jid, int64_t keep)
{
	struct checkpoint_list list = {};
	struct error e = {};
	int64_t seen = 0;
	int r = keep > 0 ? store_list_checkpoints(d->store, jid, &list, &e) : 0;

	for (size_t i = 0; !r && i < list.count; i++)
		if (list.data[i].state == CHECKPOINT_WHOLE && !strcmp(list.data[i].type, "periodic") && ++seen > keep) {
			r = checkpoint_remove(d, &list.data[i], &e);
			r = r == -EBUSY ? 0 : r; /* it stays until those have gone that have pages in it */
		}
	if (r)
		log_warning("%s", e.text);
	VEC_FREE(&list);
}

/* Its job was ended by the dump, and nobody was there to note it. */
static void note_dumped(struct daemon *d, const char *jid)
{
	struct error e = {};
	struct job j = {};

	if (!jid[0] || store_get_job(d->store, jid, &j, &e) || job_runs(&j))
		return;
	/* What its supervisor says comes first, or it would be taken for a failure later. */
	job_wait_end(d, &j);
	if (job_lock(d, &j, &e))
		return;
	bool by_dump = j.state == JOB_HALTED && !strcmp(j.ended, "exited") && j.exit_code == 128 + SIGKILL;
	if (by_dump)
		snprintf(j.ended, sizeof(j.ended), "dumped");
	if (job_unlock(d, &j, by_dump, &e))
		log_warning("%s", e.text);
}

void checkpoint_key(const struct checkpoint *c, char ret[CHECKPOINT_KEY_MAX])
{
	snprintf(ret, CHECKPOINT_KEY_MAX, "checkpoint %.40s", c->id);
}

static int recover_one(struct daemon *d, struct checkpoint *c, size_t *pending, struct error *e)
{
	char path[STORE_PATH_MAX];

	if (c->state == CHECKPOINT_WHOLE)
		return 0;
	if (identity_alive(&c->worker)) {
		(*pending)++;
		return 0;
	}
	if (checkpoint_find(c->path, path) && checkpoint_is_whole(path)) {
		snprintf(c->path, sizeof(c->path), "%s", path);
		c->state = CHECKPOINT_WHOLE;
		c->size = (int64_t)checkpoint_size(path);
		note_dumped(d, c->jid);
		log_info("the checkpoint %s was finished while no daemon ran", path);
		return store_put_checkpoint(d->store, c, false, e);
	}
	log_info("the checkpoint %s is half-written and is removed", c->path);
	if (checkpoint_find(c->path, path))
		snprintf(c->path, sizeof(c->path), "%s", path);
	return checkpoint_remove(d, c, e);
}

void checkpoints_remove_rest(struct daemon *d)
{
	struct checkpoint_list list = {};
	struct error e = {};
	int r = store_list_unfinished(d->store, &list, &e);

	for (size_t i = 0; !r && i < list.count; i++) {
		if (list.data[i].state != CHECKPOINT_LEAVING)
			continue;
		log_info("the checkpoint %s was being removed, and is now", list.data[i].path);
		if (checkpoint_remove(d, &list.data[i], &e))
			log_warning("%s", e.text);
	}
	if (r)
		log_warning("%s", e.text);
	VEC_FREE(&list);
}

int checkpoints_recover(struct daemon *d, size_t *ret_pending, struct error *e)
{
	*ret_pending = 0;
	struct checkpoint_list list = {};
	int r = store_list_unfinished(d->store, &list, e);

	for (size_t i = 0; !r && i < list.count; i++) {
		struct checkpoint *c = &list.data[i];
		char key[CHECKPOINT_KEY_MAX], id[sizeof(c->id)];
		struct error gone = {};
		checkpoint_key(c, key);
		if (c->state != CHECKPOINT_PENDING || busy_is(d, key))
			continue;
		/* Whoever was at work on it until just now has written down what became of it. */
		memcpy(id, c->id, sizeof(id));
		if (store_get_checkpoint(d->store, id, c, &gone) == 0 && c->state == CHECKPOINT_PENDING)
			r = recover_one(d, c, ret_pending, e);
	}
	VEC_FREE(&list);
	return r;
}
