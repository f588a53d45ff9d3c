/* See shmem.h. */
#include "engine/memory/shmem.h"

#include "base/workers.h"
#include "engine/memory/increment.h"
#include "engine/memory/parents.h"
#include "engine/memory/unchanged.h"
#include "engine/memory/vma.h"
#include "engine/task/task.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#define COPY_SIZE (512UL << 10)
#define PAGES_PER_ENTRY_MAX (1U << 30)

struct segment {
	uint64_t id, inode, size;
	uint32_t dev_minor;
	int fd;
};

struct shmem_table {
	VEC(struct segment) segments;
};

int shmem_capture_vma(struct dump *d, struct task *t, const struct proc_vma *vma, uint64_t *ret_id)
{
	char path[96];
	struct stat st;

	if (!d->shmem && !(d->shmem = calloc(1, sizeof(*d->shmem))))
		return error_set(d->e, -ENOMEM, "out of memory");
	VEC_FOREACH(&d->shmem->segments, s)
		if (s->inode == vma->inode && s->dev_minor == vma->dev_minor) {
			*ret_id = s->id;
			return 0;
		}
	snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", t->proc, (unsigned long)vma->start, (unsigned long)vma->end);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0) {
		int r = task_errno(d, t, -errno, "cannot open its shared memory at %lx", (unsigned long)vma->start);
		if (fd >= 0)
			close(fd);
		return r;
	}
	struct segment *s = VEC_PUSH(&d->shmem->segments);
	if (!s) {
		close(fd);
		return error_set(d->e, -ENOMEM, "out of memory");
	}
	*s = (struct segment){ .id = d->shmem->segments.count, .inode = vma->inode, .dev_minor = vma->dev_minor,
			       .size = (uint64_t)st.st_size, .fd = fd };
	*ret_id = s->id;
	return 0;
}

/* ---- the pages of one file, written by the workers ---- */

struct shmem_run {
	uint64_t start, size, offset; /* in the file, and in the image */
};

struct shmem_job {
	int fd;
	char name[64];
	struct image_file *pages;
	VEC(struct shmem_run) runs;
	uint64_t size, previous; /* previous: pages that the parent has */
	unsigned char *same;	 /* unchanged.h */
	size_t blocks_left;
	int result;
	struct shmem_job *next;
};

static int write_run(struct shmem_job *job, struct image_file *map, uint64_t start, uint64_t end)
{
	struct shmem_run *run = VEC_PUSH(&job->runs);

	if (!run)
		return -ENOMEM;
	*run = (struct shmem_run){ start, end - start, job->size };
	job->size += run->size;
	return pagemap_write(map, start, end, PAGES_HERE);
}

/* By whether the parent checkpoint has the same. */
static int write_runs(struct shmem_job *job, struct image_file *map, uint64_t start, uint64_t end)
{
	int r = 0;

	for (uint64_t at = start, next; !r && at < end; at = next) {
		const bool same = job->same && job->same[at / PAGE_SIZE];
		for (next = at + PAGE_SIZE; next < end && job->same && job->same[next / PAGE_SIZE] == same; next += PAGE_SIZE)
			;
		next = job->same ? next : end;
		r = same ? pagemap_write(map, at, next, PAGES_IN_PARENT) : write_run(job, map, at, next);
		job->previous += same ? (next - at) / PAGE_SIZE : 0;
	}
	return r;
}

/* What is there, in whole pages. */
static int lay_out(struct shmem_job *job, struct image_file *map, uint64_t size)
{
	uint64_t limit = ALIGN_UP(size, PAGE_SIZE);
	int r = 0;

	for (off_t at = 0; !r && (uint64_t)at < size;) {
		off_t data = lseek(job->fd, at, SEEK_DATA);
		if (data < 0)
			return errno == ENXIO ? 0 : -errno;
		off_t hole = lseek(job->fd, data, SEEK_HOLE);
		if (hole < 0)
			hole = (off_t)limit;
		uint64_t start = (uint64_t)data & PAGE_MASK, end = MIN(ALIGN_UP((uint64_t)hole, PAGE_SIZE), limit);
		end = MIN(end, start + PAGES_PER_ENTRY_MAX * PAGE_SIZE);
		r = write_runs(job, map, start, end);
		at = (off_t)end;
	}
	return r;
}

static int fill_block(void *owner, struct image_block *b)
{
	struct shmem_job *job = owner;
	uint64_t at = b->index * IMAGE_BLOCK, end = MIN(at + IMAGE_BLOCK, job->size);
	_cleanup_free_ unsigned char *buffer = malloc(COPY_SIZE);
	size_t i = 0;
	int r = buffer ? 0 : -ENOMEM;

	while (job->runs.data[i].offset + job->runs.data[i].size <= at)
		i++;
	while (!r && at < end) {
		const struct shmem_run *run = &job->runs.data[i];
		uint64_t within = at - run->offset;
		size_t want = (size_t)MIN(MIN(COPY_SIZE, run->size - within), end - at);
		ssize_t n = pread(job->fd, buffer, want, (off_t)(run->start + within));
		if (n < 0)
			return -errno;
		memset(buffer + n, 0, want - (size_t)n);
		r = image_block_write(b, buffer, want);
		at += want;
		i += at == run->offset + run->size;
	}
	return r;
}

static void block_filled(void *owner, int r)
{
	struct shmem_job *job = owner;
	int none = 0;

	if (r)
		__atomic_compare_exchange_n(&job->result, &none, r, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	if (__atomic_sub_fetch(&job->blocks_left, 1, __ATOMIC_SEQ_CST))
		return;
	r = image_close(job->pages);
	job->result = job->result ? job->result : r;
}

static const struct image_filler shmem_filler = { fill_block, block_filled };

static void job_free(struct shmem_job *job)
{
	if (!job)
		return;
	if (job->fd >= 0)
		close(job->fd);
	VEC_FREE(&job->runs);
	free(job->same);
	free(job);
}

static struct shmem_job *job_new(int fd, const char *name)
{
	struct shmem_job *job = calloc(1, sizeof(*job));

	if (!job)
		return NULL;
	job->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	snprintf(job->name, sizeof(job->name), "%s", name);
	return job;
}

int shmem_write_pages(struct dump *d, int fd, uint64_t size, const char *name)
{
	struct image_file *map = NULL;
	PagemapHead head = PAGEMAP_HEAD__INIT;
	char pages_name[32];

	if (d->obstacles) /* a check takes no memory */
		return 0;
	struct shmem_job *job = job_new(fd, name);
	head.pages_id = ++d->next_pages_id;
	snprintf(pages_name, sizeof(pages_name), "pages-%u.img", head.pages_id);
	int r = !job ? -ENOMEM : job->fd < 0 ? -EMFILE : image_create(d->dir, name, IMAGE_MAGIC_PAGEMAP, &map);
	if (!r && (r = image_create_raw(d->dir, pages_name, &job->pages)))
		image_close(map);
	if (r) {
		job_free(job);
		return error_errno(d->e, r, "cannot create %s", name);
	}
	r = image_write_message(map, &head.base);
	if (!r)
		r = unchanged_find(d, job->fd, size, name, &job->same);
	if (!r)
		r = lay_out(job, map, size);
	int s = image_close(map);
	r = r ? r : s;
	job->next = d->shmem_jobs;
	d->shmem_jobs = job;
	job->blocks_left = image_blocks_count(job->size);
	d->counts->shared_written += job->size / PAGE_SIZE;
	d->counts->pages_previous += job->previous;
	if (job->previous)
		increment_used(d);
	if (!r)
		r = image_blocks_fill(job->pages, job->size, &shmem_filler, job);
	if (r)
		image_close(job->pages);
	return r ? error_errno(d->e, r, "cannot write %s", name) : 0;
}

int shmem_pages_finish(struct dump *d)
{
	int r = 0;

	if (d->workers)
		workers_wait(d->workers);
	while (d->shmem_jobs) {
		struct shmem_job *job = d->shmem_jobs;
		d->shmem_jobs = job->next;
		if (job->result && !r)
			r = error_errno(d->e, job->result, "cannot write %s", job->name);
		job_free(job);
	}
	return r;
}

int shmem_finish(struct dump *d, bool success)
{
	int r = 0;

	if (!d->shmem)
		return 0;
	VEC_FOREACH(&d->shmem->segments, s) {
		char name[64];
		snprintf(name, sizeof(name), "pagemap-shmem-%lu.img", (unsigned long)s->id);
		if (success && !r)
			r = shmem_write_pages(d, s->fd, s->size, name);
		close(s->fd);
	}
	VEC_FREE(&d->shmem->segments);
	free(d->shmem);
	d->shmem = NULL;
	return r;
}

/* ---- restore ---- */

/* A file of huge pages is filled through memory. NULL: another file; MAP_FAILED. */
static char *map_huge(int fd, const struct stat *st)
{
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0 || fs.f_type != HUGETLBFS_MAGIC || !st->st_size)
		return NULL;
	return mmap(NULL, (size_t)st->st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
}

/* Its own pages, then those of the parent checkpoints. */
static int copy_all(struct restore *s, const struct shmem_target *to, const struct pagemap *m, const struct page_sources *sources)
{
	struct image_raw *pages = NULL;
	char name[32];

	snprintf(name, sizeof(name), "pages-%u.img", m->pages_id);
	int r = image_raw_open(s->dir, name, &pages);
	if (!r)
		r = shmem_fill(s, &(struct shmem_source){ s->dir, pages, &m->here }, to);
	image_raw_close(pages);
	for (size_t i = 0; !r && i < sources->count; i++) {
		const struct page_source *x = &sources->data[i];
		r = shmem_fill(s, &(struct shmem_source){ x->parent->dir, x->stored, &x->spans }, to);
	}
	return r;
}

int shmem_read_pages(struct restore *s, int fd, const char *name)
{
	struct page_sources sources = {};
	struct pagemap m = {};
	struct stat st;

	if (fstat(fd, &st) < 0)
		return error_errno(s->e, -errno, "cannot look at the file that %s is of", name);
	int r = pagemap_read(s->dir, name, &m);
	if (r == -ENOENT)
		return r;
	if (r)
		r = error_errno(s->e, r, "cannot read %s", name);
	if (!r)
		r = parents_find(s, name, &m.in_parent, &sources);
	char *mapped = r ? NULL : map_huge(fd, &st);
	if (mapped == MAP_FAILED) {
		mapped = NULL;
		r = error_set(s->e, -ENOMEM, "not enough huge pages are free for %s; see /proc/sys/vm/nr_hugepages", name);
	}
	if (!r && (r = copy_all(s, &(struct shmem_target){ fd, mapped, (uint64_t)st.st_size }, &m, &sources))) {
		const char *damage = r == -EBADMSG ? image_dir_damage(s->dir) : NULL;
		r = damage ? error_set(s->e, r, "cannot fill from %s: %s is damaged", name, damage) : error_errno(s->e, r, "cannot fill from %s", name);
	}
	if (mapped)
		munmap(mapped, (size_t)st.st_size);
	page_sources_finish(&sources);
	pagemap_finish(&m);
	return r;
}

/* The size that all areas of a segment need, and the kind of their pages as MAP_HUGETLB has it. */
static uint64_t size_needed(struct restore *s, uint64_t id, int *ret_huge)
{
	uint64_t size = 0;

	for (size_t i = 0; i < s->tasks.count; i++) {
		const MmEntry *mm = s->tasks.data[i]->mm;
		for (size_t k = 0; mm && k < mm->n_vmas; k++) {
			const VmaEntry *v = mm->vmas[k];
			if (!(v->status & VMA_ANON_SHARED) || v->shmid != id)
				continue;
			*ret_huge = (int)(v->flags & VMA_HUGE_FLAGS);
			size = MAX(size, v->pgoff + (v->end - v->start));
		}
	}
	return size;
}

int shmem_fd(struct restore *s, uint64_t id)
{
	char name[64];

	if (!s->shmem && !(s->shmem = calloc(1, sizeof(*s->shmem))))
		return error_set(s->e, -ENOMEM, "out of memory");
	VEC_FOREACH(&s->shmem->segments, seg)
		if (seg->id == id)
			return seg->fd;
	/* An anonymous shared mapping, for its file: it has no name then, as it had none. */
	int huge = 0;
	size_t size = size_needed(s, id, &huge);
	char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | huge, -1, 0);
	if (at == MAP_FAILED && huge)
		return error_errno(s->e, -errno, "cannot make shared memory of %zu bytes of huge pages (see /proc/sys/vm/nr_hugepages)", size);
	if (at == MAP_FAILED)
		return error_errno(s->e, -errno, "cannot make shared memory of %zu bytes", size);
	snprintf(name, sizeof(name), "/proc/self/map_files/%lx-%lx", (unsigned long)at, (unsigned long)at + ALIGN_UP(size, PAGE_SIZE));
	int fd = open(name, O_RDWR | O_CLOEXEC);
	int r = fd < 0 ? -errno : 0;
	munmap(at, size);
	if (!r)
		fd = restore_hold(s, fd);
	struct segment *seg = !r && fd >= 0 ? VEC_PUSH(&s->shmem->segments) : NULL;
	if (!seg)
		return error_errno(s->e, r ? r : fd < 0 ? fd : -ENOMEM, "cannot hold shared memory");
	*seg = (struct segment){ .id = id, .fd = fd };
	snprintf(name, sizeof(name), "pagemap-shmem-%lu.img", (unsigned long)id);
	r = shmem_read_pages(s, fd, name);
	return r && r != -ENOENT ? r : fd;
}

void shmem_release(struct restore *s)
{
	if (!s->shmem)
		return;
	VEC_FOREACH(&s->shmem->segments, seg)
		close(seg->fd);
	VEC_FREE(&s->shmem->segments);
	free(s->shmem);
	s->shmem = NULL;
}
