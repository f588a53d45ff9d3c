/* See images.h. */
#include "engine/cuda/images.h"

#include "base/store_path.h"
#include "base/workers.h"
#include "engine/restore.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>

#define DIGEST 16
#define PIECE (256UL << 10) /* what is a hole or none */
#define UNPACKERS_MAX 8

_Static_assert(GPU_BLOCK == IMAGE_BLOCK, "the helper's checksums are the image's");

static void name_image(pid_t pid, char ret[32])
{
	snprintf(ret, 32, "gpu-%d.img", pid);
}

/* ---- dump ---- */

bool cuda_image_in_memory(const struct dump *d)
{
	const struct packing *p = &d->request->packing;

	return d->live || p->kind != PACKING_NONE || p->streams || !d->request->images_dir || store_is_path(d->request->images_dir);
}

int cuda_image_open(struct dump *d, struct cuda_image *x, pid_t pid)
{
	*x = (struct cuda_image){ .fd = -1, .digests = -1, .in_memory = cuda_image_in_memory(d), .d = d, .pid = pid };
	if (x->in_memory) {
		x->fd = memfd_create("gpu", MFD_CLOEXEC);
		return x->fd < 0 ? error_errno(d->e, -errno, "cannot get memory for what process %d has on GPUs", pid) : 0;
	}
	x->fd = image_scratch(d->dir);
	x->digests = x->fd < 0 ? -1 : memfd_create("digests", MFD_CLOEXEC);
	return x->fd < 0 ? error_errno(d->e, x->fd, "cannot make a file for what process %d has on GPUs", pid) :
	       x->digests < 0 ? error_errno(d->e, -errno, "cannot get memory for checksums") : 0;
}

static bool is_zero(const unsigned char *data, size_t size)
{
	return !size || (!data[0] && !memcmp(data, data + 1, size - 1));
}

static int fill_block(void *owner, struct image_block *b)
{
	struct cuda_image *x = owner;
	const uint64_t at = b->index * IMAGE_BLOCK;
	const size_t size = (size_t)MIN(IMAGE_BLOCK, x->size - at);
	int r = 0;

	if (x->result)
		return 0;
	if (!x->in_memory)
		image_block_digest(b, x->map + b->index * DIGEST, size);
	for (size_t done = 0; !r && x->in_memory && done < size; done += PIECE) {
		const unsigned char *piece = x->map + at + done;
		const size_t length = MIN(PIECE, size - done);
		if (x->sparse && is_zero(piece, length))
			image_block_known(b, piece, length);
		else
			r = image_block_write(b, piece, length);
	}
	return r;
}

static void block_filled(void *owner, int r)
{
	struct cuda_image *x = owner;
	int none = 0;

	if (r)
		__atomic_compare_exchange_n(&x->result, &none, r, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	if (__atomic_sub_fetch(&x->blocks_left, 1, __ATOMIC_SEQ_CST))
		return;
	none = 0;
	r = image_close(x->file);
	if (r)
		__atomic_compare_exchange_n(&x->result, &none, r, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

static const struct image_filler filler = { fill_block, block_filled };

/* In a directory holes stay holes. */
static int take_file(struct dump *d, struct cuda_image *x)
{
	int fd = x->in_memory ? image_scratch(d->dir) : fcntl(x->fd, F_DUPFD_CLOEXEC, 3);

	if (fd < 0)
		return x->in_memory ? 0 : -errno;
	int r = ftruncate(fd, (off_t)x->size) < 0 ? -errno : image_take_fd(x->file, fd);
	x->sparse = !r;
	if (r)
		close(fd);
	return r == -EOPNOTSUPP && x->in_memory ? 0 : r;
}

int cuda_image_write(struct dump *d, struct cuda_image *x)
{
	char name[32];

	name_image(x->pid, name);
	x->blocks_left = image_blocks_count(x->size);
	x->map_size = x->in_memory ? x->size : x->blocks_left * DIGEST;
	x->map = x->size ? mmap(NULL, x->map_size, PROT_READ, MAP_SHARED, x->in_memory ? x->fd : x->digests, 0) : NULL;
	if (x->map == MAP_FAILED) {
		x->map = NULL;
		return error_errno(d->e, -errno, "cannot map what process %d has on GPUs", x->pid);
	}
	int r = image_create_raw(d->dir, name, &x->file);
	if (r)
		return error_errno(d->e, r, "cannot create %s", name);
	r = take_file(d, x);
	if (!r)
		r = image_blocks_fill(x->file, x->size, &filler, x);
	if (r) {
		image_close(TAKE_PTR(x->file));
		return error_errno(d->e, r, "cannot write %s", name);
	}
	return 0;
}

int cuda_image_finish(struct dump *d, struct cuda_image *x)
{
	char name[32];

	if (!x->file)
		return 0;
	workers_wait(d->workers);
	x->file = NULL;
	name_image(x->pid, name);
	return x->result ? error_errno(d->e, x->result, "cannot write %s", name) : 0;
}

void cuda_image_close(struct cuda_image *x)
{
	if (x->map)
		munmap(TAKE_PTR(x->map), x->map_size);
	if (x->fd >= 0)
		close(x->fd);
	if (x->digests >= 0)
		close(x->digests);
	x->fd = x->digests = -1;
}

/* ---- restore ---- */

/* What is packed, by several threads where its blocks can be had in any order. */
struct unpacking {
	const struct image_raw *raw;
	unsigned char *to;
	uint64_t size;
	size_t next;
	int result;
};

static void *unpack(void *argument)
{
	struct unpacking *u = argument;
	struct image_reader *reader = NULL;
	const size_t count = (size_t)((u->size + IMAGE_BLOCK - 1) / IMAGE_BLOCK);
	int none = 0, r = image_raw_reader_new(u->raw, &reader);
	size_t index;

	while (!r && !__atomic_load_n(&u->result, __ATOMIC_RELAXED) && (index = __atomic_fetch_add(&u->next, 1, __ATOMIC_RELAXED)) < count) {
		const uint64_t at = index * IMAGE_BLOCK;
		r = image_raw_read(u->raw, reader, u->to + at, (size_t)MIN(IMAGE_BLOCK, u->size - at), at);
	}
	image_reader_free(reader);
	if (r)
		__atomic_compare_exchange_n(&u->result, &none, r, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	return NULL;
}

static int unpack_all(struct restore *s, struct unpacking *u)
{
	pthread_t threads[UNPACKERS_MAX];
	sigset_t all, before;
	cpu_set_t set;
	size_t n = 0, wanted = sched_getaffinity(0, sizeof(set), &set) == 0 ? (size_t)CPU_COUNT(&set) : 1;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	for (wanted = image_is_sequential(s->dir) ? 1 : MIN(wanted, UNPACKERS_MAX); n + 1 < wanted; n++)
		if (pthread_create(&threads[n], NULL, unpack, u))
			break;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	unpack(u);
	while (n > 0)
		pthread_join(threads[--n], NULL);
	return u->result;
}

static int to_memory(struct restore *s, struct cuda_source *x, const char *name)
{
	struct unpacking u = { .raw = x->raw, .size = x->size };

	x->in_memory = true;
	x->offset = 0;
	x->fd = memfd_create("gpu", MFD_CLOEXEC);
	if (x->fd < 0 || fallocate(x->fd, 0, 0, (off_t)x->size) < 0)
		return error_errno(s->e, -errno, "cannot get %llu MiB of memory to unpack %s", (unsigned long long)x->size >> 20, name);
	u.to = mmap(NULL, x->size, PROT_READ | PROT_WRITE, MAP_SHARED, x->fd, 0);
	if (u.to == MAP_FAILED)
		return error_errno(s->e, -errno, "cannot get memory to unpack %s", name);
	int r = unpack_all(s, &u);
	munmap(u.to, x->size);
	if (r == -EBADMSG)
		return error_set(s->e, r, "%s can't be unpacked: the checkpoint is damaged", name);
	return r ? error_errno(s->e, r, "cannot read %s", name) : 0;
}

int cuda_source_open(struct restore *s, struct cuda_source *x, pid_t pid, uint64_t size)
{
	char name[32];

	name_image(pid, name);
	*x = (struct cuda_source){ .fd = -1, .digests = -1, .size = size };
	int r = image_raw_open(s->dir, name, &x->raw);
	if (r == -ENOENT)
		return error_set(s->e, -EBADMSG, "%s is missing: the checkpoint is damaged", name);
	if (r)
		return error_errno(s->e, r, "cannot open %s", name);
	if (image_raw_size(x->raw) != size)
		return error_set(s->e, -EBADMSG, "%s has %llu bytes, and the inventory says %llu: the checkpoint is damaged", name,
				 (unsigned long long)image_raw_size(x->raw), (unsigned long long)size);
	image_dir_verify_leave(s->verification, name, &x->digest);
	x->digests = memfd_create("digests", MFD_CLOEXEC);
	if (x->digests < 0)
		return error_errno(s->e, -errno, "cannot get memory for checksums");
	const int stored = image_raw_fd(x->raw, &x->offset);
	if (stored < 0)
		return to_memory(s, x, name);
	x->fd = fcntl(stored, F_DUPFD_CLOEXEC, 3);
	return x->fd < 0 ? error_errno(s->e, -errno, "cannot open %s", name) : 0;
}

int cuda_source_check(struct restore *s, const struct cuda_source *x)
{
	const size_t count = image_blocks_count(x->size);

	if (!x->digest.size)
		return 0;
	_cleanup_free_ unsigned char *digests = malloc(count * DIGEST);
	if (!digests)
		return error_set(s->e, -ENOMEM, "out of memory");
	if (pread(x->digests, digests, count * DIGEST, 0) != (ssize_t)(count * DIGEST))
		return error_set(s->e, -EIO, "the GPU helper has not read all of %s", image_raw_name(x->raw));
	if (image_digest_is(&x->digest, digests, count))
		return 0;
	return error_set(s->e, -EBADMSG, "%s was altered since it was written (checksum): the checkpoint is damaged", image_raw_name(x->raw));
}

void cuda_source_close(struct cuda_source *x)
{
	if (x->fd >= 0)
		close(x->fd);
	if (x->digests >= 0)
		close(x->digests);
	if (x->raw)
		image_raw_close(x->raw);
	*x = (struct cuda_source){ .fd = -1, .digests = -1 };
}
