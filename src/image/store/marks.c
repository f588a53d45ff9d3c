/* Which chunks of which packs checkpoints need: a bit for each. */
#include "image/store/private.h"

#include <fcntl.h>
#include <sys/stat.h>

struct reading {
	struct store *s;
	struct marks *m;
	struct error *e;
	bool strict;
};

static int by_id(const void *a, const void *b)
{
	return memcmp(((const struct mark *)a)->id, ((const struct mark *)b)->id, DIGEST);
}

struct mark *marks_find(const struct marks *m, const unsigned char id[DIGEST])
{
	struct mark key;

	memcpy(key.id, id, DIGEST);
	return m->packs.count ? bsearch(&key, m->packs.data, m->packs.count, sizeof(key), by_id) : NULL;
}

static int add_pack(void *data, int dirfd, const char *name)
{
	struct reading *reading = data;
	unsigned char id[DIGEST];
	struct stat st;

	if (!store_unhex(name, id) || fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return 0;
	struct mark *m = VEC_PUSH(&reading->m->packs);
	if (!m)
		return -ENOMEM;
	memcpy(m->id, id, DIGEST);
	m->size = (uint64_t)st.st_size;
	int r = pack_open(reading->s, id, &m->pack);
	if (r)
		return r == -ENOMEM || r == -EMFILE ? r : 0;
	m->chunks = m->pack->chunks;
	m->bits = calloc(1, m->pack->frames * FRAME_CHUNKS / 8 + 1);
	return m->bits ? 0 : -ENOMEM;
}

static int mark_run(struct reading *reading, const struct recipe *r, const struct recipe_run *run, const char *name)
{
	struct mark *m = marks_find(reading->m, r->packs.data[run->pack]);
	char id[HEX_ID];

	if (!m || !m->pack || run->chunk + (uint64_t)run->count > m->pack->frames * FRAME_CHUNKS) {
		store_hex(r->packs.data[run->pack], id);
		return reading->strict ? error_set(reading->e, -EBADMSG, "the checkpoint %s needs the pack %s, which is missing or damaged", name, id) : 0;
	}
	for (uint64_t i = run->chunk; i < run->chunk + (uint64_t)run->count; i++) {
		m->live += !mark_has(m, i);
		m->bits[i / 8] |= (unsigned char)(1u << i % 8);
	}
	return 0;
}

static int add_checkpoint(void *data, int dirfd, const char *name)
{
	struct reading *reading = data;
	checkpoint_name *slot = VEC_PUSH(&reading->m->names);
	struct recipe recipe;

	if (!slot)
		return -ENOMEM;
	snprintf(*slot, sizeof(*slot), "%s", name);
	int r = recipe_read(reading->s, name, &recipe);
	if (r == -ENOENT) {
		reading->m->names.count--;
		return 0;
	}
	if (r)
		return reading->strict ? error_set(reading->e, r, "the checkpoint %s can't be read; verify it, or remove it", name) : 0;
	VEC_FOREACH(&recipe.runs, run)
		if (!r && run->pack != PACK_ZERO)
			r = mark_run(reading, &recipe, run, name);
	recipe_free(&recipe);
	return r;
}

int marks_read(struct store *s, bool strict, struct marks *ret, struct error *e)
{
	struct reading reading = { s, ret, e, strict };

	*ret = (struct marks){};
	int r = store_each(s->packs, add_pack, &reading);
	if (!r && ret->packs.count)
		qsort(ret->packs.data, ret->packs.count, sizeof(*ret->packs.data), by_id);
	if (!r)
		r = store_each(s->checkpoints, add_checkpoint, &reading);
	if (r && !e->code)
		error_errno(e, r, "the store can't be read");
	if (r)
		marks_free(ret);
	return r;
}

void marks_free(struct marks *m)
{
	VEC_FOREACH(&m->packs, p) {
		pack_close(p->pack);
		free(p->bits);
	}
	VEC_FREE(&m->packs);
	VEC_FREE(&m->names);
}
