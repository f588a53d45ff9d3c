/*
 * Checking a checkpoint against its manifest. Sizes and small files at once, and what was read of these is kept for image_open;
 * large ones (pages) in threads of their own, while the caller goes on until image_dir_verified.
 */
#include "image/image.h"

#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <xxhash.h>

#define BUFFER_SIZE (256u << 10)
#define MANIFEST_MAX (64 << 20)
#define SMALL_MAX (64 << 10) /* larger files are left to the threads */
#define BLOCK_MIN (64 << 10)
#define KEPT_MAX (4UL << 20)
#define WORKERS_MAX 4
#define STACK_SIZE (64UL << 10)

struct item {
	const char *name, *digest; /* the manifest's */
	int fd;
	bool unreadable, left;
	uint64_t size, block; /* the checksum is that of the checksums of blocks of this size; 0: of the whole */
	size_t first_unit, n_units; /* what a thread reads at a time: a block, or the whole */
	XXH128_canonical_t *units;
};

struct worker {
	struct image_verification *v;
	pthread_t thread;
	unsigned char *buffer;
	XXH3_state_t *hash;
};

struct image_verification {
	json_t *manifest;
	struct item *items; /* large files */
	size_t count, n_units, next;
	struct worker workers[WORKERS_MAX];
	size_t n_workers;
	bool cancelled;
};

static bool digest_is(XXH128_hash_t is, const char *digest)
{
	char text[33];

	snprintf(text, sizeof(text), "%016llx%016llx", (unsigned long long)is.high64, (unsigned long long)is.low64);
	return !strcmp(text, digest);
}

static void verify_unit(struct worker *w, struct item *item, size_t unit)
{
	uint64_t length = item->block ? item->block : item->size, at = unit * length, end = MIN(at + length, item->size);

	if (__atomic_load_n(&item->left, __ATOMIC_RELAXED))
		return;
	XXH3_128bits_reset(w->hash);
	while (at < end && !__atomic_load_n(&w->v->cancelled, __ATOMIC_RELAXED)) {
		ssize_t n = pread(item->fd, w->buffer, (size_t)MIN((uint64_t)BUFFER_SIZE, end - at), (off_t)at);
		if (n <= 0) {
			__atomic_store_n(&item->unreadable, true, __ATOMIC_RELAXED);
			return;
		}
		XXH3_128bits_update(w->hash, w->buffer, (size_t)n);
		at += (uint64_t)n;
	}
	XXH128_canonicalFromHash(&item->units[unit], XXH3_128bits_digest(w->hash));
}

static bool is_altered(const struct item *item)
{
	XXH128_hash_t is = item->n_units == 1 ? XXH128_hashFromCanonical(&item->units[0]) :
						XXH3_128bits(item->units, item->n_units * sizeof(*item->units));

	return !digest_is(is, item->digest);
}

static void *work(void *arg)
{
	struct worker *w = arg;
	size_t unit, i = 0;

	/* Units are given out in order: each thread's are in later and later files. */
	while ((unit = __atomic_fetch_add(&w->v->next, 1, __ATOMIC_RELAXED)) < w->v->n_units) {
		while (unit >= w->v->items[i].first_unit + w->v->items[i].n_units)
			i++;
		verify_unit(w, &w->v->items[i], unit - w->v->items[i].first_unit);
	}
	return NULL;
}

/* A large file is left to the threads. */
static int add_large(struct image_verification *v, const struct item *item)
{
	struct item *to = &v->items[v->count];

	*to = *item;
	to->n_units = item->block ? (size_t)((item->size + item->block - 1) / item->block) : 1;
	to->first_unit = v->n_units;
	to->units = calloc(to->n_units, sizeof(*to->units));
	if (!to->units)
		return -ENOMEM;
	v->n_units += to->n_units;
	v->count++;
	return 0;
}

static size_t workers_wanted(const struct image_verification *v)
{
	cpu_set_t set;
	int processors = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;

	return MIN(MIN(v->n_units, WORKERS_MAX), (size_t)MAX(processors, 1));
}

/* What can't be done by threads is done by the caller, in image_dir_verified. */
static void start_workers(struct image_verification *v)
{
	size_t wanted = workers_wanted(v);
	sigset_t all, before;
	pthread_attr_t attr;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	while (v->n_workers < wanted) {
		struct worker *w = &v->workers[v->n_workers];
		*w = (struct worker){ .v = v, .buffer = malloc(BUFFER_SIZE), .hash = XXH3_createState() };
		if (!w->buffer || !w->hash || pthread_create(&w->thread, &attr, work, w)) {
			free(w->buffer);
			XXH3_freeState(w->hash);
			break;
		}
		v->n_workers++;
	}
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static int altered(const char *name, struct error *e)
{
	return error_set(e, -EBADMSG, "%s was altered since it was written (checksum): the checkpoint is damaged", name);
}

static int unreadable(const char *name, struct error *e)
{
	return error_set(e, -EBADMSG, "%s is missing or can't be read: the checkpoint is damaged", name);
}

static int wrong_size(const char *name, long long is, long long size, struct error *e)
{
	return error_set(e, -EBADMSG, "%s has %lld bytes, not the %lld that were written: the checkpoint is damaged", name, is, size);
}

/* All of a file that is not large. */
static ssize_t read_whole(int fd, unsigned char *to, size_t size)
{
	size_t done = 0;
	ssize_t n = 1;

	while (done < size && (n = read(fd, to + done, size - done)) > 0)
		done += (size_t)n;
	return n < 0 ? -1 : (ssize_t)done;
}

static int verify_small(struct image_dir *dir, const struct item *item, int fd, size_t size, size_t *kept, struct error *e)
{
	unsigned char *data = malloc(size + 1);
	ssize_t n = data ? read_whole(fd, data, size) : -1;
	int r = 0;

	if (n < 0)
		r = unreadable(item->name, e);
	else if ((size_t)n != size)
		r = wrong_size(item->name, n, (long long)size, e);
	else if (!digest_is(XXH3_128bits(data, size), item->digest))
		r = altered(item->name, e);
	if (!r && size <= KEPT_MAX - *kept && image_dir_keep(dir, item->name, data, size)) {
		*kept += size;
		data = NULL;
	}
	free(data);
	return r;
}

static int verify_one(struct image_dir *dir, struct image_verification *v, struct item *item, long long size, size_t *kept,
		      struct error *e)
{
	int fd = image_open_raw(dir, item->name);
	struct stat st;
	int r = 0;

	if (fd < 0 || fstat(fd, &st) < 0)
		r = unreadable(item->name, e);
	else if (st.st_size != size)
		r = wrong_size(item->name, (long long)st.st_size, size, e);
	else if (size <= SMALL_MAX)
		r = verify_small(dir, item, fd, (size_t)size, kept, e);
	else {
		item->fd = fd;
		item->size = (uint64_t)size;
		if (add_large(v, item) == 0)
			return 0;
		r = error_set(e, -ENOMEM, "out of memory");
	}
	if (fd >= 0)
		close(fd);
	return r;
}

static json_t *read_manifest(struct image_dir *dir, int *ret)
{
	_cleanup_close_ int fd = image_open_raw(dir, IMAGE_MANIFEST);
	struct stat st;

	*ret = fd == -ENOENT ? 1 : 0;
	if (fd < 0 || fstat(fd, &st) < 0 || st.st_size > MANIFEST_MAX)
		return NULL;
	/* Not json_loadfd, which reads byte by byte. */
	_cleanup_free_ unsigned char *text = malloc((size_t)st.st_size + 1);
	ssize_t n = text ? read_whole(fd, text, (size_t)st.st_size) : -1;
	return n < 0 ? NULL : json_loadb((char *)text, (size_t)n, 0, NULL);
}

int image_dir_verify_begin(struct image_dir *dir, struct image_verification **ret, struct error *e)
{
	struct image_verification *v = calloc(1, sizeof(*v));
	size_t i, kept = 0;
	json_t *entry, *files;
	int r = 0;

	if (!v)
		return error_set(e, -ENOMEM, "out of memory");
	v->manifest = read_manifest(dir, &r);
	if (r) {
		free(v);
		return r;
	}
	files = json_object_get(v->manifest, "files");
	v->items = calloc(json_array_size(files) + 1, sizeof(*v->items));
	if (!json_is_array(files))
		r = error_set(e, -EBADMSG, IMAGE_MANIFEST " can't be read: the checkpoint is damaged");
	else if (!v->items)
		r = error_set(e, -ENOMEM, "out of memory");
	json_array_foreach(files, i, entry) {
		struct item item = { .name = json_string_value(json_object_get(entry, "name")),
				     .digest = json_string_value(json_object_get(entry, "xxh128")), .fd = -1 };
		json_int_t block = json_integer_value(json_object_get(entry, "block"));
		if (r)
			break;
		item.block = (uint64_t)block;
		if (!item.name || !item.digest || strchr(item.name, '/') || (block && block < BLOCK_MIN))
			r = error_set(e, -EBADMSG, IMAGE_MANIFEST " is damaged");
		else
			r = verify_one(dir, v, &item, (long long)json_integer_value(json_object_get(entry, "size")), &kept, e);
	}
	if (r) {
		v->cancelled = true;
		image_dir_verified(v, e);
		return r;
	}
	start_workers(v);
	*ret = v;
	return 0;
}

int image_dir_verified(struct image_verification *v, struct error *e)
{
	int r = 0;

	if (!v)
		return 0;
	if (!v->n_workers && v->count && !v->cancelled) {
		struct worker own = { .v = v, .buffer = malloc(BUFFER_SIZE), .hash = XXH3_createState() };
		if (own.buffer && own.hash)
			work(&own);
		else
			r = error_set(e, -ENOMEM, "out of memory");
		free(own.buffer);
		XXH3_freeState(own.hash);
	}
	for (size_t i = 0; i < v->n_workers; i++) {
		pthread_join(v->workers[i].thread, NULL);
		free(v->workers[i].buffer);
		XXH3_freeState(v->workers[i].hash);
	}
	for (size_t i = 0; i < v->count; i++) {
		if (v->items[i].left)
			v->items[i].unreadable = false;
		else if (!r && !v->cancelled && v->items[i].unreadable)
			r = unreadable(v->items[i].name, e);
		if (!r && !v->cancelled && !v->items[i].left && is_altered(&v->items[i]))
			r = altered(v->items[i].name, e);
		close(v->items[i].fd);
		free(v->items[i].units);
	}
	json_decref(v->manifest);
	free(v->items);
	free(v);
	return r;
}

bool image_dir_verify_leave(struct image_verification *v, const char *name, struct image_digest *ret)
{
	for (size_t i = 0; v && i < v->count; i++) {
		struct item *item = &v->items[i];
		if (strcmp(item->name, name))
			continue;
		*ret = (struct image_digest){ .size = item->size, .block = item->block };
		snprintf(ret->text, sizeof(ret->text), "%s", item->digest);
		__atomic_store_n(&item->left, true, __ATOMIC_RELAXED);
		return true;
	}
	return false;
}

int image_digest_check(int fd, const struct image_digest *digest)
{
	struct image_verification v = {};
	struct worker w = { .v = &v, .buffer = malloc(BUFFER_SIZE), .hash = XXH3_createState() };
	struct item item = { .name = "", .digest = digest->text, .fd = fd, .size = digest->size, .block = digest->block };
	int r = 0;

	item.n_units = item.block ? (size_t)((item.size + item.block - 1) / item.block) : 1;
	item.units = calloc(item.n_units, sizeof(*item.units));
	if (!w.buffer || !w.hash || !item.units)
		r = -ENOMEM;
	for (size_t i = 0; !r && i < item.n_units; i++)
		verify_unit(&w, &item, i);
	if (!r)
		r = item.unreadable ? -EIO : is_altered(&item) ? -EBADMSG : 0;
	free(w.buffer);
	XXH3_freeState(w.hash);
	free(item.units);
	return r;
}

void image_dir_verify_cancel(struct image_verification *v)
{
	struct error ignored;

	if (v)
		__atomic_store_n(&v->cancelled, true, __ATOMIC_RELAXED);
	image_dir_verified(v, &ignored);
}

int image_dir_verify(struct image_dir *dir, struct error *e)
{
	struct image_verification *v;
	int r = image_dir_verify_begin(dir, &v, e);

	return r ? r : image_dir_verified(v, e);
}
