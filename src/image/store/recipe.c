/* A checkpoint in a store: its small files, and for its pages, which chunks they are. To bytes and back; all that is read may be hostile. */
#include "image/store/key.h"

#include <fcntl.h>
#include <sys/stat.h>

#define MEMBERS_MAX (1UL << 20)
#define PACKS_MAX (1UL << 24)
#define SEAL_ROOM (STORE_SALT + STORE_TAG)

struct head {
	char mark[8];
	uint32_t version, kind;
	int64_t created;
	uint64_t added, packs, members, runs, small;
};
_Static_assert(offsetof(struct head, added) == STORE_ADDED_OFFSET, "the daemon reads it");
static const char mark[8] = "FERMRCP1";

void recipe_free(struct recipe *r)
{
	VEC_FREE(&r->packs);
	VEC_FREE(&r->members);
	VEC_FREE(&r->runs);
	VEC_FREE(&r->small);
}

uint64_t recipe_size(const struct recipe *r)
{
	uint64_t size = 0;

	VEC_FOREACH(&r->members, m)
		size += m->size;
	return size;
}

int recipe_pack(struct recipe *r, const unsigned char id[DIGEST], uint32_t *ret)
{
	for (size_t i = 0; i < r->packs.count; i++)
		if (!memcmp(r->packs.data[i], id, DIGEST)) {
			*ret = (uint32_t)i;
			return 0;
		}
	pack_id *slot = r->packs.count < PACKS_MAX ? VEC_PUSH(&r->packs) : NULL;
	if (!slot)
		return -ENOMEM;
	memcpy(slot, id, DIGEST);
	*ret = (uint32_t)(r->packs.count - 1);
	return 0;
}

int recipe_add(struct recipe *r, uint32_t pack, uint32_t chunk)
{
	struct recipe_run *last = r->runs.count ? &r->runs.data[r->runs.count - 1] : NULL;

	r->pages++;
	if (last && last->pack == pack && last->count < UINT32_MAX && (pack == PACK_ZERO || last->chunk + last->count == chunk)) {
		last->count++;
		return 0;
	}
	last = VEC_PUSH(&r->runs);
	if (!last)
		return -ENOMEM;
	*last = (struct recipe_run){ pack, pack == PACK_ZERO ? 0 : chunk, 1 };
	return 0;
}

/* All behind the head; its salt and tag follow. */
static int seal(const struct store_key *k, unsigned char *data, size_t *size)
{
	unsigned char *salt = data + *size;
	struct store_cipher c;
	int r = store_salt(salt);

	if (r)
		return r;
	store_cipher(k, salt, &c);
	store_seal(&c, 0, data + sizeof(struct head), *size - sizeof(struct head), salt + STORE_SALT);
	*size += SEAL_ROOM;
	return 0;
}

static int unseal(const struct store_key *k, unsigned char *data, size_t *size)
{
	struct store_cipher c;

	if (*size < sizeof(struct head) + SEAL_ROOM)
		return -EBADMSG;
	*size -= SEAL_ROOM;
	store_cipher(k, data + *size, &c);
	return store_unseal(&c, 0, data + sizeof(struct head), *size - sizeof(struct head), data + *size + STORE_SALT);
}

int recipe_write(struct store *s, const char *name, const struct recipe *r, bool replace)
{
	struct head h = { .version = 1, .kind = r->kind, .created = r->created, .added = r->added, .packs = r->packs.count,
			  .members = r->members.count, .runs = r->runs.count, .small = r->small.count };
	size_t sizes[] = { sizeof(h), r->packs.count * DIGEST, r->members.count * sizeof(struct recipe_member),
			   r->runs.count * sizeof(struct recipe_run), r->small.count };
	const void *parts[] = { &h, r->packs.data, r->members.data, r->runs.data, r->small.data };
	size_t size = 0, at = 0;
	struct fresh f;

	memcpy(h.mark, mark, sizeof(mark));
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
		size += sizes[i];
	_cleanup_free_ unsigned char *data = malloc(size + SEAL_ROOM + DIGEST);
	if (!data || size + SEAL_ROOM + DIGEST > RECIPE_MAX)
		return data ? -EFBIG : -ENOMEM;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		if (sizes[i])
			memcpy(data + at, parts[i], sizes[i]);
		at += sizes[i];
	}
	int result = s->key ? seal(s->key, data, &size) : 0;
	store_digest(s->key, data, size, data + size);
	if (!result)
		result = fresh_open(s->checkpoints, &f);
	if (result)
		return result;
	result = write_whole(f.fd, data, size + DIGEST, 0);
	if (!result)
		result = fresh_name(&f, name, replace);
	fresh_close(&f);
	return result;
}

static int check(struct recipe *r)
{
	VEC_FOREACH(&r->runs, run) {
		if (!run->count || (run->pack != PACK_ZERO && (run->pack >= r->packs.count || run->count > UINT32_MAX - run->chunk)))
			return -EBADMSG;
		r->pages += run->count;
		if (r->pages > UINT64_MAX / CHUNK / 4)
			return -EBADMSG;
	}
	uint64_t end = r->pages * CHUNK + r->small.count;
	VEC_FOREACH(&r->members, m)
		if (m->name[ARCHIVE_NAME_MAX - 1] || !m->name[0] || strchr(m->name, '/') || m->offset > end || m->size > end - m->offset)
			return -EBADMSG;
	return 0;
}

static bool take(void **to, size_t *count, size_t *capacity, uint64_t n, size_t size, const unsigned char **at)
{
	if (n && !vec_reserve(to, capacity, n, size))
		return false;
	if (n)
		memcpy(*to, *at, n * size);
	*count = n;
	*at += n * size;
	return true;
}

/* Without the digest, which was compared. */
static int parse(struct recipe *r, const unsigned char *data, size_t size)
{
	const unsigned char *at = data + sizeof(struct head);
	struct head h;

	if (size < sizeof(h))
		return -EBADMSG;
	memcpy(&h, data, sizeof(h));
	if (memcmp(h.mark, mark, sizeof(mark)) || h.kind > PACKING_ZSTD)
		return -EBADMSG;
	if (h.version != 1)
		return -EPROTONOSUPPORT;
	if (h.packs > PACKS_MAX || h.members > MEMBERS_MAX || h.runs > size / sizeof(struct recipe_run) || h.small > size ||
	    size != sizeof(h) + h.packs * DIGEST + h.members * sizeof(struct recipe_member) + h.runs * sizeof(struct recipe_run) + h.small)
		return -EBADMSG;
	r->kind = (enum packing_kind)h.kind;
	r->created = h.created;
	r->added = h.added;
	if (!take((void **)&r->packs.data, &r->packs.count, &r->packs.capacity, h.packs, DIGEST, &at) ||
	    !take((void **)&r->members.data, &r->members.count, &r->members.capacity, h.members, sizeof(struct recipe_member), &at) ||
	    !take((void **)&r->runs.data, &r->runs.count, &r->runs.capacity, h.runs, sizeof(struct recipe_run), &at) ||
	    !take((void **)&r->small.data, &r->small.count, &r->small.capacity, h.small, 1, &at))
		return -ENOMEM;
	return check(r);
}

static int compare(const struct store_key *k, const unsigned char *data, size_t *size)
{
	unsigned char digest[DIGEST];

	if (*size < DIGEST)
		return -EBADMSG;
	*size -= DIGEST;
	store_digest(k, data, *size, digest);
	return memcmp(digest, data + *size, DIGEST) ? -EBADMSG : 0;
}

int recipe_read(struct store *s, const char *name, struct recipe *ret)
{
	_cleanup_close_ int fd = openat(s->checkpoints, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > RECIPE_MAX)
		return -EBADMSG;
	_cleanup_free_ unsigned char *data = malloc((size_t)st.st_size + 1);
	*ret = (struct recipe){};
	size_t size = (size_t)st.st_size;
	int r = data ? read_whole(fd, data, size, 0) : -ENOMEM;
	if (!r)
		r = compare(s->key, data, &size);
	if (!r && s->key)
		r = unseal(s->key, data, &size);
	if (!r)
		r = parse(ret, data, size);
	if (r)
		recipe_free(ret);
	return r;
}
