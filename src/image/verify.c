/*
 * Checking a checkpoint against its manifest. Sizes and small files at once, and what was read of these is kept for image_open;
 * large ones (pages) in threads of their own, while the caller goes on until image_dir_verified.
 *
 * Pages are read or unpacked only once: whoever does it for another reason says what the checksum of each block was
 * (image_verification_note), and only what is then left is read here.
 */
#include "base/meter.h"
#include "image/private.h"

#include <jansson.h>
#include <sched.h>
#include <signal.h>
#include <xxhash.h>

#define MANIFEST_MAX (64 << 20)
#define SMALL_MAX (64 << 10) /* larger files are left to the threads */
#define BLOCK_MIN (64 << 10)
#define KEPT_MAX (4UL << 20)
#define LOOKS_AT_ONCE 16
#define LOOKS_SEVERAL 64 /* fewer are not worth a thread */
#define THREADS_MAX 4
#define STACK_SIZE (256UL << 10) /* inflate and LZ4 want some */

struct item {
	const char *name, *digest; /* the manifest's */
	struct image_raw *raw;
	bool unreadable, left, expected; /* expected: by whoever reads it anyway, until image_dir_verified */
	uint64_t size, block; /* the checksum is that of the checksums of blocks of this size; 0: of the whole */
	size_t first_unit, n_units; /* what a thread reads at a time: a block, or the whole */
	XXH128_canonical_t *units;
	bool *known; /* of each */
};

struct worker {
	struct image_verification *v;
	pthread_t thread;
	unsigned char *buffer;
	XXH3_state_t *hash;
	struct image_reader *reader;
};

struct image_verification {
	struct image_dir *dir;
	json_t *manifest;
	struct item *items; /* large files */
	size_t count, n_units, next;
	struct worker workers[THREADS_MAX];
	size_t n_workers;
	bool cancelled, last; /* last: nobody else reads anything any more */
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

	if (__atomic_load_n(&item->known[unit], __ATOMIC_ACQUIRE) || __atomic_load_n(&item->left, __ATOMIC_RELAXED) ||
	    (__atomic_load_n(&item->expected, __ATOMIC_RELAXED) && !w->v->last))
		return;
	XXH3_128bits_reset(w->hash);
	while (at < end && !__atomic_load_n(&w->v->cancelled, __ATOMIC_RELAXED)) {
		size_t n = (size_t)MIN((uint64_t)BUFFER_SIZE, end - at);
		if (image_raw_read(item->raw, w->reader, w->buffer, n, at)) {
			__atomic_store_n(&item->unreadable, true, __ATOMIC_RELAXED);
			return;
		}
		XXH3_128bits_update(w->hash, w->buffer, n);
		meter_add(item->raw->dir ? item->raw->dir->meter : NULL, n);
		at += n;
	}
	if (__atomic_load_n(&item->known[unit], __ATOMIC_ACQUIRE)) /* by whoever has read it into place meanwhile: what that found counts */
		return;
	XXH128_canonicalFromHash(&item->units[unit], XXH3_128bits_digest(w->hash));
	__atomic_store_n(&item->known[unit], !__atomic_load_n(&w->v->cancelled, __ATOMIC_RELAXED), __ATOMIC_RELEASE);
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
	to->known = calloc(to->n_units, sizeof(*to->known));
	if (!to->units || !to->known) {
		free(to->units);
		free(to->known);
		return -ENOMEM;
	}
	for (size_t i = 0; i < to->n_units; i++) {
		const unsigned char *digest = image_raw_digest(to->raw, to->block, i);
		to->known[i] = digest != NULL;
		if (digest)
			memcpy(&to->units[i], digest, sizeof(to->units[i]));
		else
			meter_expect(v->dir->meter, item->block ? MIN(item->block, item->size - i * item->block) : item->size);
	}
	v->n_units += to->n_units;
	v->count++;
	return 0;
}

static size_t workers_wanted(const struct image_verification *v)
{
	cpu_set_t set;
	int processors = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;

	return MIN(MIN(v->n_units, THREADS_MAX), (size_t)MAX(processors, 1));
}

static bool prepare_worker(struct image_verification *v, struct worker *w)
{
	*w = (struct worker){ .v = v, .buffer = malloc(BUFFER_SIZE), .hash = XXH3_createState() };
	return w->buffer && w->hash && image_reader_new(v->dir, &w->reader) == 0;
}

static void release_worker(struct worker *w)
{
	free(w->buffer);
	XXH3_freeState(w->hash);
	image_reader_free(w->reader);
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
		if (!prepare_worker(v, w) || pthread_create(&w->thread, &attr, work, w)) {
			release_worker(w);
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

static int unreadable(const struct image_dir *dir, const char *name, struct error *e)
{
	const char *damage = image_dir_damage(dir);

	if (damage)
		return error_set(e, -EBADMSG, "%s can't be read, %s is damaged", name, damage);
	return error_set(e, -EBADMSG, "%s is missing or can't be read: the checkpoint is damaged", name);
}

static int wrong_size(const char *name, long long is, long long size, struct error *e)
{
	return error_set(e, -EBADMSG, "%s has %lld bytes, not the %lld that were written: the checkpoint is damaged", name, is, size);
}

/* One file of the manifest, as a thread finds it. */
struct look {
	struct item item;
	long long size; /* the manifest's */
	enum { LOOK_FINE, LOOK_UNREADABLE, LOOK_OTHER_SIZE, LOOK_ALTERED, LOOK_NO_MEMORY } found;
	long long found_size;
	struct image_raw *raw;	/* of a large one, for the threads */
	unsigned char *data;	/* of a small one, to be kept; or NULL */
};

struct looks {
	struct image_dir *dir;
	struct look *data;
	size_t count, next, kept; /* kept: bytes */
};

static void look_small(struct looks *l, struct look *k)
{
	const size_t size = (size_t)k->size;

	k->data = malloc(size + 1);
	k->found = !k->data ? LOOK_NO_MEMORY :
		   image_raw_read(k->raw, NULL, k->data, size, 0) ? LOOK_UNREADABLE :
		   !digest_is(XXH3_128bits(k->data, size), k->item.digest) ? LOOK_ALTERED : LOOK_FINE;
	image_raw_close(TAKE_PTR(k->raw));
	if (k->found != LOOK_FINE || __atomic_fetch_add(&l->kept, size, __ATOMIC_RELAXED) + size > KEPT_MAX) {
		free(k->data);
		k->data = NULL;
	}
}

static void look_at(struct looks *l, struct look *k)
{
	if (image_raw_open(l->dir, k->item.name, &k->raw)) {
		k->found = LOOK_UNREADABLE;
		return;
	}
	k->found_size = (long long)image_raw_size(k->raw);
	if (k->size < 0 || k->found_size != k->size) {
		k->found = LOOK_OTHER_SIZE;
		image_raw_close(TAKE_PTR(k->raw));
	} else if (k->size <= SMALL_MAX) {
		look_small(l, k);
	}
}

static void look_at_some(void *argument)
{
	struct looks *l = argument;
	size_t from;

	while ((from = __atomic_fetch_add(&l->next, LOOKS_AT_ONCE, __ATOMIC_RELAXED)) < l->count)
		for (size_t i = from; i < MIN(from + LOOKS_AT_ONCE, l->count); i++)
			look_at(l, &l->data[i]);
}

/* Many files of a directory by all processors; members of an archive come through one reader. */
static void look_at_all(struct looks *l)
{
	struct workers *w = l->dir->source || l->count < LOOKS_SEVERAL ? NULL : workers_new();

	for (size_t i = 0; w && i < MIN((size_t)WORKERS_MAX, l->count / LOOKS_AT_ONCE); i++)
		workers_submit_large(w, look_at_some, l);
	look_at_some(l);
	workers_free(w);
}

/* What is to come of it; consumes what was read. */
static int take_look(struct image_verification *v, struct look *k, struct error *e)
{
	switch (k->found) {
	case LOOK_UNREADABLE:
		return unreadable(v->dir, k->item.name, e);
	case LOOK_OTHER_SIZE:
		return wrong_size(k->item.name, k->found_size, k->size, e);
	case LOOK_ALTERED:
		return altered(k->item.name, e);
	case LOOK_NO_MEMORY:
		return error_set(e, -ENOMEM, "out of memory");
	case LOOK_FINE:
		break;
	}
	if (k->data && image_dir_keep(v->dir, k->item.name, k->data, (size_t)k->size))
		k->data = NULL;
	if (!k->raw)
		return 0;
	k->item.raw = k->raw;
	k->item.size = (uint64_t)k->size;
	if (add_large(v, &k->item))
		return error_set(e, -ENOMEM, "out of memory");
	k->raw = NULL;
	return 0;
}

static int verify_files(struct image_verification *v, const json_t *files, struct error *e)
{
	struct looks l = { .dir = v->dir };
	size_t i;
	json_t *entry;
	int r = 0;

	l.data = calloc(json_array_size(files) + 1, sizeof(*l.data));
	if (!l.data)
		return error_set(e, -ENOMEM, "out of memory");
	json_array_foreach(files, i, entry) {
		struct look *k = &l.data[l.count++];
		json_int_t block = json_integer_value(json_object_get(entry, "block"));
		k->item = (struct item){ .name = json_string_value(json_object_get(entry, "name")),
					 .digest = json_string_value(json_object_get(entry, "xxh128")), .block = (uint64_t)block };
		k->size = (long long)json_integer_value(json_object_get(entry, "size"));
		if (!k->item.name || !k->item.digest || strchr(k->item.name, '/') || (block && block < BLOCK_MIN))
			r = error_set(e, -EBADMSG, IMAGE_MANIFEST " is damaged");
	}
	if (!r)
		look_at_all(&l);
	for (i = 0; i < l.count; i++) {
		if (!r)
			r = take_look(v, &l.data[i], e);
		image_raw_close(l.data[i].raw);
		free(l.data[i].data);
	}
	free(l.data);
	return r;
}

void image_dir_set_meter(struct image_dir *dir, struct meter *meter)
{
	dir->meter = meter;
}

json_t *image_manifest_read(struct image_dir *dir, int *ret)
{
	struct image_raw *raw;
	int r = image_raw_open(dir, IMAGE_MANIFEST, &raw);

	*ret = r == -ENOENT ? 1 : 0;
	if (r)
		return NULL;
	/* Not json_loadfd, which reads byte by byte. */
	size_t size = image_raw_size(raw) <= MANIFEST_MAX ? (size_t)image_raw_size(raw) : 0;
	_cleanup_free_ unsigned char *text = size ? malloc(size + 1) : NULL;
	r = text ? image_raw_read(raw, NULL, text, size, 0) : -EBADMSG;
	image_raw_close(raw);
	return r ? NULL : json_loadb((char *)text, size, 0, NULL);
}

int image_dir_verify_begin(struct image_dir *dir, struct image_verification **ret, struct error *e)
{
	struct image_verification *v = calloc(1, sizeof(*v));
	json_t *files;
	int r = 0;

	if (!v)
		return error_set(e, -ENOMEM, "out of memory");
	v->dir = dir;
	v->manifest = image_manifest_read(dir, &r);
	if (r) {
		free(v);
		return r;
	}
	image_lineage_note(dir, v->manifest);
	files = json_object_get(v->manifest, "files");
	v->items = calloc(json_array_size(files) + 1, sizeof(*v->items));
	if (!json_is_array(files))
		r = error_set(e, -EBADMSG, IMAGE_MANIFEST " can't be read: the checkpoint is damaged");
	else if (!v->items)
		r = error_set(e, -ENOMEM, "out of memory");
	else
		r = verify_files(v, files, e);
	if (r) {
		v->cancelled = true;
		image_dir_verified(v, e);
		return r;
	}
	*ret = v;
	return 0;
}

/* Where nobody has said anything of it, or is about to. */
static bool is_left(const struct image_verification *v)
{
	for (size_t i = 0; i < v->count; i++)
		for (size_t k = 0; k < v->items[i].n_units; k++)
			if (!v->items[i].known[k] && !v->items[i].left && !(v->items[i].expected && !v->last))
				return true;
	return false;
}

void image_dir_verify_start(struct image_verification *v)
{
	if (v && !v->n_workers && !image_is_packed(v->dir) && is_left(v))
		start_workers(v);
}

static struct item *find_item(struct image_verification *v, const char *name)
{
	for (size_t i = 0; i < v->count; i++)
		if (!strcmp(v->items[i].name, name))
			return &v->items[i];
	return NULL;
}

bool image_verification_wants(struct image_verification *v, const char *name)
{
	const struct item *item = v ? find_item(v, name) : NULL;

	return item && (item->block == IMAGE_BLOCK || item->size <= IMAGE_BLOCK) && !__atomic_load_n(&item->known[item->n_units - 1], __ATOMIC_ACQUIRE);
}

bool image_verification_expect(struct image_verification *v, const char *name)
{
	const bool wanted = image_verification_wants(v, name);

	if (wanted)
		__atomic_store_n(&find_item(v, name)->expected, true, __ATOMIC_RELAXED);
	return wanted;
}

void image_verification_note(struct image_verification *v, const char *name, size_t index, const unsigned char digest[16])
{
	struct item *item = find_item(v, name);

	if (!item || index >= item->n_units || (item->n_units > 1 && item->block != IMAGE_BLOCK))
		return;
	memcpy(&item->units[index], digest, sizeof(item->units[index]));
	__atomic_store_n(&item->known[index], true, __ATOMIC_RELEASE);
}

static void join_workers(struct image_verification *v)
{
	for (size_t i = 0; i < v->n_workers; i++) {
		pthread_join(v->workers[i].thread, NULL);
		release_worker(&v->workers[i]);
	}
	v->n_workers = 0;
}

/* What is still left. */
static int read_rest(struct image_verification *v, struct error *e)
{
	struct worker own;
	int r = 0;

	v->last = true;
	v->next = 0;
	if (v->cancelled || !is_left(v))
		return 0;
	start_workers(v);
	if (!v->n_workers) {
		if (prepare_worker(v, &own))
			work(&own);
		else
			r = error_set(e, -ENOMEM, "out of memory");
		release_worker(&own);
	}
	join_workers(v);
	return r;
}

int image_dir_verified(struct image_verification *v, struct error *e)
{
	if (!v)
		return 0;
	join_workers(v);
	int r = read_rest(v, e);
	for (size_t i = 0; i < v->count; i++) {
		if (v->items[i].left)
			v->items[i].unreadable = false;
		else if (!r && !v->cancelled && v->items[i].unreadable)
			r = unreadable(v->dir, v->items[i].name, e);
		if (!r && !v->cancelled && !v->items[i].left && is_altered(&v->items[i]))
			r = altered(v->items[i].name, e);
		image_raw_close(v->items[i].raw);
		free(v->items[i].units);
		free(v->items[i].known);
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
		*ret = (struct image_digest){ .size = item->size, .block = item->block, .offset = item->raw->offset };
		snprintf(ret->text, sizeof(ret->text), "%s", item->digest);
		__atomic_store_n(&item->left, true, __ATOMIC_RELAXED);
		return true;
	}
	return false;
}

bool image_digest_is(const struct image_digest *digest, const unsigned char *blocks, size_t count)
{
	XXH128_canonical_t one;

	memcpy(&one, blocks, sizeof(one));
	return digest_is(count == 1 ? XXH128_hashFromCanonical(&one) : XXH3_128bits(blocks, count * sizeof(one)), digest->text);
}

int image_digest_check(int fd, const struct image_raw *raw, const struct image_digest *digest)
{
	struct image_verification v = {};
	struct worker w = { .v = &v, .buffer = malloc(BUFFER_SIZE), .hash = XXH3_createState() };
	struct image_raw plain = { .fd = fd, .offset = digest->offset, .size = digest->size };
	struct item item = { .name = "", .digest = digest->text, .raw = raw ? (struct image_raw *)raw : &plain, .size = digest->size,
			     .block = digest->block };
	int r = raw ? image_reader_new(raw->dir, &w.reader) : 0;

	item.n_units = item.block ? (size_t)((item.size + item.block - 1) / item.block) : 1;
	item.units = calloc(item.n_units, sizeof(*item.units));
	item.known = calloc(item.n_units, sizeof(*item.known));
	if (!w.buffer || !w.hash || !item.units || !item.known)
		r = -ENOMEM;
	for (size_t i = 0; !r && i < item.n_units; i++)
		verify_unit(&w, &item, i);
	if (!r)
		r = item.unreadable ? -EIO : is_altered(&item) ? -EBADMSG : 0;
	release_worker(&w);
	free(item.units);
	free(item.known);
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
