/*
 * A checkpoint and its files, as CRIU lays them out: a magic, then records of a size and a protobuf message. They are files of a
 * directory or members of an archive (archive.h), which makes no difference to who writes and reads them.
 *
 * A directory being written shows nothing until image_dir_commit: each file has no name (O_TMPFILE) until then, and
 * inventory.img, without which no one takes the directory for a checkpoint, is named last. A coordinator that is killed
 * leaves nothing behind.
 *
 * fermata.json, the manifest, holds size and XXH3-128 of each file. Nothing here logs or knows about processes.
 */
#pragma once

#include "base/error.h"
#include "image/packing.h"

#include <protobuf-c/protobuf-c.h>

#define IMAGE_MAGIC_COMMON 0x54564319u
#define IMAGE_MAGIC_INVENTORY 0x58313116u /* stands alone */
#define IMAGE_MAGIC_PSTREE 0x50273030u
#define IMAGE_MAGIC_CORE 0x55053847u
#define IMAGE_MAGIC_IDS 0x54432030u
#define IMAGE_MAGIC_MM 0x57492820u
#define IMAGE_MAGIC_PAGEMAP 0x56084025u
#define IMAGE_MAGIC_FILES 0x56303138u
#define IMAGE_MAGIC_FDINFO 0x56213732u
#define IMAGE_MAGIC_FS 0x51403912u
#define IMAGE_MAGIC_SECCOMP 0x64413049u
#define IMAGE_MAGIC_REMAP_FPATH 0x59133954u
#define IMAGE_MAGIC_GHOST_FILE 0x52583605u
#define IMAGE_MAGIC_MEMFD 0x48453499u
#define IMAGE_MAGIC_PIPES_DATA 0x56453709u
#define IMAGE_MAGIC_FIFO_DATA 0x59333054u
#define IMAGE_MAGIC_SK_QUEUES 0x56264026u
#define IMAGE_MAGIC_TCP_STREAM 0x51465506u
#define IMAGE_MAGIC_TTY_INFO 0x59453036u
#define IMAGE_MAGIC_TTY_DATA 0x59413026u
#define IMAGE_MAGIC_UTSNS 0x54473203u
#define IMAGE_MAGIC_CGROUP 0x59383330u
#define IMAGE_MAGIC_IPCNS_VAR 0x53115007u
#define IMAGE_MAGIC_IPCNS_SHM 0x46283044u
#define IMAGE_MAGIC_FILE_LOCKS 0x54323616u
#define IMAGE_MAGIC_IPCNS_SEM 0x59573019u
#define IMAGE_MAGIC_IPCNS_MSG 0x55453737u
#define IMAGE_MAGIC_MOUNTPOINTS 0x55563928u
#define IMAGE_MAGIC_NETDEV 0x57373951u
#define IMAGE_MAGIC_NETNS 0x55933752u
#define IMAGE_MAGIC_MQUEUE 0x46524d51u /* ours */
#define IMAGE_MAGIC_TCP_WAITING 0x46524d57u /* ours */
#define IMAGE_MAGIC_PACKET_RING 0x46524d52u /* ours */

/* Larger records than this are taken for damage. */
#define IMAGE_RECORD_MAX (16u << 20)

#define IMAGE_MANIFEST "fermata.json"

struct image_dir;
struct image_file;

/* Opens an existing directory to write a checkpoint into. -EEXIST when it holds one, -EOPNOTSUPP when there
 * can't be files without a name (O_TMPFILE). */
int image_dir_create(const char *path, struct image_dir **ret);
/* An archive to be: nothing shows at `path` until the commit. With streams `path` is an empty directory. -EEXIST: it is there already. */
int image_archive_create(const char *path, const struct packing *packing, struct image_dir **ret);
/* In a store: "store:DIR/NAME" (store/store.h). -EEXIST: there is one of that name; -ENOTDIR: the directory is something else. */
int image_store_create(const char *path, const struct packing *packing, struct image_dir **ret);
/* What was written by any of them, whatever it is called. -EMEDIUMTYPE: neither a directory nor an archive; -EBADMSG: an archive that is
 * damaged or was cut off. */
int image_dir_open(const char *path, struct image_dir **ret);
/* The same, and one in a store. `key`: the file with the store's key, or NULL. */
int image_dir_open_with(const char *path, const char *key, struct image_dir **ret);
/* What of its source was found damaged, or NULL. */
const char *image_dir_damage(const struct image_dir *dir);
/* Each file with its size; what `found` returns other than 0 ends it. */
int image_dir_list(struct image_dir *dir, int (*found)(void *data, const char *name, uint64_t size), void *data);
/* It is no archive: its files may be opened by several threads at once, after the first. */
bool image_is_directory(const struct image_dir *dir);
/* Its bytes must be unpacked to be read; and only one after the other. */
bool image_is_packed(const struct image_dir *dir);
bool image_is_sequential(const struct image_dir *dir);
const char *image_packing_name(const struct image_dir *dir);
/*
 * Which checkpoint it is, and which one it has its other pages from: random numbers that the manifest has, empty where it says nothing.
 * `dropped`: pages that a later one has too were taken out of it, so that it is of use only as that one's parent.
 */
#define IMAGE_ID_SIZE 33
struct image_lineage {
	char id[IMAGE_ID_SIZE], parent[IMAGE_ID_SIZE];
	bool dropped;
};
int image_id_make(char ret[IMAGE_ID_SIZE]);
int image_dir_lineage(struct image_dir *dir, struct image_lineage *ret);
/* Of what is written; `link`: where the parent is, from the directory; or NULL. */
void image_dir_set_lineage(struct image_dir *dir, const struct image_lineage *lineage, const char *link);
/* The one that the link `parent` leads to. -ENOENT: there is none. */
int image_dir_open_parent(struct image_dir *dir, struct image_dir **ret);
/* Whether both are one and the same. */
bool image_dir_is(const struct image_dir *a, const struct image_dir *b);
/* Takes what is written as a directory does, and keeps none of it; not to be committed. */
int image_dir_create_nowhere(struct image_dir **ret);
/* Gives the files their names. Every file must have been closed. */
int image_dir_commit(struct image_dir *dir);
/* Takes the names away again, inventory.img first. */
void image_dir_withdraw(struct image_dir *dir);
/* Releases the directory; what was not committed is gone. Takes NULL. */
void image_dir_free(struct image_dir *dir);
/* Compares each file with the manifest: 0 all as written, 1 there is no manifest, -EBADMSG with the text set. */
int image_dir_verify(struct image_dir *dir, struct error *e);
/* The same in two steps. The first compares small files, with the same results, and sets *ret when it gave 0. The
 * second waits until the others are compared too and releases it; NULL is as written. */
struct image_verification;
int image_dir_verify_begin(struct image_dir *dir, struct image_verification **ret, struct error *e);
/* Counts what is compared, of this one and of parents that are opened by way of it. It must outlive them. */
struct meter;
void image_dir_set_meter(struct image_dir *dir, struct meter *meter);
/* Threads read what is large, between the two. Does nothing where they have begun, nor with NULL. */
void image_dir_verify_start(struct image_verification *v);
int image_dir_verified(struct image_verification *v, struct error *e);
/* In place of the second: nobody wants to know. Takes NULL. */
void image_dir_verify_cancel(struct image_verification *v);
/* The caller has read a block of IMAGE_BLOCK bytes of a file, and computed this: it need not be read once more. */
void image_verification_note(struct image_verification *v, const char *name, size_t index, const unsigned char digest[16]);
/* Whether it would be of use. */
bool image_verification_wants(struct image_verification *v, const char *name);
/* The same, and the threads leave the file alone: what was not noted of it is read by image_dir_verified. */
bool image_verification_expect(struct image_verification *v, const char *name);
/* Leaves a large file out, which the caller will compare himself, in time. False: it is not one of those that are under way. */
struct image_digest {
	uint64_t offset, size, block; /* of the file: where it begins in its descriptor, how much it is; of what each checksum is of, 0: of the whole */
	char text[33];
};
struct image_raw;
bool image_dir_verify_leave(struct image_verification *v, const char *name, struct image_digest *ret);
/* -EBADMSG: the file is another. -EIO, -ENOMEM. `raw`: one that is packed, in place of `fd`. */
int image_digest_check(int fd, const struct image_raw *raw, const struct image_digest *digest);
/* The same for one that somebody else has read: of each of its blocks (one, where it has none) the XXH3-128, 16 bytes, high word first. */
bool image_digest_is(const struct image_digest *digest, const unsigned char *blocks, size_t count);
/* Keeps what was read of a file for the next image_open of it. True: `data` is the directory's. */
bool image_dir_keep(struct image_dir *dir, const char *name, unsigned char *data, size_t size);

int image_create(struct image_dir *dir, const char *name, uint32_t magic, struct image_file **ret);
/* Small files are stored by these, and what becomes of them is told by image_dir_commit. They must outlive it. */
struct workers;
void image_dir_set_workers(struct image_dir *dir, struct workers *workers);
/* A file with no magic: pages-N.img. */
int image_create_raw(struct image_dir *dir, const char *name, struct image_file **ret);
int image_write_message(struct image_file *file, const ProtobufCMessage *message);
int image_write_bytes(struct image_file *file, const void *data, size_t size);
/* `size` bytes of another file from `at` on. Where that may, they are read only at the commit, until when they must not change. -EIO: there
 * are fewer. `fd` stays the caller's. */
int image_write_from(struct image_file *file, int fd, uint64_t at, uint64_t size);
/*
 * A raw file written in blocks of IMAGE_BLOCK bytes, the last one shorter, by the workers. Its checksum is that of its only block, or of
 * the checksums of all (16 bytes each, high word first): the manifest says so by "block".
 */
#define IMAGE_BLOCK (4UL << 20)
struct image_block {
	struct image_file *file;
	size_t index; /* it begins at index * IMAGE_BLOCK */
	uint64_t position;
	struct XXH3_state_s *hash;
	const unsigned char *digest; /* in place of what `hash` gives, or NULL */
	struct sink_piece *piece;
};
/* Called in any thread: `fill` for each block that has bytes, to write all of them; `filled` for each, with what became of it. */
struct image_filler {
	int (*fill)(void *owner, struct image_block *b);
	void (*filled)(void *owner, int r);
};
/* How many there will be: one where there are no bytes. */
size_t image_blocks_count(uint64_t size);
/* Submits them. A failure here: none is. */
int image_blocks_fill(struct image_file *file, uint64_t size, const struct image_filler *filler, void *owner);
int image_block_write(struct image_block *b, const void *data, size_t size);
/* The same for what stands in the file already. */
void image_block_known(struct image_block *b, const void *data, size_t size);
/* For what stands there and was read by somebody else: its XXH3-128, high word first. */
void image_block_digest(struct image_block *b, const unsigned char digest[16], size_t size);
/* A file without a name in the directory, to be filled in any order; the caller's. image_take_fd: that is what a raw file holds, from now on
 * its own; before image_blocks_fill. -EOPNOTSUPP where no file can be taken as it is: write it in blocks. */
int image_scratch(struct image_dir *dir);
int image_take_fd(struct image_file *file, int fd);
/* image_write_from reads at once: the files may change before the commit. */
void image_dir_read_at_once(struct image_dir *dir);
/* Bytes in all files, once they are written. */
uint64_t image_dir_written(const struct image_dir *dir);
/* Bytes of such files that were written, and that there are as far as is known. */
void image_dir_progress(struct image_dir *dir, uint64_t *ret_done, uint64_t *ret_total);

/* Ends a written file (it stays the directory's) or releases one that was read. */
int image_close(struct image_file *file);

bool image_dir_has(struct image_dir *dir, const char *name);
/* -ENOENT; -EBADMSG when the magic is another's. */
int image_open(struct image_dir *dir, const char *name, uint32_t magic, struct image_file **ret);
/* The same for a file with no magic. */
int image_open_raw(struct image_dir *dir, const char *name, struct image_file **ret);
/* 1: *ret is the caller's, to be freed by protobuf_c_message_free_unpacked; 0: end of file; -EBADMSG. */
int image_read_message(struct image_file *file, const ProtobufCMessageDescriptor *descriptor, ProtobufCMessage **ret);
/* Raw bytes between or behind the messages: exactly `size` (-EBADMSG: there are fewer), or as many as there are up to `size`. */
int image_read_bytes(struct image_file *file, void *data, size_t size);
size_t image_read_some(struct image_file *file, void *data, size_t size);

/* A file as it is, to be read at any place. */
struct image_raw;
int image_raw_open(struct image_dir *dir, const char *name, struct image_raw **ret);
void image_raw_close(struct image_raw *raw);
const char *image_raw_name(const struct image_raw *raw);
uint64_t image_raw_size(const struct image_raw *raw);
/* A descriptor that holds it from *ret_offset on, which stays the image's; -1: it is packed. */
int image_raw_fd(const struct image_raw *raw, uint64_t *ret_offset);
/* What a thread needs for reading packed ones; the directory's own, for one thread, where NULL is given instead. */
struct image_reader;
int image_reader_new(struct image_dir *dir, struct image_reader **ret);
int image_raw_reader_new(const struct image_raw *raw, struct image_reader **ret);
/* Whether a reader of one serves the other. */
bool image_raw_is_beside(const struct image_raw *a, const struct image_raw *b);
void image_reader_free(struct image_reader *reader);
/* Exactly `size` bytes. -EBADMSG: there are fewer, or they are damaged. */
int image_raw_read(const struct image_raw *raw, struct image_reader *reader, void *to, size_t size, uint64_t at);
/* XXH3-128 (16 bytes, high word first) of a block, or of the whole where `block` is 0; NULL: not known without reading. */
const unsigned char *image_raw_digest(const struct image_raw *raw, uint64_t block, size_t index);
/* A process that fork(2) made of one with threads goes on reading a packed file, with a reader of its own: no lock is anybody's. Gives the
 * descriptors that this takes, up to `max` of them, and their number. */
size_t image_raw_adopt(const struct image_raw *raw, int *fds, size_t max);
/* Where the order is noted in which a lazy restore of `path` needed its pages: a directory, and the name there. -1: nowhere. */
#define IMAGE_ORDER "fermata-order"
int image_order_place(const char *path, char name[256]);
