/*
 * Files that are written in blocks, by the workers. Blocks are begun in the order in which their files were: a block of an archive
 * waits for those before it, so all of those must be in somebody's hands (archive.h). Hence a job is no certain block, but the next.
 */
#include "image/private.h"

static size_t count_blocks(uint64_t size)
{
	return (size_t)MAX((size + IMAGE_BLOCK - 1) / IMAGE_BLOCK, 1UL);
}

size_t image_blocks_count(uint64_t size)
{
	return count_blocks(size);
}

static int begin(struct image_block *b)
{
	struct image_file *f = b->file;

	b->hash = XXH3_createState();
	if (!b->hash)
		return -ENOMEM;
	XXH3_128bits_reset(b->hash);
	return f->dir->sink ? sink_piece_begin(f->dir->sink, f->ticket + b->index, &b->piece) : 0;
}

int image_block_write(struct image_block *b, const void *data, size_t size)
{
	const char *at = data;

	XXH3_128bits_update(b->hash, data, size);
	__atomic_add_fetch(&b->file->dir->blocks_done, size, __ATOMIC_RELAXED);
	if (b->piece)
		return sink_piece_write(b->piece, data, size);
	while (size) {
		ssize_t n = pwrite(b->file->fd, at, size, (off_t)b->position);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			at += n;
			size -= (size_t)n;
			b->position += (uint64_t)n;
		}
	}
	return 0;
}

void image_block_known(struct image_block *b, const void *data, size_t size)
{
	XXH3_128bits_update(b->hash, data, size);
	b->position += size;
	__atomic_add_fetch(&b->file->dir->blocks_done, size, __ATOMIC_RELAXED);
}

void image_block_digest(struct image_block *b, const unsigned char digest[16], size_t size)
{
	b->digest = digest;
	b->position += size;
	__atomic_add_fetch(&b->file->dir->blocks_done, size, __ATOMIC_RELAXED);
}

static int end(struct image_block *b)
{
	int r = b->piece ? sink_piece_end(b->piece) : 0;

	if (b->digest)
		memcpy(&b->file->blocks[b->index], b->digest, sizeof(b->file->blocks[b->index]));
	else if (b->hash)
		XXH128_canonicalFromHash(&b->file->blocks[b->index], XXH3_128bits_digest(b->hash));
	XXH3_freeState(b->hash);
	return r;
}

/* The next block of all. There is one for each job. */
static struct pending take_next(struct image_dir *dir)
{
	pthread_mutex_lock(&dir->lock);
	struct pending *p = &dir->pending.data[dir->first_pending], taken = *p;
	if (++p->next == p->file->n_blocks)
		dir->first_pending++;
	pthread_mutex_unlock(&dir->lock);
	return taken;
}

static void run_block(void *argument)
{
	struct pending p = take_next(argument);
	struct image_block b = { .file = p.file, .index = p.next, .position = p.next * IMAGE_BLOCK };
	int r = begin(&b);

	/* All that were begun are ended, whatever came of them: others wait for them. */
	if (!r && p.file->size)
		r = p.filler->fill(p.owner, &b);
	else if (r && p.file->dir->sink)
		sink_fail(p.file->dir->sink);
	int s = end(&b);
	p.filler->filled(p.owner, r ? r : s);
}

int image_blocks_fill(struct image_file *file, uint64_t size, const struct image_filler *filler, void *owner)
{
	struct image_dir *dir = file->dir;
	const size_t count = count_blocks(size);
	int r = 0;

	file->n_blocks = count;
	file->size = size;
	file->blocks = calloc(count, sizeof(*file->blocks));
	if (!file->blocks)
		return -ENOMEM;
	if (!dir->sink && (r = image_file_open(file)))
		return r;
	pthread_mutex_lock(&dir->lock);
	struct pending *p = VEC_PUSH(&dir->pending);
	if (!p)
		r = -ENOMEM;
	else if (dir->sink)
		r = sink_reserve(dir->sink, file->name, size, IMAGE_BLOCK, &file->ticket);
	if (!r)
		*p = (struct pending){ file, 0, filler, owner };
	else if (p)
		dir->pending.count--;
	pthread_mutex_unlock(&dir->lock);
	if (r)
		return r;
	__atomic_add_fetch(&dir->blocks_total, size, __ATOMIC_RELAXED);
	for (size_t i = 0; i < count; i++) {
		if (count == 1 || !dir->workers)
			run_block(dir);
		else
			workers_submit_large(dir->workers, run_block, dir);
	}
	return 0;
}

void image_dir_progress(struct image_dir *dir, uint64_t *ret_done, uint64_t *ret_total)
{
	*ret_done = __atomic_load_n(&dir->blocks_done, __ATOMIC_RELAXED);
	*ret_total = __atomic_load_n(&dir->blocks_total, __ATOMIC_RELAXED);
}
