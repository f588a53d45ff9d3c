/* What a store holds, and whether it is whole. See store.h. */
#include "image/store/private.h"

#include <sys/file.h>
#include <fcntl.h>
#include <sys/stat.h>

int store_error(struct error *e, int r, const char *what, const char *dir)
{
	if (r == -ENOENT || r == -ENOTDIR)
		return error_set(e, r, "there is no store in %s", dir);
	if (r == -EPROTONOSUPPORT)
		return error_set(e, r, "the store in %s has a format that this version does not know", dir);
	if (r == -ENOKEY)
		return error_set(e, r, "the store in %s needs its key, and the key's file can't be read or was not given; give it with --store-key", dir);
	if (r == -EKEYREJECTED)
		return error_set(e, r, "the key is not that of the store in %s (which may have none), or its file has not 32 to 4096 bytes", dir);
	return error_errno(e, r, "cannot %s %s", what, dir);
}

static int open_or_say(const char *dir, const char *key, struct store **ret, struct error *e)
{
	int r = store_dir_open(dir, key, false, ret);

	return r ? store_error(e, r, "open the store in", dir) : 0;
}

/* ---- list ---- */

struct listing {
	struct store *s;
	store_checkpoints *to;
};

static int add_listed(void *data, int dirfd, const char *name)
{
	struct listing *l = data;
	struct store_checkpoint *c = VEC_PUSH(l->to);
	struct recipe r;

	if (!c)
		return -ENOMEM;
	snprintf(c->name, sizeof(c->name), "%s", name);
	if (recipe_read(l->s, name, &r))
		return 0;
	c->created = r.created;
	c->kind = r.kind;
	c->size = recipe_size(&r);
	c->added = r.added;
	recipe_free(&r);
	return 0;
}

static int by_time(const void *a, const void *b)
{
	const struct store_checkpoint *x = a, *y = b;

	return x->created != y->created ? (x->created < y->created ? -1 : 1) : strcmp(x->name, y->name);
}

int store_list(const char *dir, const char *key, store_checkpoints *ret, struct error *e)
{
	struct store *s;
	int r = open_or_say(dir, key, &s, e);

	if (r)
		return r;
	r = store_each(s->checkpoints, add_listed, &(struct listing){ s, ret });
	if (r)
		error_errno(e, r, "cannot read the store in %s", dir);
	else if (ret->count)
		qsort(ret->data, ret->count, sizeof(*ret->data), by_time);
	store_dir_close(s);
	return r;
}

/* ---- stats ---- */

static int add_size(void *data, int dirfd, const char *name)
{
	struct stat st;

	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		*(uint64_t *)data += (uint64_t)st.st_size;
	return 0;
}

int store_stats(const char *dir, const char *key, struct store_stats *ret, struct error *e)
{
	store_checkpoints list = {};
	struct marks marks = {};
	struct store *s;
	int r = open_or_say(dir, key, &s, e);

	if (r)
		return r;
	*ret = (struct store_stats){};
	r = marks_read(s, false, &marks, e);
	VEC_FOREACH(&marks.packs, m) {
		ret->packs++;
		ret->chunks += m->chunks;
		ret->stored += m->size;
		ret->unused += m->chunks ? m->size / m->chunks * (m->chunks - m->live) : m->size;
	}
	marks_free(&marks);
	if (!r && ((r = store_each(s->checkpoints, add_size, &ret->recipes)) || (r = store_each(s->index, add_size, &ret->index))))
		error_errno(e, r, "cannot read the store in %s", dir);
	store_dir_close(s);
	if (!r)
		r = store_list(dir, key, &list, e);
	VEC_FOREACH(&list, c)
		ret->size += c->size;
	ret->checkpoints = list.count;
	VEC_FREE(&list);
	return r;
}

/* ---- verify ---- */

struct checking {
	struct store *s;
	struct store_report *report;
	struct marks marks;
	damage_list damaged;
	unsigned char raw[FRAME_BYTES], packed[PACKING_FRAME_MAX + STORE_TAG];
};

static int note(struct checking *c, const struct pack *p, uint64_t chunk)
{
	struct damage *d = VEC_PUSH(&c->damaged);

	if (!d)
		return -ENOMEM;
	memcpy(d->pack, p->id, DIGEST);
	d->chunk = (uint32_t)chunk;
	c->report->damaged++;
	return 0;
}

static int check_frame(struct checking *c, struct pack *p, uint64_t frame, struct codec *codec)
{
	const struct pack_record *record = pack_record(p, frame);
	unsigned char digest[DIGEST];
	int r = 0;

	if (!record)
		return note(c, p, frame * FRAME_CHUNKS);
	const bool whole = pack_read(p, frame, record, codec, c->packed, c->raw) == 0;
	for (uint32_t i = 0; !r && i < record->count; i++) {
		store_digest(c->s->key, c->raw + i * CHUNK, CHUNK, digest);
		if (!whole || memcmp(digest, record->digests[i], DIGEST))
			r = note(c, p, frame * FRAME_CHUNKS + i);
	}
	c->report->chunks += record->count;
	c->report->bytes += record->size;
	return r;
}

static int check_pack(struct checking *c, const struct mark *m)
{
	char id[HEX_ID], text[HEX_ID + 64];
	struct codec *codec;
	int r = 0;

	if (!m->pack) {
		store_hex(m->id, id);
		snprintf(text, sizeof(text), "pack %s can't be read", id);
		c->report->damaged++;
		c->report->found(c->report->data, text, NULL);
		return 0;
	}
	codec = codec_new(m->pack->kind, 0);
	if (!codec)
		return -ENOMEM;
	for (uint64_t i = 0; !r && i < m->pack->frames; i++) {
		r = check_frame(c, m->pack, i, codec);
		meter_add(c->report->meter, m->size / m->pack->frames);
	}
	codec_free(codec);
	return r;
}

static void say(struct checking *c, const struct damage *d, const char *checkpoint)
{
	const struct mark *m = marks_find(&c->marks, d->pack);
	const struct pack_record *record = m && m->pack ? pack_record(m->pack, d->chunk / FRAME_CHUNKS) : NULL;
	char id[HEX_ID], hex[HEX_ID] = "", text[2 * HEX_ID + 64];

	store_hex(d->pack, id);
	if (record)
		store_hex(record->digests[d->chunk % FRAME_CHUNKS], hex);
	if (record)
		snprintf(text, sizeof(text), "chunk %s of pack %s is damaged", hex, id);
	else
		snprintf(text, sizeof(text), "the table of pack %s is damaged at chunk %u", id, d->chunk);
	c->report->found(c->report->data, text, checkpoint);
}

static bool needs(const struct recipe *r, const struct damage *d)
{
	VEC_FOREACH(&r->runs, run)
		if (run->pack != PACK_ZERO && d->chunk >= run->chunk && d->chunk - run->chunk < run->count &&
		    !memcmp(r->packs.data[run->pack], d->pack, DIGEST))
			return true;
	return false;
}

static int check_checkpoint(struct checking *c, const char *name, bool *said)
{
	char id[HEX_ID], text[HEX_ID + 64];
	struct recipe recipe;
	int r = recipe_read(c->s, name, &recipe);

	if (r == -ENOENT || r == -ENOMEM)
		return r == -ENOENT ? 0 : r;
	if (r) {
		c->report->damaged++;
		c->report->found(c->report->data, "its recipe is damaged", name);
		return 0;
	}
	for (size_t i = 0; i < recipe.packs.count; i++) {
		const struct mark *m = marks_find(&c->marks, recipe.packs.data[i]);
		if (m && m->pack)
			continue;
		store_hex(recipe.packs.data[i], id);
		snprintf(text, sizeof(text), "pack %s is %s", id, m ? "damaged" : "missing");
		c->report->damaged += !m;
		c->report->found(c->report->data, text, name);
	}
	for (size_t i = 0; i < c->damaged.count; i++)
		if (needs(&recipe, &c->damaged.data[i])) {
			say(c, &c->damaged.data[i], name);
			said[i] = true;
		}
	recipe_free(&recipe);
	return 0;
}

static int check_all(struct checking *c)
{
	int r = 0;

	for (size_t i = 0; i < c->marks.packs.count; i++)
		meter_expect(c->report->meter, c->marks.packs.data[i].pack ? c->marks.packs.data[i].size : 0);
	for (size_t i = 0; !r && i < c->marks.packs.count; i++)
		r = check_pack(c, &c->marks.packs.data[i]);
	_cleanup_free_ bool *said = calloc(c->damaged.count + 1, sizeof(*said));
	if (!said)
		return -ENOMEM;
	for (size_t i = 0; !r && i < c->marks.names.count; i++)
		r = check_checkpoint(c, c->marks.names.data[i], said);
	for (size_t i = 0; !r && i < c->damaged.count; i++)
		if (!said[i])
			say(c, &c->damaged.data[i], NULL);
	return r;
}

int store_verify(const char *dir, const char *key, struct store_report *report, struct error *e)
{
	struct checking *c = calloc(1, sizeof(*c));
	int r = c ? open_or_say(dir, key, &c->s, e) : error_set(e, -ENOMEM, "out of memory");

	if (r) {
		free(c);
		return r;
	}
	c->report = report;
	/* Nothing is removed meanwhile. Who may only read does without. */
	if (c->s->lock >= 0)
		store_lock(c->s, LOCK_SH);
	r = marks_read(c->s, false, &c->marks, e);
	if (!r && (r = check_all(c)))
		error_errno(e, r, "cannot verify the store in %s", dir);
	if (!r && damage_write(c->s, &c->damaged) && report->damaged)
		report->found(report->data, "the damage can't be noted in the store: dumps will go on to refer to it", NULL);
	marks_free(&c->marks);
	VEC_FREE(&c->damaged);
	store_dir_close(c->s);
	free(c);
	return r;
}
