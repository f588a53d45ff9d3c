/*
 * Removing what no checkpoint needs. A pack of which nothing is needed goes; one of which less than half is needed is written anew without
 * the rest. The writing is done beside dumps, under the lock that they share. Then the lock is held alone, so that no dump is under
 * way which could have found a chunk whose checkpoint is not there yet: what is needed is looked at once more, checkpoints are made to refer to
 * the new packs, and what nobody needs then goes. Killed at any moment it leaves at worst a pack too many, for the next one.
 */
#include "image/store/private.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>

#define GONE UINT32_MAX

/* A pack that is written anew: the new number of each chunk. */
struct moved {
	unsigned char id[DIGEST];
	uint64_t chunks;
	uint32_t *to;
};

struct pruning {
	struct store *s;
	struct error *e;
	struct store_pruned *result;
	struct marks marks;
	VEC(struct moved) moved;
	unsigned char fresh[DIGEST]; /* the pack they went to */
	unsigned char raw[FRAME_BYTES], packed[PACKING_FRAME_MAX + STORE_TAG];
};

/* ---- writing anew ---- */

static int move_frame(struct pruning *p, const struct mark *m, uint64_t frame, struct codec *codec, struct pack_hand *hand, uint32_t *to)
{
	const struct pack_record *record = pack_record(m->pack, frame);
	unsigned char digest[DIGEST];
	bool any = false;
	int r = 0;

	for (uint32_t i = 0; record && i < record->count; i++)
		any |= mark_has(m, frame * FRAME_CHUNKS + i);
	if (!record || !any)
		return record ? 0 : -EBADMSG;
	r = pack_read(m->pack, frame, record, codec, p->packed, p->raw);
	for (uint32_t i = 0; !r && i < record->count; i++) {
		if (!mark_has(m, frame * FRAME_CHUNKS + i))
			continue;
		store_digest(p->s->key, p->raw + i * CHUNK, CHUNK, digest);
		if (memcmp(digest, record->digests[i], DIGEST))
			return -EBADMSG;
		r = pack_put(hand, p->raw + i * CHUNK, digest, &to[frame * FRAME_CHUNKS + i]);
	}
	return r;
}

/* One that is damaged stays as it is. */
static int move_pack(struct pruning *p, const struct mark *m, struct pack_writer *w)
{
	struct codec *codec = codec_new(m->pack->kind, 0);
	struct pack_hand *hand = pack_hand_take(w);
	size_t chunks = m->pack->frames * FRAME_CHUNKS;
	uint32_t *to = malloc(chunks * sizeof(*to));
	int r = codec && hand && to ? 0 : -ENOMEM;

	if (!r)
		memset(to, 0xff, chunks * sizeof(*to));
	for (uint64_t i = 0; !r && i < m->pack->frames; i++) {
		r = move_frame(p, m, i, codec, hand, to);
		meter_add(p->result->meter, m->size / m->pack->frames);
	}
	struct moved *moved = r ? NULL : VEC_PUSH(&p->moved);
	if (moved) {
		*moved = (struct moved){ .chunks = chunks, .to = TAKE_PTR(to) };
		memcpy(moved->id, m->id, DIGEST);
	}
	if (hand)
		pack_hand_give(w, hand);
	codec_free(codec);
	free(to);
	return r == -EBADMSG ? 0 : r ? r : moved ? 0 : -ENOMEM;
}

static bool is_sparse(const struct mark *m)
{
	return m->pack && m->live && m->live < m->chunks / 2;
}

/* As the first of them was packed. */
static int write_anew(struct pruning *p)
{
	struct pack_writer *w = NULL;
	uint64_t chunks;
	int r = 0;

	VEC_FOREACH(&p->marks.packs, m)
		meter_expect(p->result->meter, is_sparse(m) ? m->size : 0);
	VEC_FOREACH(&p->marks.packs, m) {
		struct packing packing = { .kind = m->pack ? m->pack->kind : PACKING_NONE };
		if (r || !is_sparse(m))
			continue;
		if (!w)
			r = pack_writer_new(p->s, &packing, &w);
		if (!r)
			r = move_pack(p, m, w);
	}
	if (!r && w && p->moved.count) {
		r = pack_finish(w, p->fresh, &chunks);
		p->result->rewritten = r == 1 ? p->moved.count : 0;
		r = r == 1 ? 0 : r;
	}
	pack_writer_free(w);
	return r;
}

/* ---- checkpoints ---- */

static const struct moved *find_moved(const struct pruning *p, const unsigned char id[DIGEST])
{
	for (size_t i = 0; i < p->moved.count; i++)
		if (!memcmp(p->moved.data[i].id, id, DIGEST))
			return &p->moved.data[i];
	return NULL;
}

/* All that it needs of packs that were written anew is in the new one. */
static bool can_change(const struct pruning *p, const struct recipe *r, bool *ret_must)
{
	*ret_must = false;
	VEC_FOREACH(&r->runs, run) {
		const struct moved *m = run->pack == PACK_ZERO ? NULL : find_moved(p, r->packs.data[run->pack]);
		*ret_must |= m != NULL;
		for (uint64_t i = 0; m && i < run->count; i++)
			if (run->chunk + i >= m->chunks || m->to[run->chunk + i] == GONE)
				return false;
	}
	return true;
}

static int add_run(const struct pruning *p, const struct recipe *from, const struct recipe_run *run, struct recipe *to)
{
	const struct moved *m = run->pack == PACK_ZERO ? NULL : find_moved(p, from->packs.data[run->pack]);
	uint32_t pack = PACK_ZERO;
	int r = run->pack == PACK_ZERO ? 0 : recipe_pack(to, m ? p->fresh : from->packs.data[run->pack], &pack);

	for (uint64_t i = 0; !r && i < run->count; i++)
		r = recipe_add(to, pack, m ? m->to[run->chunk + i] : run->chunk + (uint32_t)i);
	return r;
}

static int change(struct pruning *p, const char *name)
{
	struct recipe from, to = {};
	int r = recipe_read(p->s, name, &from);
	bool must = false;

	if (r)
		return r == -ENOENT ? 0 : r;
	if (can_change(p, &from, &must) && must) {
		to = (struct recipe){ .kind = from.kind, .created = from.created, .added = from.added };
		for (size_t i = 0; !r && i < from.runs.count; i++)
			r = add_run(p, &from, &from.runs.data[i], &to);
		/* Pages stand where they stood: the stream is the same. */
		to.members.data = TAKE_PTR(from.members.data);
		to.members.count = from.members.count;
		to.small.data = TAKE_PTR(from.small.data);
		to.small.count = from.small.count;
		if (!r)
			r = recipe_write(p->s, name, &to, true);
		from.members.count = from.small.count = 0;
		recipe_free(&to);
	}
	recipe_free(&from);
	return r;
}

/* ---- removing ---- */

static int remove_temporary(int dirfd)
{
	int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);

	if (!dir) {
		if (fd >= 0)
			close(fd);
		return -errno;
	}
	for (struct dirent *entry; (entry = readdir(dir));)
		if (!strncmp(entry->d_name, TEMPORARY, strlen(TEMPORARY)))
			unlinkat(dirfd, entry->d_name, 0);
	closedir(dir);
	return 0;
}

static int remove_unused(struct pruning *p)
{
	char name[HEX_ID];
	int r = 0;

	VEC_FOREACH(&p->marks.packs, m) {
		store_hex(m->id, name);
		if (r || m->live || unlinkat(p->s->packs, name, 0) < 0)
			continue;
		p->result->packs++;
		p->result->chunks += m->chunks;
		p->result->bytes += m->size;
	}
	return r;
}

static int remove_alone(struct pruning *p)
{
	const int dirs[] = { p->s->packs, p->s->index, p->s->checkpoints, p->s->fd };
	int r = store_lock(p->s, LOCK_EX);

	for (size_t i = 0; !r && i < ARRAY_SIZE(dirs); i++)
		r = remove_temporary(dirs[i]);
	marks_free(&p->marks);
	if (!r && p->moved.count && p->result->rewritten) {
		r = marks_read(p->s, true, &p->marks, p->e);
		for (size_t i = 0; !r && i < p->marks.names.count; i++)
			r = change(p, p->marks.names.data[i]);
		marks_free(&p->marks);
	}
	if (!r)
		r = marks_read(p->s, true, &p->marks, p->e);
	if (!r)
		r = remove_unused(p);
	store_lock(p->s, LOCK_UN);
	return r;
}

int store_prune(const char *dir, const char *key, struct store_pruned *ret, struct error *e)
{
	struct pruning *p = calloc(1, sizeof(*p));
	_cleanup_close_ int lock = -1;
	int r = p ? store_dir_open(dir, key, false, &p->s) : -ENOMEM;

	*ret = (struct store_pruned){ .meter = ret->meter };
	e->code = 0;
	if (r) {
		free(p);
		return store_error(e, r, "open the store in", dir);
	}
	p->e = e;
	p->result = ret;
	lock = openat(p->s->fd, ".prune", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (lock < 0 || flock(lock, LOCK_EX | LOCK_NB) < 0)
		r = errno == EWOULDBLOCK ? error_set(e, -EBUSY, "another prune is at work in %s", dir) : error_errno(e, -errno, "cannot lock %s", dir);
	if (!r)
		r = store_lock(p->s, LOCK_SH);
	if (!r)
		r = marks_read(p->s, true, &p->marks, e);
	/* A disk that is full: then there is all the more reason to remove what can be. */
	if (!r && (r = write_anew(p)) == -ENOSPC)
		r = 0;
	if (!r)
		r = remove_alone(p);
	if (!r)
		lookup_merge(p->s, true);
	if (r && !e->code)
		error_errno(e, r, "cannot prune the store in %s", dir);
	marks_free(&p->marks);
	VEC_FOREACH(&p->moved, m)
		free(m->to);
	VEC_FREE(&p->moved);
	store_dir_close(p->s);
	free(p);
	return r;
}

int store_remove(const char *path, const char *key, struct error *e)
{
	char dir[PATH_MAX], name[NAME_MAX + 1];
	struct store *s;
	int r = store_split(path, dir, name);

	if (r)
		return error_set(e, r, "%s names no checkpoint of a store; give store:DIR/NAME", path);
	r = store_dir_open(dir, key, false, &s);
	if (r)
		return store_error(e, r, "open the store in", dir);
	if (unlinkat(s->checkpoints, name, 0) == 0 && store_file(path, "orders", dir, sizeof(dir)) == 0)
		unlink(dir);
	else
		r = errno == ENOENT ? error_set(e, -ENOENT, "there is no checkpoint %s in the store %s", name, dir) :
				      error_errno(e, -errno, "cannot remove the checkpoint %s", path);
	store_dir_close(s);
	return r;
}
