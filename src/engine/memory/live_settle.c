/*
 * Behind the pause: the pages image of a process. Where all pages that were copied before stand in the file at the very place that they have in the
 * image, the file becomes the image, and what was copied in the pause is written into it. Otherwise it is copied together anew.
 */
#include "base/log.h"
#include "base/workers.h"
#include "engine/memory/live_task.h"
#include "engine/memory/pages.h"

#include <fcntl.h>

#define COPY_SIZE (256UL << 10)
#define PUNCH_MIN (1UL << 20) /* smaller parts of the old file are not given back while the new one is written */

struct block_job {
	struct dump *d;
	struct live_task *lt;
	bool taken;
};

/* The piece with stored pages that a place in the image lies in. */
static size_t find_piece(const struct pieces *p, uint64_t at)
{
	size_t low = 0, high = p->count;

	while (low + 1 < high) {
		size_t middle = (low + high) / 2;
		if (p->data[middle].at <= at)
			low = middle;
		else
			high = middle;
	}
	return low;
}

static int read_exactly(int fd, unsigned char *to, size_t size, uint64_t at)
{
	while (size) {
		ssize_t n = pread(fd, to, size, (off_t)at);
		if (n <= 0 && (!n || errno != EINTR))
			return n ? -errno : -EIO;
		n = n < 0 ? 0 : n;
		to += n;
		at += (uint64_t)n;
		size -= (size_t)n;
	}
	return 0;
}

static int read_piece(const struct block_job *job, const struct piece *x, uint64_t within, unsigned char *to, size_t size)
{
	if (x->kind == PIECE_LATE)
		return live_late_read(job->d->live, x->from + within, to, size);
	int r = read_exactly(job->lt->store_fd, to, size, x->from + within);
	if (!r && size >= MIN(PUNCH_MIN, COPY_SIZE)) /* it is needed no more, and the disk may be nearly full */
		fallocate(job->lt->store_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(x->from + within), (off_t)size);
	return r;
}

/* The parts of a block, put together and written. */
static int write_block(const struct block_job *job, struct image_block *b, unsigned char *buffer)
{
	const struct pieces *p = &job->lt->pieces;
	uint64_t at = b->index * IMAGE_BLOCK, end = MIN(at + IMAGE_BLOCK, p->size);
	size_t i = find_piece(p, at);
	int r = 0;

	while (!r && at < end) {
		size_t used = 0;
		for (; !r && used < COPY_SIZE && at + used < end; i++) {
			const struct piece *x = &p->data[i];
			uint64_t within = at + used - x->at, length = piece_is_elsewhere(x) ? 0 : x->end - x->start;
			size_t size = (size_t)MIN(MIN(COPY_SIZE - used, end - at - used), length - MIN(within, length));
			if (size)
				r = read_piece(job, x, within, buffer + used, size);
			used += size;
			if (within + size < length)
				break;
		}
		if (!r)
			r = image_block_write(b, buffer, used);
		at += used;
	}
	return r;
}

/* A block that stands in the file already, for its checksum. */
static int check_block(const struct block_job *job, struct image_block *b, unsigned char *buffer)
{
	uint64_t at = b->index * IMAGE_BLOCK, end = MIN(at + IMAGE_BLOCK, job->lt->pieces.size);
	int r = 0;

	while (!r && at < end) {
		size_t size = (size_t)MIN(COPY_SIZE, end - at);
		r = read_exactly(job->lt->store_fd, buffer, size, at);
		if (!r)
			image_block_known(b, buffer, size);
		at += size;
	}
	return r;
}

static int fill_block(void *owner, struct image_block *b)
{
	const struct block_job *job = owner;
	_cleanup_free_ unsigned char *buffer = malloc(COPY_SIZE);

	if (!buffer)
		return -ENOMEM;
	if (job->d->live->result)
		return 0;
	live_hurry(job->d);
	return job->taken ? check_block(job, b, buffer) : write_block(job, b, buffer);
}

static void block_filled(void *owner, int r)
{
	const struct block_job *job = owner;
	struct error why = {};

	if (r)
		live_note(job->d->live, error_errno(&why, r, "cannot write the pages of process %d", job->lt->pid), &why);
}

static const struct image_filler live_filler = { fill_block, block_filled };

static bool stands_in_place(const struct live_task *lt)
{
	for (size_t i = 0; i < lt->pieces.count; i++) {
		const struct piece *x = &lt->pieces.data[i];
		if (x->kind == PIECE_STORED && x->from != x->at)
			return false;
	}
	return true;
}

static int write_late(struct dump *d, struct live_task *lt)
{
	_cleanup_free_ unsigned char *buffer = malloc(COPY_SIZE);
	int r = buffer ? 0 : -ENOMEM;

	for (size_t i = 0; !r && i < lt->pieces.count; i++) {
		const struct piece *x = &lt->pieces.data[i];
		uint64_t length = x->kind == PIECE_LATE ? x->end - x->start : 0;
		for (uint64_t done = 0; !r && done < length;) {
			size_t size = (size_t)MIN(COPY_SIZE, length - done);
			r = live_late_read(d->live, x->from + done, buffer, size);
			ssize_t n = r ? 0 : pwrite(lt->store_fd, buffer, size, (off_t)(x->at + done));
			if (!r && n <= 0 && errno != EINTR)
				r = n ? -errno : -EIO;
			done += n > 0 ? (uint64_t)n : 0;
		}
	}
	return r;
}

/* The file becomes the image. It stays ours to read; the image has a descriptor of its own. */
static int take_store(struct dump *d, struct live_task *lt)
{
	int fd = fcntl(lt->store_fd, F_DUPFD_CLOEXEC, 3);
	int r = fd < 0 ? -errno : image_take_fd(lt->data, fd);

	if (r) {
		if (fd >= 0)
			close(fd);
		return r;
	}
	if (ftruncate(lt->store_fd, (off_t)lt->pieces.size) < 0)
		return -errno;
	return write_late(d, lt);
}

int live_settle_task(struct dump *d, struct live_task *lt)
{
	int r = 0, s;

	for (size_t i = 0; !r && i < lt->pieces.count; i++) {
		const struct piece *x = &lt->pieces.data[i];
		r = pages_write_entries(d, lt->t, lt->map, x->start, x->end,
					x->kind == PIECE_SHARED ? PAGES_FORKED : x->kind == PIECE_PREVIOUS ? PAGES_IN_PARENT : PAGES_HERE);
		d->counts->pages_scanned += (x->end - x->start) / PAGE_SIZE;
		d->counts->pages_previous += x->kind == PIECE_PREVIOUS ? (x->end - x->start) / PAGE_SIZE : 0;
		if (x->kind == PIECE_PREVIOUS)
			increment_used(d);
	}
	d->counts->pages_written += lt->pieces.size / PAGE_SIZE;
	bool taken = !r && stands_in_place(lt);
	if (taken && (r = take_store(d, lt)) == -EOPNOTSUPP) {
		taken = false;
		r = 0;
	}
	struct block_job job = { d, lt, taken };
	if (!r)
		r = image_blocks_fill(lt->data, lt->pieces.size, &live_filler, &job);
	workers_wait(d->workers);
	if (!r && (r = d->live->result))
		*d->e = d->live->why;
	lt->settled = true;
	s = image_close(lt->map);
	r = r ? r : s;
	s = image_close(lt->data);
	r = r ? r : s;
	if (r && !d->e->text[0])
		error_errno(d->e, r, "cannot write the pages of process %d", lt->pid);
	log_info("Process %d: %zu parts, %llu KiB, %s", lt->pid, lt->pieces.count, (unsigned long long)lt->pieces.size >> 10,
		 taken ? "in place" : "put together anew");
	return r;
}
