/*
 * The index of a store: which chunk is where, for writers alone; who reads a checkpoint knows from its recipe. Files of sorted entries, each
 * for some packs. They are mapped, since of a large one a few entries are wanted. An entry only says where to look: whether the chunk
 * there is the one that was asked for, the pack's own table tells. What is missing or damaged here costs space, never a checkpoint.
 *
 * The files are put together as their number grows, the small ones first, so that there are about as many as the number of chunks has digits.
 */
#include "image/store/private.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define FILES_MAX 4096

struct head {
	char mark[8];
	uint32_t version, packs;
	uint64_t entries;
};
static const char mark[8] = "FERMIDX2";

/* A file of the index. */
struct table {
	char name[NAME_MAX + 1];
	void *mapped;
	size_t size;
	const unsigned char (*ids)[DIGEST];
	size_t n_ids, count;
	const struct lookup_entry *entries;
	uint32_t *packs; /* the lookup's number of each */
};

struct known {
	unsigned char id[DIGEST];
	struct pack *pack; /* once it was needed */
	bool missing;
};

struct lookup {
	struct store *store;
	pthread_mutex_t lock;
	VEC(struct table) tables;
	VEC(struct known) packs;
	damage_list damaged;
};

static void close_table(struct table *t)
{
	if (t->mapped)
		munmap(t->mapped, t->size);
	free(t->packs);
}

/* 1: it is none that can be used. */
static int open_table(int dirfd, const char *name, struct table *ret)
{
	_cleanup_close_ int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct stat st;
	struct head h;

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (size_t)st.st_size < sizeof(h) || read_whole(fd, &h, sizeof(h), 0))
		return 1;
	const size_t size = (size_t)st.st_size, rest = size - sizeof(h);
	if (memcmp(h.mark, mark, sizeof(mark)) || h.version != 1 || h.packs > rest / DIGEST || h.entries > rest / sizeof(struct lookup_entry) ||
	    rest != h.packs * (size_t)DIGEST + h.entries * sizeof(struct lookup_entry))
		return 1;
	void *mapped = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	if (mapped == MAP_FAILED)
		return -errno;
	*ret = (struct table){ .mapped = mapped, .size = size, .n_ids = h.packs, .count = h.entries };
	ret->ids = (const void *)((char *)mapped + sizeof(h));
	ret->entries = (const void *)(ret->ids + h.packs);
	snprintf(ret->name, sizeof(ret->name), "%s", name);
	return 0;
}

/* The number of a pack, which many files may name. */
static int pack_number(struct lookup *l, const unsigned char id[DIGEST], uint32_t *ret)
{
	for (size_t i = 0; i < l->packs.count; i++)
		if (!memcmp(l->packs.data[i].id, id, DIGEST)) {
			*ret = (uint32_t)i;
			return 0;
		}
	struct known *k = VEC_PUSH(&l->packs);
	if (!k)
		return -ENOMEM;
	memcpy(k->id, id, DIGEST);
	*ret = (uint32_t)(l->packs.count - 1);
	return 0;
}

static int add_table(void *data, int dirfd, const char *name)
{
	struct lookup *l = data;
	struct table *t = l->tables.count < FILES_MAX ? VEC_PUSH(&l->tables) : NULL;
	int r = t ? open_table(dirfd, name, t) : -ENOMEM;

	if (r) {
		l->tables.count -= t != NULL;
		return r == 1 ? 0 : r;
	}
	t->packs = malloc(t->n_ids * sizeof(*t->packs) + 1);
	if (!t->packs)
		return -ENOMEM;
	for (size_t i = 0; !r && i < t->n_ids; i++)
		r = pack_number(l, t->ids[i], &t->packs[i]);
	return r;
}

int lookup_open(struct store *s, struct lookup **ret)
{
	struct lookup *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	l->store = s;
	pthread_mutex_init(&l->lock, NULL);
	int r = damage_read(s, &l->damaged);
	if (!r)
		r = store_each(s->index, add_table, l);
	if (r)
		lookup_close(l);
	else
		*ret = l;
	return r;
}

void lookup_close(struct lookup *l)
{
	if (!l)
		return;
	VEC_FOREACH(&l->tables, t)
		close_table(t);
	VEC_FOREACH(&l->packs, k)
		pack_close(k->pack);
	VEC_FREE(&l->tables);
	VEC_FREE(&l->packs);
	VEC_FREE(&l->damaged);
	pthread_mutex_destroy(&l->lock);
	free(l);
}

static struct pack *pack_of(struct lookup *l, uint32_t number)
{
	struct known *k = &l->packs.data[number];

	pthread_mutex_lock(&l->lock);
	if (!k->pack && !k->missing)
		k->missing = pack_open(l->store, k->id, &k->pack) != 0;
	struct pack *pack = k->pack;
	if (pack)
		pack->number = number;
	pthread_mutex_unlock(&l->lock);
	return pack;
}

struct pack *lookup_pack(struct lookup *l, uint32_t number)
{
	return pack_of(l, number);
}

/* The first entry that is not below. Hashes are spread evenly, so it is near where it would be by proportion. */
static size_t find_first(const struct table *t, uint64_t prefix)
{
	size_t guess = (size_t)((unsigned __int128)prefix * t->count >> 64), step = 32, low = guess, high = guess;

	while (low > 0 && t->entries[low - 1].prefix >= prefix) {
		low = low > step ? low - step : 0;
		step *= 2;
	}
	step = 32;
	while (high < t->count && t->entries[high].prefix < prefix) {
		low = high + 1;
		high = MIN(t->count, high + step);
		step *= 2;
	}
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (t->entries[middle].prefix < prefix)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

bool lookup_find(struct lookup *l, const unsigned char digest[DIGEST], const struct pack *other_than, struct pack **ret, uint32_t *ret_chunk)
{
	const uint64_t prefix = lookup_prefix(digest);

	VEC_FOREACH(&l->tables, t)
		for (size_t i = find_first(t, prefix); i < t->count && t->entries[i].prefix == prefix; i++) {
			const struct lookup_entry *e = &t->entries[i];
			struct pack *pack = e->pack < t->n_ids ? pack_of(l, t->packs[e->pack]) : NULL;
			const struct pack_record *record = pack ? pack_record(pack, e->chunk / FRAME_CHUNKS) : NULL;
			if (!record || e->chunk % FRAME_CHUNKS >= record->count || memcmp(record->digests[e->chunk % FRAME_CHUNKS], digest, DIGEST))
				continue;
			if ((other_than && !memcmp(other_than->id, pack->id, DIGEST)) || damage_has(&l->damaged, pack->id, e->chunk))
				continue;
			*ret = pack;
			*ret_chunk = e->chunk;
			return true;
		}
	return false;
}

/* ---- writing ---- */

static int by_prefix(const void *a, const void *b)
{
	const struct lookup_entry *x = a, *y = b;

	return x->prefix < y->prefix ? -1 : x->prefix > y->prefix;
}

/* Two that write the same give it the same name. */
static void name_of(const unsigned char (*ids)[DIGEST], size_t n_ids, char name[HEX_ID])
{
	unsigned char digest[DIGEST];

	store_digest(NULL, ids, n_ids * DIGEST, digest);
	store_hex(digest, name);
}

int lookup_write(struct store *s, const unsigned char (*ids)[DIGEST], size_t n_ids, struct lookup_entry *entries, size_t count)
{
	struct head h = { .version = 1, .packs = (uint32_t)n_ids, .entries = count };
	char name[HEX_ID];
	struct fresh f;

	memcpy(h.mark, mark, sizeof(mark));
	qsort(entries, count, sizeof(*entries), by_prefix);
	name_of(ids, n_ids, name);
	int r = fresh_open(s->index, &f);
	if (r)
		return r;
	r = write_whole(f.fd, &h, sizeof(h), 0);
	if (!r)
		r = write_whole(f.fd, ids, n_ids * DIGEST, sizeof(h));
	if (!r)
		r = write_whole(f.fd, entries, count * sizeof(*entries), sizeof(h) + n_ids * DIGEST);
	if (!r)
		r = fresh_name(&f, name, true);
	fresh_close(&f);
	return r;
}

/* ---- putting files together ---- */

static int by_count(const void *a, const void *b)
{
	const struct table *x = a, *y = b;

	return x->count < y->count ? -1 : x->count > y->count;
}

/* How many of the smallest are to become one, so that each that stays is at least twice all that are smaller. */
static size_t count_small(const struct lookup *l)
{
	uint64_t sum = 0;
	size_t n = 0;

	for (size_t i = 0; i < l->tables.count; i++) {
		if (i && l->tables.data[i].count < 2 * sum)
			n = i + 1;
		sum += l->tables.data[i].count;
	}
	return n;
}

/* Packs that were pruned are left out. */
static int collect(struct lookup *l, size_t n, unsigned char (*ids)[DIGEST], size_t *n_ids, struct lookup_entry *entries, size_t *count)
{
	uint32_t *numbers = malloc((l->packs.count + 1) * sizeof(*numbers));
	char name[HEX_ID];

	if (!numbers)
		return -ENOMEM;
	memset(numbers, 0xff, (l->packs.count + 1) * sizeof(*numbers));
	for (size_t i = 0; i < n; i++) {
		const struct table *t = &l->tables.data[i];
		for (size_t k = 0; k < t->n_ids; k++) {
			store_hex(t->ids[k], name);
			if (numbers[t->packs[k]] != UINT32_MAX || faccessat(l->store->packs, name, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
				continue;
			numbers[t->packs[k]] = (uint32_t)*n_ids;
			memcpy(ids[(*n_ids)++], t->ids[k], DIGEST);
		}
		for (size_t k = 0; k < t->count; k++) {
			struct lookup_entry e = t->entries[k];
			if (e.pack >= t->n_ids || numbers[t->packs[e.pack]] == UINT32_MAX)
				continue;
			e.pack = numbers[t->packs[e.pack]];
			entries[(*count)++] = e;
		}
	}
	free(numbers);
	return 0;
}

static int merge(struct lookup *l, size_t n)
{
	size_t room = 0, room_ids = 0, count = 0, n_ids = 0;
	char name[HEX_ID];

	for (size_t i = 0; i < n; i++) {
		room += l->tables.data[i].count;
		room_ids += l->tables.data[i].n_ids;
	}
	struct lookup_entry *entries = malloc(room * sizeof(*entries) + 1);
	unsigned char(*ids)[DIGEST] = malloc(room_ids * DIGEST + 1);
	int r = entries && ids ? collect(l, n, ids, &n_ids, entries, &count) : -ENOMEM;
	if (!r && n_ids)
		r = lookup_write(l->store, (const unsigned char(*)[DIGEST])ids, n_ids, entries, count);
	name_of((const unsigned char(*)[DIGEST])ids, n_ids, name);
	for (size_t i = 0; !r && i < n; i++)
		if (!n_ids || strcmp(l->tables.data[i].name, name))
			unlinkat(l->store->index, l->tables.data[i].name, 0);
	free(entries);
	free(ids);
	return r;
}

void lookup_merge(struct store *s, bool all)
{
	_cleanup_close_ int lock = openat(s->index, ".lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	struct lookup *l = NULL;

	/* Another does it. */
	if (lock < 0 || flock(lock, LOCK_EX | LOCK_NB) < 0 || lookup_open(s, &l))
		return;
	if (l->tables.count)
		qsort(l->tables.data, l->tables.count, sizeof(*l->tables.data), by_count);
	size_t n = all ? l->tables.count : count_small(l);
	if (n > 1 || (all && n))
		merge(l, n);
	lookup_close(l);
}
