/*
 * The writing side of a checkpoint in a store: what archive.h calls a sink. Members whose size is known are cut into chunks by many threads
 * at once; there is no order among them. Small files follow at the end and stand in the recipe itself, larger ones become chunks too.
 */
#include "image/store/private.h"

#include <sys/file.h>
#include <time.h>

#define SMALL_MAX (64UL << 10)

/* Which chunk a page is: of a pack by the lookup's number, of the new one, or zeroes. */
#define PACK_OWN (PACK_ZERO - 1)
struct place {
	uint32_t pack, chunk;
};

struct member {
	char name[ARCHIVE_NAME_MAX];
	uint64_t size, ticket, count, step;
	struct place *places; /* a page each; NULL: it is small */
	uint64_t at; /* in the small files */
};

struct piece {
	struct sink_piece base;
	struct pack_hand *hand;
	struct place *to;
	uint64_t left; /* places */
	unsigned char partial[CHUNK];
	size_t used;
	int failed;
};

struct store_sink {
	struct sink base;
	struct store *store;
	struct lookup *lookup;
	struct pack_writer *pack;
	struct recipe recipe;
	pthread_mutex_t lock;
	VEC(struct member *) members;
	uint64_t tickets;
	struct piece *appended;
	uint64_t appended_left;
	char name[NAME_MAX + 1];
	bool failed, named;
};

static bool is_zero(const unsigned char *page)
{
	return !page[0] && !memcmp(page, page + 1, CHUNK - 1);
}

static int put_chunk(struct store_sink *s, struct pack_hand *hand, const unsigned char *page, struct place *to)
{
	unsigned char digest[DIGEST];
	struct pack *pack;

	*to = (struct place){ .pack = is_zero(page) ? PACK_ZERO : PACK_OWN };
	if (to->pack == PACK_ZERO)
		return 0;
	store_digest(s->store->key, page, CHUNK, digest);
	if (lookup_find(s->lookup, digest, NULL, &pack, &to->chunk)) {
		to->pack = pack->number;
		return 0;
	}
	return pack_put(hand, page, digest, &to->chunk);
}

static int piece_put(struct store_sink *s, struct piece *p, const unsigned char *page)
{
	if (!p->left)
		return -EFBIG;
	p->left--;
	return put_chunk(s, p->hand, page, p->to++);
}

static int piece_add(struct store_sink *s, struct piece *p, const void *data, size_t size)
{
	const unsigned char *from = data;

	while (!p->failed && size) {
		size_t n = MIN(size, CHUNK - p->used);
		if (n == CHUNK) {
			p->failed = piece_put(s, p, from);
		} else {
			memcpy(p->partial + p->used, from, n);
			p->used += n;
			if (p->used == CHUNK) {
				p->failed = piece_put(s, p, p->partial);
				p->used = 0;
			}
		}
		from += n;
		size -= n;
	}
	return p->failed;
}

/* What is left over of a last page is zeroes. */
static int piece_close(struct store_sink *s, struct piece *p)
{
	if (p->used && !p->failed) {
		memset(p->partial + p->used, 0, CHUNK - p->used);
		p->failed = piece_put(s, p, p->partial);
	}
	int r = p->failed;
	pack_hand_give(s->pack, p->hand);
	free(p);
	return r;
}

static struct piece *piece_new(struct store_sink *s, struct place *to, uint64_t left)
{
	struct piece *p = calloc(1, sizeof(*p));

	if (!p || !(p->hand = pack_hand_take(s->pack))) {
		free(p);
		return NULL;
	}
	p->base.sink = &s->base;
	p->to = to;
	p->left = left;
	return p;
}

static uint64_t pages_of(uint64_t size)
{
	return (size + CHUNK - 1) / CHUNK;
}

/* With the lock held. */
static struct member *add_member(struct store_sink *s, const char *name, uint64_t size, bool chunks)
{
	struct member *m = strlen(name) < ARCHIVE_NAME_MAX ? calloc(1, sizeof(*m)) : NULL;
	struct member **slot = m ? VEC_PUSH(&s->members) : NULL;

	if (slot) {
		*slot = m;
		snprintf(m->name, sizeof(m->name), "%s", name);
		m->size = size;
		if (!chunks || (m->places = calloc(pages_of(size) + 1, sizeof(*m->places))))
			return m;
		s->members.count--;
	}
	free(m);
	return NULL;
}

/* ---- as a sink ---- */

static void sink_fail_all(struct sink *base)
{
	__atomic_store_n(&((struct store_sink *)base)->failed, true, __ATOMIC_RELAXED);
}

static int store_reserve(struct sink *base, const char *name, uint64_t size, uint64_t step, uint64_t *ret_ticket)
{
	struct store_sink *s = (struct store_sink *)base;

	pthread_mutex_lock(&s->lock);
	struct member *m = step % CHUNK ? NULL : add_member(s, name, size, true);
	if (m) {
		m->step = step;
		m->ticket = s->tickets;
		m->count = MAX((size + step - 1) / step, 1UL);
		s->tickets += m->count;
		*ret_ticket = m->ticket;
	}
	pthread_mutex_unlock(&s->lock);
	return m ? 0 : -ENOMEM;
}

/* Tickets ascend. */
static struct member *find_member(struct store_sink *s, uint64_t ticket)
{
	struct member *found = NULL;

	pthread_mutex_lock(&s->lock);
	for (size_t i = s->members.count; i-- > 0 && !found;) {
		struct member *m = s->members.data[i];
		if (m->count && m->ticket <= ticket && ticket < m->ticket + m->count)
			found = m;
	}
	pthread_mutex_unlock(&s->lock);
	return found;
}

static int store_piece_begin(struct sink *base, uint64_t ticket, struct sink_piece **ret)
{
	struct store_sink *s = (struct store_sink *)base;
	struct member *m = find_member(s, ticket);
	uint64_t from = m ? (ticket - m->ticket) * m->step : 0;
	struct piece *p = m ? piece_new(s, m->places + from / CHUNK, pages_of(MIN(m->step, m->size - from))) : NULL;

	if (!p) {
		sink_fail_all(base);
		return -ENOMEM;
	}
	*ret = &p->base;
	return 0;
}

static int store_piece_write(struct sink_piece *base, const void *data, size_t size)
{
	struct store_sink *s = (struct store_sink *)base->sink;

	return __atomic_load_n(&s->failed, __ATOMIC_RELAXED) ? -ECANCELED : piece_add(s, (struct piece *)base, data, size);
}

static int store_piece_end(struct sink_piece *base)
{
	struct store_sink *s = (struct store_sink *)base->sink;
	int r = piece_close(s, (struct piece *)base);

	if (r)
		sink_fail_all(&s->base);
	return r;
}

static int end_appended(struct store_sink *s)
{
	return s->appended ? piece_close(s, TAKE_PTR(s->appended)) : 0;
}

static int store_member(struct sink *base, const char *name, uint64_t size)
{
	struct store_sink *s = (struct store_sink *)base;
	const bool small = size <= SMALL_MAX;
	int r = end_appended(s);

	if (r)
		return r;
	struct member *m = add_member(s, name, size, !small);
	if (!m)
		return -ENOMEM;
	m->at = s->recipe.small.count;
	if (!small && !(s->appended = piece_new(s, m->places, pages_of(size))))
		return -ENOMEM;
	return 0;
}

static int store_append(struct sink *base, const void *data, size_t size)
{
	struct store_sink *s = (struct store_sink *)base;

	if (s->appended)
		return piece_add(s, s->appended, data, size);
	if (!vec_reserve((void **)&s->recipe.small.data, &s->recipe.small.capacity, s->recipe.small.count + size, 1))
		return -ENOMEM;
	memcpy(s->recipe.small.data + s->recipe.small.count, data, size);
	s->recipe.small.count += size;
	return 0;
}

/* Pages one after the other; then the small files. `own`: the new pack's number. */
static int list_pages(struct store_sink *s, uint32_t own)
{
	struct recipe *to = &s->recipe;
	uint32_t last = PACK_OWN, number = 0;
	int r = 0;

	for (size_t i = 0; !r && i < s->members.count; i++) {
		const struct member *m = s->members.data[i];
		struct recipe_member *made = VEC_PUSH(&to->members);
		if (!made)
			return -ENOMEM;
		memcpy(made->name, m->name, sizeof(made->name));
		made->size = m->size;
		made->offset = m->places ? to->pages * CHUNK : m->at;
		for (uint64_t k = 0; !r && m->places && k < pages_of(m->size); k++) {
			const struct place *p = &m->places[k];
			if (p->pack < PACK_OWN && p->pack != last) {
				last = p->pack;
				r = recipe_pack(to, lookup_pack(s->lookup, last)->id, &number);
			}
			if (!r)
				r = recipe_add(to, p->pack == PACK_OWN ? own : p->pack == PACK_ZERO ? PACK_ZERO : number, p->chunk);
		}
	}
	for (size_t i = 0; !r && i < s->members.count; i++)
		if (!s->members.data[i]->places)
			to->members.data[i].offset += to->pages * CHUNK;
	return r;
}

static int store_commit(struct sink *base)
{
	struct store_sink *s = (struct store_sink *)base;
	unsigned char id[DIGEST];
	uint64_t chunks = 0;
	uint32_t own = 0;
	int r = end_appended(s);

	if (!r && s->failed)
		r = -ECANCELED;
	if (!r)
		r = pack_finish(s->pack, id, &chunks);
	if (r == 1)
		r = recipe_pack(&s->recipe, id, &own);
	s->recipe.added = chunks ? pack_written(s->pack) : 0;
	if (!r)
		r = list_pages(s, own);
	if (!r)
		r = recipe_write(s->store, s->name, &s->recipe, false);
	s->named = !r;
	return r;
}

static void store_withdraw(struct sink *base)
{
	struct store_sink *s = (struct store_sink *)base;

	/* What was added stays until somebody prunes: others may have referred to it already. */
	if (s->named)
		unlinkat(s->store->checkpoints, s->name, 0);
	s->named = false;
}

static int store_directory(const struct sink *base)
{
	const struct store *s = ((const struct store_sink *)base)->store;

	/* What is kept there would not be sealed. */
	return s->key ? -1 : s->fd;
}

static uint64_t store_written(const struct sink *base)
{
	const struct store_sink *s = (const struct store_sink *)base;

	return pack_written(s->pack) + s->recipe.small.count;
}

static void store_free(struct sink *base)
{
	struct store_sink *s = (struct store_sink *)base;

	if (s->pack)
		end_appended(s);
	VEC_FOREACH(&s->members, m) {
		free((*m)->places);
		free(*m);
	}
	VEC_FREE(&s->members);
	recipe_free(&s->recipe);
	pack_writer_free(s->pack);
	lookup_close(s->lookup);
	/* Nobody waits for the dump any more. */
	if (s->named)
		lookup_merge(s->store, false);
	store_dir_close(s->store);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static const struct sink_ops store_ops = {
	.free = store_free,
	.fail = sink_fail_all,
	.reserve = store_reserve,
	.piece_begin = store_piece_begin,
	.piece_write = store_piece_write,
	.piece_end = store_piece_end,
	.member = store_member,
	.append = store_append,
	.commit = store_commit,
	.withdraw = store_withdraw,
	.directory = store_directory,
	.written = store_written,
};

int store_sink_new(const char *path, const struct packing *packing, struct sink **ret)
{
	struct store_sink *s = calloc(1, sizeof(*s));
	char dir[PATH_MAX];

	if (!s)
		return -ENOMEM;
	s->base.ops = &store_ops;
	s->recipe.kind = packing->kind;
	s->recipe.created = time(NULL);
	pthread_mutex_init(&s->lock, NULL);
	int r = packing->streams ? -EINVAL : store_split(path, dir, s->name);
	if (!r)
		r = store_dir_open(dir, packing->key, true, &s->store);
	if (!r)
		r = store_lock(s->store, LOCK_SH);
	if (!r && faccessat(s->store->checkpoints, s->name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		r = -EEXIST;
	if (!r)
		r = lookup_open(s->store, &s->lookup);
	if (!r)
		r = pack_writer_new(s->store, packing, &s->pack);
	if (r)
		store_free(&s->base);
	else
		*ret = &s->base;
	return r;
}
