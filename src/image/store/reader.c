/*
 * The reading side of a checkpoint in a store: what archive.h calls a source. Its stream is the pages of all files that were cut into
 * chunks, then the small files. A chunk is compared with its hash whenever it is taken out of a frame. Where one is damaged, the same
 * content in another pack will do.
 */
#include "image/store/private.h"

#include <sys/file.h>

#define CACHED 32 /* frames, for each thread: pages of a program that ran on come from many packs by turns */
#define TRIES 5

struct store_source {
	struct source base;
	struct store *store;
	struct recipe recipe;
	struct pack **packs;
	uint64_t *starts; /* the page that each run begins with */
	pthread_mutex_t lock; /* of what follows */
	struct lookup *lookup; /* once something was damaged */
};

struct cached {
	struct pack *pack; /* NULL: nothing */
	const struct pack_record *record;
	uint32_t frame, good; /* good: chunks that were compared, a bit each */
	uint64_t used;
	unsigned char *data;
};

struct reader {
	struct source_reader base;
	struct store_source *s;
	struct codec *codecs[PACKING_ZSTD + 1];
	struct cached cached[CACHED];
	uint64_t clock;
	unsigned char packed[PACKING_FRAME_MAX + STORE_TAG];
};

static int load_frame(struct reader *r, struct cached *c, struct pack *pack, uint32_t frame)
{
	struct codec **codec = &r->codecs[pack->kind];

	c->pack = NULL;
	c->good = 0;
	if (!*codec)
		*codec = codec_new(pack->kind, 0);
	if (!c->data)
		c->data = malloc(FRAME_BYTES);
	if (!*codec || !c->data)
		return -ENOMEM;
	c->record = pack_record(pack, frame);
	if (!c->record)
		return -EBADMSG;
	int failed = pack_read(pack, frame, c->record, *codec, r->packed, c->data);
	if (failed)
		return failed;
	c->pack = pack;
	c->frame = frame;
	return 0;
}

static int find_frame(struct reader *r, struct pack *pack, uint32_t frame, struct cached **ret)
{
	struct cached *oldest = &r->cached[0];
	int failed = 0;

	*ret = NULL;
	for (size_t i = 0; i < CACHED && !*ret; i++) {
		struct cached *c = &r->cached[i];
		if (c->pack == pack && c->frame == frame)
			*ret = c;
		if (c->used < oldest->used)
			oldest = c;
	}
	if (!*ret) {
		failed = load_frame(r, oldest, pack, frame);
		*ret = oldest;
	}
	(*ret)->used = ++r->clock;
	return failed;
}

static int read_chunk(struct reader *r, struct pack *pack, uint32_t chunk, const unsigned char **ret)
{
	const uint32_t number = chunk % FRAME_CHUNKS;
	unsigned char digest[DIGEST];
	struct cached *c;
	int failed = find_frame(r, pack, chunk / FRAME_CHUNKS, &c);

	if (failed)
		return failed;
	if (number >= c->record->count)
		return -EBADMSG;
	*ret = c->data + number * CHUNK;
	if (c->good & 1u << number)
		return 0;
	store_digest(r->s->store->key, *ret, CHUNK, digest);
	if (memcmp(digest, c->record->digests[number], DIGEST))
		return -EBADMSG;
	c->good |= 1u << number;
	return 0;
}

/* Two jobs that saved the same at the same moment have a copy each; so has a dump behind a verify that found the damage. */
static int read_elsewhere(struct reader *r, struct pack *pack, uint32_t chunk, const unsigned char **ret)
{
	struct store_source *s = r->s;
	const struct pack_record *record = pack_record(pack, chunk / FRAME_CHUNKS);
	char id[HEX_ID], hex[HEX_ID];
	uint32_t other = 0;
	struct pack *found;
	bool there = false;

	if (!record)
		return -EBADMSG;
	pthread_mutex_lock(&s->lock);
	if (!s->lookup && lookup_open(s->store, &s->lookup))
		s->lookup = NULL;
	if (s->lookup)
		there = lookup_find(s->lookup, record->digests[chunk % FRAME_CHUNKS], pack, &found, &other);
	store_hex(pack->id, id);
	store_hex(record->digests[chunk % FRAME_CHUNKS], hex);
	if (!s->base.damage[0])
		snprintf(s->base.damage, sizeof(s->base.damage), "chunk %.16s of pack %.16s", hex, id);
	pthread_mutex_unlock(&s->lock);
	return there ? read_chunk(r, found, other, ret) : -EBADMSG;
}

static size_t find_run(const struct store_source *s, uint64_t page)
{
	size_t low = 0, high = s->recipe.runs.count;

	while (low + 1 < high) {
		size_t middle = (low + high) / 2;
		if (s->starts[middle] <= page)
			low = middle;
		else
			high = middle;
	}
	return low;
}

/* Some of a page. */
static int read_page(struct reader *r, size_t run, uint64_t page, unsigned char *to, size_t within, size_t size)
{
	const struct recipe_run *from = &r->s->recipe.runs.data[run];
	const unsigned char *data;

	if (from->pack == PACK_ZERO) {
		memset(to, 0, size);
		return 0;
	}
	uint32_t chunk = from->chunk + (uint32_t)(page - r->s->starts[run]);
	int failed = read_chunk(r, r->s->packs[from->pack], chunk, &data);
	if (failed == -EBADMSG || failed == -EIO)
		failed = read_elsewhere(r, r->s->packs[from->pack], chunk, &data);
	if (!failed)
		memcpy(to, data + within, size);
	return failed;
}

static int store_read(struct source_reader *base, void *to, size_t size, uint64_t offset)
{
	struct reader *r = (struct reader *)base;
	const struct recipe *recipe = &r->s->recipe;
	const uint64_t chunks = recipe->pages * CHUNK;
	unsigned char *into = to;
	int failed = 0;

	if (offset > chunks + recipe->small.count || size > chunks + recipe->small.count - offset)
		return -EBADMSG;
	size_t run = offset < chunks ? find_run(r->s, offset / CHUNK) : 0;
	while (!failed && size && offset < chunks) {
		size_t within = offset % CHUNK, n = MIN(size, CHUNK - within);
		while (run + 1 < recipe->runs.count && r->s->starts[run + 1] <= offset / CHUNK)
			run++;
		failed = read_page(r, run, offset / CHUNK, into, within, n);
		into += n;
		offset += n;
		size -= n;
	}
	if (!failed && size)
		memcpy(into, recipe->small.data + (offset - chunks), size);
	return failed;
}

static int store_plain(const struct source *base)
{
	return -1;
}

static bool store_is_sequential(const struct source *base)
{
	return false;
}

static struct source_reader *store_reader_new(struct source *base)
{
	struct reader *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->base.source = base;
	r->s = (struct store_source *)base;
	return &r->base;
}

static void store_reader_free(struct source_reader *base)
{
	struct reader *r = (struct reader *)base;

	for (size_t i = 0; i < CACHED; i++)
		free(r->cached[i].data);
	for (size_t i = 0; i < ARRAY_SIZE(r->codecs); i++)
		codec_free(r->codecs[i]);
	free(r);
}

static void close_packs(struct store_source *s)
{
	for (size_t i = 0; s->packs && i < s->recipe.packs.count; i++)
		pack_close(s->packs[i]);
	free(TAKE_PTR(s->packs));
}

static void store_free(struct source *base)
{
	struct store_source *s = (struct store_source *)base;

	close_packs(s);
	recipe_free(&s->recipe);
	lookup_close(s->lookup);
	store_dir_close(s->store);
	free(s->starts);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static size_t store_adopt(struct source *base, int *fds, size_t max)
{
	struct store_source *s = (struct store_source *)base;
	const int own[] = { s->store->fd, s->store->packs, s->store->index, s->store->checkpoints };
	size_t n = 0;

	pthread_mutex_init(&s->lock, NULL);
	for (size_t i = 0; i < s->recipe.packs.count; i++) {
		pthread_mutex_init(&s->packs[i]->lock, NULL);
		if (n++ < max)
			fds[n - 1] = s->packs[i]->fd;
	}
	for (size_t i = 0; i < ARRAY_SIZE(own); i++)
		if (n++ < max)
			fds[n - 1] = own[i];
	/* One that another thread was opening, or has used, is opened anew where it is needed. */
	s->lookup = NULL;
	return n;
}

static const struct source_ops store_ops = {
	.adopt = store_adopt,
	.free = store_free,
	.plain = store_plain,
	.is_sequential = store_is_sequential,
	.reader_new = store_reader_new,
	.reader_free = store_reader_free,
	.read = store_read,
};

/* -EAGAIN: a pack is not there; who prunes may have changed the recipe meanwhile. */
static int open_packs(struct store_source *s)
{
	int r = 0;

	s->packs = calloc(s->recipe.packs.count + 1, sizeof(*s->packs));
	if (!s->packs)
		return -ENOMEM;
	for (size_t i = 0; !r && i < s->recipe.packs.count; i++) {
		r = pack_open(s->store, s->recipe.packs.data[i], &s->packs[i]);
		if (r == -ENOENT || r == -EBADMSG) {
			char id[HEX_ID];
			store_hex(s->recipe.packs.data[i], id);
			snprintf(s->base.damage, sizeof(s->base.damage), "pack %.16s", id);
			r = r == -ENOENT ? -EAGAIN : r;
		}
	}
	return r;
}

static int open_recipe(struct store_source *s, const char *name)
{
	int r = -EAGAIN;

	for (int i = 0; r == -EAGAIN && i < TRIES; i++) {
		close_packs(s);
		recipe_free(&s->recipe);
		r = recipe_read(s->store, name, &s->recipe);
		if (!r)
			r = open_packs(s);
	}
	return r == -EAGAIN ? -EBADMSG : r;
}

static int list_members(struct store_source *s)
{
	uint64_t at = 0;

	s->base.kind = s->recipe.kind;
	s->starts = calloc(s->recipe.runs.count + 1, sizeof(*s->starts));
	if (!s->starts)
		return -ENOMEM;
	for (size_t i = 0; i < s->recipe.runs.count; i++) {
		s->starts[i] = at;
		at += s->recipe.runs.data[i].count;
	}
	VEC_FOREACH(&s->recipe.members, m) {
		struct archive_member *made = VEC_PUSH(&s->base.index.members);
		if (!made)
			return -ENOMEM;
		*made = (struct archive_member){ .offset = m->offset, .size = m->size };
		memcpy(made->name, m->name, sizeof(made->name));
	}
	return source_sort(&s->base);
}

int store_source_open(const char *path, const char *key, struct source **ret)
{
	struct store_source *s = calloc(1, sizeof(*s));
	char dir[PATH_MAX], name[NAME_MAX + 1];

	if (!s)
		return -ENOMEM;
	s->base.ops = &store_ops;
	pthread_mutex_init(&s->lock, NULL);
	int r = store_split(path, dir, name);
	if (!r)
		r = store_dir_open(dir, key, false, &s->store);
	if (!r)
		r = open_recipe(s, name);
	if (!r)
		r = list_members(s);
	if (r)
		source_free(&s->base);
	else
		*ret = &s->base;
	return r;
}
