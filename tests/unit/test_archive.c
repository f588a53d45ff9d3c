/*
 * Archives: heads of tar, frames of each kind, an index, and whole archives written by many threads and read by each way there is. What
 * the programs tar, gzip, lz4 and zstd say of them is tested in tests/cli.
 */
#include "base/workers.h"
#include "image/archive.h"
#include "image/image.h"
#include "image/tar.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>

#define LARGE (5UL << 20)
#define SPOOLED (1UL << 20)

static int failures;
static char path[] = "/tmp/fermata-archive-XXXXXX";

static void check(const char *name, bool good)
{
	printf(good ? "ok %s\n" : "not ok %s: see tests/unit/test_archive.c\n", name);
	failures += !good;
}

/* Text that packs, then noise that does not, in turns of 300 KiB. */
static unsigned char byte_at(uint64_t at)
{
	uint64_t x = at / 8 * 0x9e3779b97f4a7c15ULL;

	x = (x ^ x >> 29) * 0xbf58476d1ce4e5b9ULL;
	return at / (300 << 10) % 2 ? (unsigned char)(x >> (8 * (at % 8)) ^ x >> 40) : (unsigned char)('a' + at / 50 % 20);
}

/* The same again and again, at distances that no frame has. */
static void fill(unsigned char *to, uint64_t at, size_t size)
{
	static unsigned char pattern[4 * (300 << 10)];

	if (!pattern[0])
		for (size_t i = 0; i < sizeof(pattern); i++)
			pattern[i] = byte_at(i);
	while (size) {
		size_t from = (size_t)(at % sizeof(pattern)), n = MIN(size, sizeof(pattern) - from);
		memcpy(to, pattern + from, n);
		to += n;
		at += n;
		size -= n;
	}
}

/* ---- tar ---- */

static bool round_trip(const char *name, uint64_t size)
{
	unsigned char head[TAR_BLOCK];
	struct tar_member m;

	tar_head(head, name, size, 1700000000);
	return !tar_parse(head, &m) && m.type == TAR_FILE && !strcmp(m.name, name) && m.size == size;
}

static void test_tar(void)
{
	unsigned char head[TAR_BLOCK] = {};
	struct tar_member m;

	check("tar_head", round_trip("pages-1.img", 4096) && round_trip("a", 0) && round_trip("b", 077777777777) && round_trip("c", 1ULL << 40));
	check("tar_end", !tar_parse(head, &m) && m.type == TAR_END);
	tar_head(head, "./inventory.img", 7, 0);
	check("tar_dot", !tar_parse(head, &m) && !strcmp(m.name, "inventory.img"));
	head[3] ^= 1;
	check("tar_checksum", tar_parse(head, &m) == -EBADMSG);
	check("tar_pax", tar_pax_size("13 path=abcd\n20 size=12345678901\n", 33) == 12345678901 && tar_pax_size("9 size=x\n", 9) == 0 &&
				 tar_pax_size("99 size=5\n", 10) == -1 && tar_pax_size("", 0) == -1);
}

/* ---- frames ---- */

static bool frame(enum packing_kind kind, uint64_t at, size_t size, bool small)
{
	_cleanup_free_ unsigned char *data = malloc(PACKING_FRAME), *packed = malloc(PACKING_FRAME_MAX), *back = malloc(PACKING_FRAME);
	struct codec *c = codec_new(kind, 0);

	fill(data, at, size);
	ssize_t n = codec_pack(c, packed, data, size);
	bool good = n > 0 && (!small || (size_t)n < size / 4) && n <= (ssize_t)codec_stored_size(kind, size) &&
		    codec_unpack(c, back, size, packed, (size_t)n) == 0 && !memcmp(data, back, size);
	good &= codec_unpack(c, back, size, packed, (size_t)n / 2) == -EBADMSG && codec_unpack(c, back, PACKING_FRAME, packed, (size_t)n) == (size == PACKING_FRAME ? 0 : -EBADMSG);
	size_t stored = codec_store(kind, packed, data, size, false);
	good &= stored == codec_stored_size(kind, size) && !codec_unpack(c, back, size, packed, stored) && !memcmp(data, back, size);
	codec_free(c);
	return good;
}

static void test_frames(void)
{
	for (enum packing_kind kind = PACKING_GZIP; kind <= PACKING_ZSTD; kind++) {
		char name[64];
		snprintf(name, sizeof(name), "frame_%s", packing_name(kind));
		check(name, frame(kind, 0, PACKING_FRAME, true) && frame(kind, 0, 1000, false) && frame(kind, 300 << 10, PACKING_FRAME, false) &&
				    frame(kind, 300 << 10, 1, false) && frame(kind, 250 << 10, 200 << 10, false));
	}
}

static void test_words(void)
{
	struct packing p;
	struct error e;

	check("words", !packing_parse("zstd:19", &p, &e) && p.kind == PACKING_ZSTD && p.level == 19 && !packing_parse("none", &p, &e) &&
			       p.kind == PACKING_NONE && !packing_parse("lz4", &p, &e) && p.level == 0);
	check("words_wrong", packing_parse("", &p, &e) == -EINVAL && packing_parse("lz", &p, &e) == -EINVAL && packing_parse("tar:1", &p, &e) == -EINVAL &&
				     packing_parse("zstd:", &p, &e) == -EINVAL && packing_parse("zstd:20", &p, &e) == -EINVAL &&
				     packing_parse("gzip:1x", &p, &e) == -EINVAL && packing_parse("lz4:0", &p, &e) == -EINVAL);
}

/* ---- index ---- */

static void test_index(void)
{
	struct archive_index i = { .n_parts = 2, .parts = { 1000, 2000 } }, back = {};
	unsigned char *data;
	size_t size;

	struct archive_member *member = VEC_PUSH(&i.members);
	*member = (struct archive_member){ .name = "a.img", .offset = 512, .size = 100 };
	struct archive_frame *f = VEC_PUSH(&i.frames);
	*f = (struct archive_frame){ 0, 900, 1000 };
	f = VEC_PUSH(&i.frames);
	*f = (struct archive_frame){ 1UL << ARCHIVE_PART_SHIFT | 100, 1900, 5000 };
	bool good = !archive_index_write(&i, &data, &size) && !archive_index_read(&back, data, size) && back.members.count == 1 &&
		    back.frames.count == 2 && back.frames.data[1].place == i.frames.data[1].place && back.parts[1] == 2000;
	archive_index_free(&back);
	check("index", good);
	bool refused = true;
	for (size_t n = 0; n < size; n++) {
		back = (struct archive_index){};
		refused &= archive_index_read(&back, data, n) == -EBADMSG;
		archive_index_free(&back);
	}
	data[size - 16] = 200; /* the last frame goes beyond its part */
	back = (struct archive_index){};
	refused &= archive_index_read(&back, data, size) == -EBADMSG;
	archive_index_free(&back);
	check("index_wrong", refused);
	free(data);
	archive_index_free(&i);
}

/* ---- whole archives ---- */

struct job {
	struct image_file *file;
	uint64_t size, from;
	int result;
	size_t left;
};

static int fill_block(void *owner, struct image_block *b)
{
	struct job *job = owner;
	uint64_t at = b->index * IMAGE_BLOCK, end = MIN(at + IMAGE_BLOCK, job->size);
	unsigned char buffer[60000];
	int r = 0;

	for (size_t n; !r && at < end; at += n) {
		n = (size_t)MIN(sizeof(buffer), end - at);
		fill(buffer, job->from + at, n);
		r = image_block_write(b, buffer, n);
	}
	return r;
}

static void filled(void *owner, int r)
{
	struct job *job = owner;

	if (r)
		__atomic_store_n(&job->result, r, __ATOMIC_SEQ_CST);
	if (__atomic_sub_fetch(&job->left, 1, __ATOMIC_SEQ_CST) == 0)
		image_close(job->file);
}

static const struct image_filler filler = { fill_block, filled };
static const uint64_t sizes[] = { LARGE, 0, 4096, IMAGE_BLOCK, IMAGE_BLOCK + 1, 2 * IMAGE_BLOCK - 100 };

static int write_one(const char *to, const struct packing *packing)
{
	struct image_dir *dir;
	struct image_file *file;
	struct job jobs[ARRAY_SIZE(sizes)] = {};
	struct workers *workers = workers_new();
	_cleanup_free_ unsigned char *much = malloc(LARGE);
	int r = image_archive_create(to, packing, &dir);

	if (r) {
		workers_free(workers);
		return r;
	}
	image_dir_set_workers(dir, workers);
	for (size_t i = 0; !r && i < ARRAY_SIZE(sizes); i++) {
		char name[32];
		snprintf(name, sizeof(name), "pages-%zu.img", i);
		jobs[i] = (struct job){ .size = sizes[i], .from = i << 20, .left = image_blocks_count(sizes[i]) };
		r = image_create_raw(dir, name, &jobs[i].file);
		if (!r)
			r = image_blocks_fill(jobs[i].file, sizes[i], &filler, &jobs[i]);
		snprintf(name, sizeof(name), "small-%zu.img", i);
		fill(much, i, i * 1000);
		if (!r && !(r = image_create_raw(dir, name, &file)) && !(r = image_write_bytes(file, much, i * 1000)))
			r = image_close(file);
	}
	fill(much, 5, SPOOLED);
	if (!r && !(r = image_create_raw(dir, "spooled.img", &file)) && !(r = image_write_bytes(file, much, SPOOLED)))
		r = image_close(file);
	workers_wait(workers);
	for (size_t i = 0; i < ARRAY_SIZE(jobs); i++)
		r = r ? r : jobs[i].result;
	if (!r)
		r = image_dir_commit(dir);
	workers_free(workers);
	image_dir_free(dir);
	return r;
}

static bool holds(struct image_dir *dir, const char *name, uint64_t size, uint64_t from)
{
	_cleanup_free_ unsigned char *is = malloc(size + 1), *should = malloc(size + 1);
	struct image_reader *reader;
	struct image_raw *raw;

	if (image_raw_open(dir, name, &raw))
		return false;
	fill(should, from, size);
	bool good = image_raw_size(raw) == size && !image_reader_new(dir, &reader);
	/* Backwards, in parts that fit nothing. */
	for (uint64_t end = size; good && end; end -= MIN(end, 777777UL)) {
		uint64_t n = MIN(end, 777777UL);
		good = !image_raw_read(raw, reader, is + end - n, n, end - n);
	}
	good &= image_raw_read(raw, reader, is, 1, size) == -EBADMSG;
	image_reader_free(reader);
	image_raw_close(raw);
	return good && !memcmp(is, should, size);
}

static bool read_one(const char *from)
{
	struct image_dir *dir;
	struct error e = {};

	if (image_dir_open(from, &dir))
		return false;
	int r = image_dir_verify(dir, &e);
	bool good = r == 0 && holds(dir, "spooled.img", SPOOLED, 5);
	for (size_t i = 0; good && i < ARRAY_SIZE(sizes); i++) {
		char name[32];
		snprintf(name, sizeof(name), "pages-%zu.img", i);
		good = holds(dir, name, sizes[i], i << 20);
		snprintf(name, sizeof(name), "small-%zu.img", i);
		good &= holds(dir, name, i * 1000, i);
	}
	image_dir_free(dir);
	return good;
}

/* 0: it can't be opened; 1: its checksums are wrong; 2: it is good. */
static int judge(const char *from)
{
	struct image_dir *dir;
	struct error e = {};

	if (image_dir_open(from, &dir))
		return 0;
	int r = image_dir_verify(dir, &e);
	image_dir_free(dir);
	return r < 0 ? 1 : r == 0 ? 2 : 0;
}

/* Bits changed in many places: found, or of no consequence to what is read. */
static bool survives_changes(const char *of)
{
	int fd = open(of, O_RDWR | O_CLOEXEC), found = 0, tries = 0;
	off_t size = lseek(fd, 0, SEEK_END);
	bool good = true;

	for (off_t at = 3; good && at < size; at += size / 9 + 1, tries++) {
		unsigned char byte, changed;
		good = pread(fd, &byte, 1, at) == 1;
		changed = byte ^ 0x10;
		good &= pwrite(fd, &changed, 1, at) == 1;
		int is = judge(of);
		found += is < 2;
		good &= is < 2 || read_one(of);
		good &= pwrite(fd, &byte, 1, at) == 1;
	}
	/* Most bytes are content. */
	good &= found * 10 >= tries * 8;
	for (off_t keep = size - 1; good && keep > 0; keep -= size / 4 + 1)
		good = ftruncate(fd, keep) == 0 && judge(of) != 2;
	close(fd);
	return good;
}

/* Without what only this program writes at the end: read from the beginning. */
static bool without_index(const char *of, enum packing_kind kind)
{
	unsigned char noise[64];
	int fd = open(of, O_RDWR | O_CLOEXEC);
	off_t size = lseek(fd, 0, SEEK_END);
	bool good;

	memset(noise, 'x', sizeof(noise));
	off_t at = size - (off_t)archive_end_size(kind);
	/* The mark of the footer goes; it stands within the first hundred bytes of the last frame. */
	unsigned char end[100];
	good = pread(fd, end, sizeof(end), at) == sizeof(end);
	unsigned char *mark = memmem(end, sizeof(end), "fermata footer", 14);
	good &= mark && pwrite(fd, noise, 14, at + (mark - end)) == 14;
	if (kind == PACKING_GZIP || kind == PACKING_ZLIB) /* have checksums over it */
		good = good && ftruncate(fd, at) == 0 && judge(of) < 2;
	else
		good = good && read_one(of);
	close(fd);
	return good;
}

static void test_archives(void)
{
	for (enum packing_kind kind = PACKING_TAR; kind <= PACKING_ZSTD; kind++)
		for (unsigned streams = 0; streams < 4; streams += 3) {
			struct packing packing = { .kind = kind, .streams = streams };
			char to[128], name[64], part[256];
			struct stat st;
			snprintf(to, sizeof(to), "%s/a", path);
			snprintf(name, sizeof(name), "archive_%s%s", packing_name(kind), streams ? "_streams" : "");
			if (streams)
				mkdir(to, 0700);
			bool good = !write_one(to, &packing) && read_one(to);
			snprintf(part, sizeof(part), "%s/img-0%s", to, packing_ending(kind, true));
			good &= stat(streams ? part : to, &st) == 0 && (st.st_mode & 0777) == 0600;
			check(name, good && write_one(to, &packing) == -EEXIST);
			snprintf(name, sizeof(name), "damaged_%s%s", packing_name(kind), streams ? "_streams" : "");
			if (!streams && kind > PACKING_TAR) {
				char again[160];
				snprintf(again, sizeof(again), "%s2", to);
				check("no_index", !write_one(again, &packing) && without_index(again, kind));
				unlink(again);
			}
			check(name, survives_changes(streams ? part : to));
			for (unsigned i = 0; i < streams; i++) {
				snprintf(part, sizeof(part), "%s/img-%u%s", to, i, packing_ending(kind, true));
				unlink(part);
			}
			if (streams)
				check("streams_gone", rmdir(to) == 0);
			else
				unlink(to);
		}
}

/* A piece that fails must not leave others waiting. */
static void test_failure(void)
{
	struct packing packing = { .kind = PACKING_LZ4 };
	char to[128];
	struct sink *s;
	struct sink_piece *piece;
	uint64_t ticket;

	snprintf(to, sizeof(to), "%s/b", path);
	bool good = !sink_new(to, &packing, &s) && !sink_reserve(s, "x", 100, 50, &ticket) && !sink_piece_begin(s, ticket + 1, &piece);
	if (good) {
		sink_fail(s);
		good = sink_piece_end(piece) == -ECANCELED && sink_commit(s) == -ECANCELED;
		sink_free(s);
	}
	check("failure", good && access(to, F_OK) < 0);
}

/* With the name of a folder: small archives of every kind go there, for the fuzzer. */
static int write_seeds(const char *folder)
{
	for (enum packing_kind kind = PACKING_TAR; kind <= PACKING_ZSTD; kind++) {
		struct packing packing = { .kind = kind };
		struct image_file *file;
		struct image_dir *dir;
		char to[256];
		snprintf(to, sizeof(to), "%s/%s", folder, packing_name(kind));
		unlink(to);
		int r = image_archive_create(to, &packing, &dir);
		for (int i = 0; !r && i < 2; i++) {
			struct job job = { .size = i ? 3000 : 0, .left = 1 };
			r = image_create_raw(dir, i ? "pages-1.img" : "pages-2.img", &job.file);
			if (!r)
				r = image_blocks_fill(job.file, job.size, &filler, &job);
		}
		if (!r && !(r = image_create(dir, "inventory.img", IMAGE_MAGIC_INVENTORY, &file)))
			r = image_close(file);
		if (!r)
			r = image_dir_commit(dir);
		image_dir_free(dir);
		if (r)
			return 1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 1)
		return write_seeds(argv[1]);
	if (!mkdtemp(path))
		return 1;
	fill((unsigned char[1]){}, 0, 1); /* before there are threads */
	test_tar();
	test_words();
	test_frames();
	test_index();
	test_archives();
	test_failure();
	check("nothing_left", rmdir(path) == 0);
	return failures != 0;
}
