/*
 * Reading a pack: frames of chunks, then a table with a record for each frame, the hashes of the table's leaves, and a foot. The name of a
 * pack is the hash of all that follows the table, so that a chunk is what it says by a chain of hashes that begins in the checkpoint.
 * Leaves are read when they are first needed.
 */
#include "image/store/key.h"
#include "image/store/pack.h"

#include <fcntl.h>
#include <sys/stat.h>

const char pack_mark[8] = "FERMPACK", pack_foot_mark[8] = "FERMFOOT";

static uint64_t leaves_of(const struct pack *p)
{
	return (p->frames + LEAF_RECORDS - 1) / LEAF_RECORDS;
}

static int read_foot(struct pack *p)
{
	unsigned char digest[DIGEST];
	struct pack_head head;
	struct pack_foot foot;

	if (p->size < sizeof(head) + sizeof(foot))
		return -EBADMSG;
	int r = read_whole(p->fd, &head, sizeof(head), 0);
	if (!r)
		r = read_whole(p->fd, &foot, sizeof(foot), p->size - sizeof(foot));
	if (r)
		return r;
	if (memcmp(head.mark, pack_mark, sizeof(pack_mark)) || memcmp(foot.mark, pack_foot_mark, sizeof(pack_foot_mark)) || head.version != 1 ||
	    foot.kind > PACKING_ZSTD || !foot.frames || foot.frames > PACK_FRAMES_MAX || foot.chunks < foot.frames || foot.chunks > foot.frames * FRAME_CHUNKS)
		return -EBADMSG;
	p->kind = (enum packing_kind)foot.kind;
	p->frames = foot.frames;
	p->chunks = foot.chunks;
	p->table = foot.table;
	size_t size = leaves_of(p) * DIGEST;
	if (p->size - sizeof(foot) < p->table || p->size - sizeof(foot) - p->table != p->frames * sizeof(struct pack_record) + size)
		return -EBADMSG;
	p->directory = malloc(size + sizeof(foot));
	p->leaves = calloc(leaves_of(p), sizeof(*p->leaves));
	if (!p->directory || !p->leaves)
		return -ENOMEM;
	r = read_whole(p->fd, p->directory, size + sizeof(foot), p->size - sizeof(foot) - size);
	if (r)
		return r;
	store_digest(p->key, p->directory, size + sizeof(foot), digest);
	if (memcmp(digest, p->id, DIGEST) || foot.sealed != (p->key != NULL))
		return -EBADMSG;
	if (!p->key)
		return 0;
	p->cipher = malloc(sizeof(*p->cipher));
	if (!p->cipher)
		return -ENOMEM;
	store_cipher(p->key, foot.salt, p->cipher);
	return 0;
}

int pack_open(struct store *s, const unsigned char id[DIGEST], struct pack **ret)
{
	struct pack *p = calloc(1, sizeof(*p));
	char name[HEX_ID];
	struct stat st;

	if (!p)
		return -ENOMEM;
	store_hex(id, name);
	memcpy(p->id, id, DIGEST);
	pthread_mutex_init(&p->lock, NULL);
	p->key = s->key;
	p->fd = openat(s->packs, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	int r = p->fd < 0 || fstat(p->fd, &st) < 0 ? -errno : S_ISREG(st.st_mode) ? 0 : -EBADMSG;
	if (!r) {
		p->size = (uint64_t)st.st_size;
		r = read_foot(p);
	}
	if (r)
		pack_close(p);
	else
		*ret = p;
	return r;
}

void pack_close(struct pack *p)
{
	if (!p)
		return;
	for (uint64_t i = 0; p->leaves && i < leaves_of(p); i++)
		free(p->leaves[i]);
	free(p->leaves);
	free(p->directory);
	free(p->cipher);
	if (p->fd >= 0)
		close(p->fd);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

/* With the lock held. */
static struct pack_record *read_leaf(struct pack *p, uint64_t leaf)
{
	uint64_t first = leaf * LEAF_RECORDS, count = MIN(p->frames - first, (uint64_t)LEAF_RECORDS);
	struct pack_record *records = malloc(count * sizeof(*records));
	unsigned char digest[DIGEST];
	int r = records ? read_whole(p->fd, records, count * sizeof(*records), p->table + first * sizeof(*records)) : -ENOMEM;

	if (!r) {
		store_digest(p->key, records, count * sizeof(*records), digest);
		r = memcmp(digest, p->directory + leaf * DIGEST, DIGEST) ? -EBADMSG : 0;
	}
	for (uint64_t i = 0; !r && i < count; i++)
		if (!records[i].count || records[i].count > FRAME_CHUNKS || records[i].size > PACKING_FRAME_MAX + STORE_TAG || records[i].place > p->table ||
		    records[i].size > p->table - records[i].place)
			r = -EBADMSG;
	if (!r)
		return records;
	free(records);
	return NULL;
}

const struct pack_record *pack_record(struct pack *p, uint64_t frame)
{
	uint64_t leaf = frame / LEAF_RECORDS;

	if (frame >= p->frames)
		return NULL;
	struct pack_record *records = __atomic_load_n(&p->leaves[leaf], __ATOMIC_ACQUIRE);
	if (!records) {
		pthread_mutex_lock(&p->lock);
		records = p->leaves[leaf];
		if (!records && (records = read_leaf(p, leaf)))
			__atomic_store_n(&p->leaves[leaf], records, __ATOMIC_RELEASE);
		pthread_mutex_unlock(&p->lock);
	}
	return records ? &records[frame % LEAF_RECORDS] : NULL;
}

int pack_read(struct pack *p, uint64_t frame, const struct pack_record *r, struct codec *codec, unsigned char *packed, unsigned char *to)
{
	int failed = read_whole(p->fd, packed, r->size, r->place);
	size_t size = r->size;

	if (p->cipher && size < STORE_TAG)
		return -EBADMSG;
	if (!failed && p->cipher) {
		size -= STORE_TAG;
		failed = store_unseal(p->cipher, frame, packed, size, packed + size);
	}
	return failed ? failed : codec_unpack(codec, to, r->count * CHUNK, packed, size);
}
