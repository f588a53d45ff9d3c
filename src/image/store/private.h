/* What the files of the store share. Nobody else includes this. */
#pragma once

#include "image/store/store.h"
#include "image/whole.h"

#include <pthread.h>

#define CHUNK PAGE_SIZE
#define DIGEST 32
typedef unsigned char pack_id[DIGEST];
typedef char checkpoint_name[NAME_MAX + 1];
#define FRAME_CHUNKS 16u
#define FRAME_BYTES (FRAME_CHUNKS * CHUNK)
#define LEAF_RECORDS 64u
#define PACK_FRAMES_MAX (UINT32_MAX / FRAME_CHUNKS)
#define RECIPE_MAX (1UL << 32)
#define HEX_ID (2 * DIGEST + 1)
#define STORE_SALT 16
#define STORE_TAG 16

/* ---- store.c: the directory ---- */

struct store {
	int fd, packs, index, checkpoints; /* directories */
	int lock;
	struct store_key *key; /* NULL: nothing is encrypted */
};

/* `path` with or without "store:". With `make` it is made where there is none. `key`: the file with its key, or NULL. -ENOTDIR: it is no
 * store; -ENOKEY: it needs a key; -EKEYREJECTED: it has another, or none. */
int store_dir_open(const char *path, const char *key, bool make, struct store **ret);
void store_dir_close(struct store *s);
/* LOCK_SH, LOCK_EX or LOCK_UN, of flock(2). */
int store_lock(struct store *s, int how);
/* A hash of the store: with its key, where it has one. */
void store_digest(const struct store_key *k, const void *data, size_t size, unsigned char to[DIGEST]);
void store_hex(const unsigned char id[DIGEST], char to[HEX_ID]);
bool store_unhex(const char *text, unsigned char to[DIGEST]);
/* Each file in one of its directories. */
int store_each(int dirfd, int (*found)(void *data, int dirfd, const char *name), void *data);

/* A file that gets its name when it is whole. */
struct fresh {
	int dirfd, fd;
	char temporary[32]; /* where there are no files without a name; else "" */
};
#define TEMPORARY ".new-"
int fresh_open(int dirfd, struct fresh *ret);
/* Syncs it and gives it the name. -EEXIST; with `replace` it takes the place of what has the name. */
int fresh_name(struct fresh *f, const char *name, bool replace);
void fresh_close(struct fresh *f);

/* ---- pack.c: chunks in frames, and a table of them ---- */

/* As it stands in the file: what a frame is, and the hash of each of its chunks. */
struct pack_record {
	uint64_t place;
	uint32_t size, count;
	unsigned char digests[FRAME_CHUNKS][DIGEST];
};
_Static_assert(sizeof(struct pack_record) == 16 + FRAME_CHUNKS * DIGEST, "as in docs/IMAGES.md");

struct pack {
	unsigned char id[DIGEST];
	int fd;
	enum packing_kind kind;
	uint64_t frames, chunks, table, size; /* where the table begins; of the file */
	unsigned char *directory; /* the hash of each leaf of the table */
	struct pack_record **leaves; /* those that were read */
	uint32_t number; /* of who opened it */
	const struct store_key *key; /* the store's */
	struct store_cipher *cipher;
	pthread_mutex_t lock;
};

/* -ENOENT, -EBADMSG. */
int pack_open(struct store *s, const unsigned char id[DIGEST], struct pack **ret);
void pack_close(struct pack *p);
/* The record of a frame, checked; NULL: it can't be read or is damaged. Any thread. */
const struct pack_record *pack_record(struct pack *p, uint64_t frame);
/* Unpacks a frame; its chunks are still to be compared. `packed` has room for PACKING_FRAME_MAX + STORE_TAG, `to` for FRAME_BYTES. */
int pack_read(struct pack *p, uint64_t frame, const struct pack_record *r, struct codec *codec, unsigned char *packed, unsigned char *to);

/* One that is being made, by any number of threads. */
struct pack_writer;
int pack_writer_new(struct store *s, const struct packing *packing, struct pack_writer **ret);
/* What was not finished is gone. Takes NULL. */
void pack_writer_free(struct pack_writer *w);
/* For one thread at a time. */
struct pack_hand;
struct pack_hand *pack_hand_take(struct pack_writer *w);
void pack_hand_give(struct pack_writer *w, struct pack_hand *h);
/* The number of a chunk with this hash, which is put in where it is not there. */
int pack_put(struct pack_hand *h, const void *chunk, const unsigned char digest[DIGEST], uint32_t *ret);
/* The end: with its name, and its index. No hand is out. `ret_id` only where it has chunks; then 1, else 0. */
int pack_finish(struct pack_writer *w, unsigned char ret_id[DIGEST], uint64_t *ret_chunks);
uint64_t pack_written(const struct pack_writer *w);

/* ---- lookup.c: which chunks there are ---- */

struct lookup;
int lookup_open(struct store *s, struct lookup **ret);
void lookup_close(struct lookup *l);
/* The pack and the number of a chunk. The pack stays the lookup's. Any thread. */
bool lookup_find(struct lookup *l, const unsigned char digest[DIGEST], const struct pack *other_than, struct pack **ret, uint32_t *ret_chunk);
/* By its number. */
struct pack *lookup_pack(struct lookup *l, uint32_t number);
struct lookup_entry {
	uint64_t prefix; /* the first eight bytes of its hash, the first the highest */
	uint32_t pack, chunk;
};
/* Sorts the entries and writes them as a file of the index. */
int lookup_write(struct store *s, const unsigned char (*ids)[DIGEST], size_t n_ids, struct lookup_entry *entries, size_t count);
/* Puts small files of the index together, or all; what is said of packs that have gone goes. Best effort. */
void lookup_merge(struct store *s, bool all);
static inline uint64_t lookup_prefix(const unsigned char digest[DIGEST])
{
	uint64_t value;

	memcpy(&value, digest, sizeof(value));
	return __builtin_bswap64(value);
}

/* ---- recipe.c: a checkpoint ---- */

#define PACK_ZERO UINT32_MAX /* in place of a pack: pages of zeroes */
struct recipe_run {
	uint32_t pack, chunk, count;
};
struct recipe_member {
	char name[ARCHIVE_NAME_MAX];
	uint64_t size;
	uint64_t offset; /* in the stream: the chunks, then the small files */
};
struct recipe {
	enum packing_kind kind;
	int64_t created;
	uint64_t added;
	VEC(pack_id) packs;
	VEC(struct recipe_member) members;
	VEC(struct recipe_run) runs;
	VEC(unsigned char) small;
	uint64_t pages; /* in all runs */
};
int recipe_read(struct store *s, const char *name, struct recipe *ret);
int recipe_write(struct store *s, const char *name, const struct recipe *r, bool replace);
void recipe_free(struct recipe *r);
/* The next page of the stream. `pack`: the number in the recipe. */
int recipe_add(struct recipe *r, uint32_t pack, uint32_t chunk);
/* The number of a pack, which is added where it is not there. */
int recipe_pack(struct recipe *r, const unsigned char id[DIGEST], uint32_t *ret);
uint64_t recipe_size(const struct recipe *r);

/* ---- damage.c: chunks that verify has found damaged: nobody is to refer to them any more ---- */

struct damage {
	unsigned char pack[DIGEST];
	uint32_t chunk;
};
typedef VEC(struct damage) damage_list;
int damage_read(struct store *s, damage_list *ret);
int damage_write(struct store *s, damage_list *list);
bool damage_has(const damage_list *list, const unsigned char pack[DIGEST], uint32_t chunk);

/* ---- marks.c: what checkpoints need ---- */

struct mark {
	unsigned char id[DIGEST];
	struct pack *pack; /* NULL: it can't be read */
	uint64_t size;	   /* of the file */
	uint64_t chunks, live;
	unsigned char *bits; /* of its chunks: some checkpoint needs it */
};
struct marks {
	VEC(struct mark) packs; /* by id */
	VEC(checkpoint_name) names; /* of checkpoints */
	struct error *e; /* of what can't be read, where that must not be */
};
/* With `strict` a checkpoint that can't be read, or a pack that it needs, is an error; else it is left out. */
int marks_read(struct store *s, bool strict, struct marks *ret, struct error *e);
void marks_free(struct marks *m);
struct mark *marks_find(const struct marks *m, const unsigned char id[DIGEST]);
static inline bool mark_has(const struct mark *m, uint64_t chunk)
{
	return m->bits[chunk / 8] & 1u << chunk % 8;
}
