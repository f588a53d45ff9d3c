/*
 * Making a pack, by many threads. Each has a hand: a frame that it fills. A chunk has its number as soon as it is in a hand, so that another
 * thread which meets the same can refer to it; where the frame goes is known when it is full.
 */
#include "image/store/key.h"
#include "image/store/pack.h"

#define SHARDS 64u
#define LEAVES_MAX (1UL << 20) /* 4 TiB of chunks */

struct pack_hand {
	struct pack_writer *w;
	struct codec *codec;
	unsigned char raw[FRAME_BYTES], packed[PACKING_FRAME_MAX + STORE_TAG];
	uint64_t frame;
	struct pack_record *record; /* NULL: no frame is begun */
	struct pack_hand *next;
};

/* Chunks by hash: open addressing; the number, plus one. */
struct shard {
	pthread_mutex_t lock;
	uint32_t *slots;
	size_t count, capacity;
};

struct pack_writer {
	struct store *store;
	struct packing packing;
	struct fresh file;
	pthread_mutex_t lock;
	struct pack_record **leaves;
	uint64_t frames, end, chunks;
	struct pack_hand *resting;
	struct shard shards[SHARDS];
	unsigned char salt[STORE_SALT];
	struct store_cipher *cipher; /* NULL: nothing is sealed */
};

int pack_writer_new(struct store *s, const struct packing *packing, struct pack_writer **ret)
{
	struct pack_writer *w = calloc(1, sizeof(*w));
	struct pack_head head = { .version = 1, .kind = packing->kind };

	if (!w)
		return -ENOMEM;
	w->store = s;
	w->packing = *packing;
	w->file.fd = -1;
	pthread_mutex_init(&w->lock, NULL);
	for (size_t i = 0; i < SHARDS; i++)
		pthread_mutex_init(&w->shards[i].lock, NULL);
	/* Only what is used of it is in memory. */
	w->leaves = calloc(LEAVES_MAX, sizeof(*w->leaves));
	int r = w->leaves ? fresh_open(s->packs, &w->file) : -ENOMEM;
	if (!r && s->key && !(w->cipher = malloc(sizeof(*w->cipher))))
		r = -ENOMEM;
	if (!r && s->key && !(r = store_salt(w->salt)))
		store_cipher(s->key, w->salt, w->cipher);
	memcpy(head.mark, pack_mark, sizeof(pack_mark));
	if (!r)
		r = write_whole(w->file.fd, &head, sizeof(head), 0);
	w->end = sizeof(head);
	if (r)
		pack_writer_free(w);
	else
		*ret = w;
	return r;
}

void pack_writer_free(struct pack_writer *w)
{
	if (!w)
		return;
	while (w->resting) {
		struct pack_hand *next = w->resting->next;
		codec_free(w->resting->codec);
		free(w->resting);
		w->resting = next;
	}
	for (uint64_t i = 0; w->leaves && i * LEAF_RECORDS < w->frames; i++)
		free(w->leaves[i]);
	free(w->leaves);
	for (size_t i = 0; i < SHARDS; i++) {
		free(w->shards[i].slots);
		pthread_mutex_destroy(&w->shards[i].lock);
	}
	pthread_mutex_destroy(&w->lock);
	fresh_close(&w->file);
	free(w->cipher);
	free(w);
}

uint64_t pack_written(const struct pack_writer *w)
{
	return __atomic_load_n(&w->end, __ATOMIC_RELAXED);
}

struct pack_hand *pack_hand_take(struct pack_writer *w)
{
	pthread_mutex_lock(&w->lock);
	struct pack_hand *h = w->resting;
	if (h)
		w->resting = h->next;
	pthread_mutex_unlock(&w->lock);
	if (h)
		return h;
	h = calloc(1, sizeof(*h));
	if (!h || !(h->codec = codec_new(w->packing.kind, w->packing.level))) {
		free(h);
		return NULL;
	}
	h->w = w;
	return h;
}

void pack_hand_give(struct pack_writer *w, struct pack_hand *h)
{
	pthread_mutex_lock(&w->lock);
	h->next = w->resting;
	w->resting = h;
	pthread_mutex_unlock(&w->lock);
}

static struct pack_record *record_of(const struct pack_writer *w, uint64_t frame)
{
	return &w->leaves[frame / LEAF_RECORDS][frame % LEAF_RECORDS];
}

static int begin_frame(struct pack_hand *h)
{
	struct pack_writer *w = h->w;
	int r = 0;

	pthread_mutex_lock(&w->lock);
	uint64_t leaf = w->frames / LEAF_RECORDS;
	if (leaf == LEAVES_MAX)
		r = -EFBIG;
	else if (!w->leaves[leaf] && !(w->leaves[leaf] = calloc(LEAF_RECORDS, sizeof(struct pack_record))))
		r = -ENOMEM;
	if (!r) {
		h->frame = w->frames++;
		h->record = record_of(w, h->frame);
	}
	pthread_mutex_unlock(&w->lock);
	return r;
}

static int end_frame(struct pack_hand *h)
{
	struct pack_record *record = TAKE_PTR(h->record);
	ssize_t n = codec_pack(h->codec, h->packed, h->raw, record->count * CHUNK);

	if (n < 0)
		return (int)n;
	if (h->w->cipher) {
		store_seal(h->w->cipher, h->frame, h->packed, (size_t)n, h->packed + n);
		n += STORE_TAG;
	}
	record->size = (uint32_t)n;
	record->place = __atomic_fetch_add(&h->w->end, (uint64_t)n, __ATOMIC_RELAXED);
	__atomic_fetch_add(&h->w->chunks, record->count, __ATOMIC_RELAXED);
	return write_whole(h->w->file.fd, h->packed, (size_t)n, record->place);
}

static const unsigned char *digest_of(const struct pack_writer *w, uint32_t chunk)
{
	return record_of(w, chunk / FRAME_CHUNKS)->digests[chunk % FRAME_CHUNKS];
}

/* Where the chunk is, or where it goes. */
static uint32_t *find_slot(const struct pack_writer *w, const struct shard *s, const unsigned char digest[DIGEST])
{
	uint64_t hash;

	memcpy(&hash, digest + 8, sizeof(hash));
	for (size_t i = hash & (s->capacity - 1);; i = (i + 1) & (s->capacity - 1))
		if (!s->slots[i] || !memcmp(digest_of(w, s->slots[i] - 1), digest, DIGEST))
			return &s->slots[i];
}

static int grow(const struct pack_writer *w, struct shard *s)
{
	struct shard larger = { .capacity = s->capacity ? s->capacity * 2 : 256 };

	if (s->count < s->capacity / 4 * 3)
		return 0;
	larger.slots = calloc(larger.capacity, sizeof(*larger.slots));
	if (!larger.slots)
		return -ENOMEM;
	for (size_t i = 0; i < s->capacity; i++)
		if (s->slots[i])
			*find_slot(w, &larger, digest_of(w, s->slots[i] - 1)) = s->slots[i];
	free(s->slots);
	s->slots = larger.slots;
	s->capacity = larger.capacity;
	return 0;
}

int pack_put(struct pack_hand *h, const void *chunk, const unsigned char digest[DIGEST], uint32_t *ret)
{
	struct shard *s = &h->w->shards[digest[0] % SHARDS];

	pthread_mutex_lock(&s->lock);
	int r = grow(h->w, s);
	uint32_t *slot = r ? NULL : find_slot(h->w, s, digest);
	const bool is_new = slot && !*slot;
	if (is_new && !h->record)
		r = begin_frame(h);
	if (is_new && !r) {
		uint32_t number = h->record->count++;
		memcpy(h->record->digests[number], digest, DIGEST);
		*slot = (uint32_t)(h->frame * FRAME_CHUNKS) + number + 1;
		s->count++;
		memcpy(h->raw + number * CHUNK, chunk, CHUNK);
	}
	if (!r)
		*ret = *slot - 1;
	pthread_mutex_unlock(&s->lock);
	return !r && is_new && h->record->count == FRAME_CHUNKS ? end_frame(h) : r;
}

/* ---- the end ---- */

static int write_table(struct pack_writer *w, unsigned char id[DIGEST])
{
	const uint64_t leaves = (w->frames + LEAF_RECORDS - 1) / LEAF_RECORDS;
	struct pack_foot foot = { .frames = w->frames, .table = w->end, .chunks = w->chunks, .kind = w->packing.kind, .sealed = w->cipher != NULL };
	_cleanup_free_ unsigned char *end = malloc(leaves * DIGEST + sizeof(foot));
	int r = end ? 0 : -ENOMEM;

	memcpy(foot.mark, pack_foot_mark, sizeof(foot.mark));
	memcpy(foot.salt, w->salt, sizeof(foot.salt));
	for (uint64_t i = 0; !r && i < leaves; i++) {
		size_t size = MIN(w->frames - i * LEAF_RECORDS, (uint64_t)LEAF_RECORDS) * sizeof(struct pack_record);
		store_digest(w->store->key, w->leaves[i], size, end + i * DIGEST);
		r = write_whole(w->file.fd, w->leaves[i], size, w->end);
		w->end += size;
	}
	if (r)
		return r;
	memcpy(end + leaves * DIGEST, &foot, sizeof(foot));
	store_digest(w->store->key, end, leaves * DIGEST + sizeof(foot), id);
	r = write_whole(w->file.fd, end, leaves * DIGEST + sizeof(foot), w->end);
	w->end += leaves * DIGEST + sizeof(foot);
	return r;
}

static int write_index(struct pack_writer *w, const unsigned char id[DIGEST])
{
	struct lookup_entry *entries = malloc(w->chunks * sizeof(*entries));
	size_t count = 0;

	if (!entries)
		return -ENOMEM;
	for (uint64_t i = 0; i < w->frames; i++)
		for (uint32_t k = 0; k < record_of(w, i)->count; k++) {
			uint32_t chunk = (uint32_t)(i * FRAME_CHUNKS) + k;
			entries[count++] = (struct lookup_entry){ lookup_prefix(digest_of(w, chunk)), 0, chunk };
		}
	int r = lookup_write(w->store, (const unsigned char(*)[DIGEST])id, 1, entries, count);
	free(entries);
	return r;
}

static int end_hands(struct pack_writer *w)
{
	int r = 0;

	for (struct pack_hand *h = w->resting; h && !r; h = h->next)
		if (h->record)
			r = end_frame(h);
	return r;
}

int pack_finish(struct pack_writer *w, unsigned char ret_id[DIGEST], uint64_t *ret_chunks)
{
	char name[HEX_ID];
	int r = end_hands(w);

	*ret_chunks = w->chunks;
	if (r || !w->chunks)
		return r;
	r = write_table(w, ret_id);
	store_hex(ret_id, name);
	if (!r)
		r = fresh_name(&w->file, name, false);
	/* The very same was made before; it may have lost its index. */
	if (r == -EEXIST)
		r = 0;
	if (!r)
		r = write_index(w, ret_id);
	return r ? r : 1;
}
