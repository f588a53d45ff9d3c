/* See storage.h. */
#include "gpu/storage.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <xxhash.h>

#define THREADS_MAX 8
#define PIECE (256UL << 10) /* what is a hole or none */

enum direction { OUT, IN };

struct part {
	uint64_t at, offset, size; /* on the device, in the file */
	void *context;
};

/* Everything of a process's, on its way. */
struct transfer {
	struct driver *driver;
	enum direction direction;
	struct part parts[GPU_DEVICES_MAX];
	size_t n_parts;
	uint64_t size, start; /* of the file; where it begins in the descriptor */
	int fd, direct_fd;    /* the second: past the page cache, or -1 */
	int digests;	      /* or -1 */
	unsigned char *map;   /* of what lies in memory, or NULL */
	size_t next;	      /* block */
	int result;	      /* CUresult or negative errno, the first */
};

struct mover {
	struct transfer *t;
	pthread_t thread;
	unsigned char *buffer; /* pinned */
	void *stream, *context;
};

/* ---- contexts ---- */

static int find_devices(struct driver_custom *c)
{
	int count, r = c->device_count(&count);

	for (int i = 0; !r && i < count && i < GPU_DEVICES_MAX; i++) {
		struct cuda_uuid uuid;
		r = c->device_get(&c->devices[i].device, i);
		if (!r)
			r = c->device_uuid(&uuid, c->devices[i].device);
		if (!r)
			driver_write_uuid(&uuid, c->devices[i].uuid);
	}
	c->n_devices = r ? 0 : (size_t)MIN(count, GPU_DEVICES_MAX);
	return r;
}

static bool is_named(const struct gpu_region *regions, size_t n, const char *uuid)
{
	for (size_t i = 0; i < n; i++)
		if (!strcmp(regions[i].uuid, uuid))
			return true;
	return !n;
}

int storage_prepare(struct driver *d, const struct gpu_region *regions, size_t n)
{
	struct driver_custom *c = &d->custom;

	pthread_mutex_lock(&c->lock);
	int r = c->n_devices ? 0 : find_devices(c);
	for (size_t i = 0; !r && i < c->n_devices; i++)
		if (!c->devices[i].context && is_named(regions, n, c->devices[i].uuid))
			r = c->retain(&c->devices[i].context, c->devices[i].device);
	pthread_mutex_unlock(&c->lock);
	return r;
}

/* ---- a block ---- */

static const struct part *find_part(const struct transfer *t, uint64_t offset)
{
	for (size_t i = t->n_parts; i-- > 0;)
		if (t->parts[i].offset <= offset)
			return &t->parts[i];
	return NULL;
}

static int enter_context(struct mover *m, void *context)
{
	const struct driver_custom *c = &m->t->driver->custom;

	if (m->context == context)
		return 0;
	if (m->stream)
		c->stream_destroy(TAKE_PTR(m->stream));
	m->context = NULL;
	int r = c->set_current(context);
	if (!r)
		r = c->stream_create(&m->stream, 1 /* not blocking */);
	if (!r)
		m->context = context;
	return r;
}

/* Of the whole block at once, or as much as it takes: those that can't be written past the cache are written through it. */
static int write_file(struct transfer *t, const unsigned char *data, size_t size, uint64_t at)
{
	bool direct = t->direct_fd >= 0 && !(size & (PAGE_SIZE - 1));

	while (size) {
		ssize_t n = pwrite(direct ? t->direct_fd : t->fd, data, size, (off_t)(t->start + at));
		if (n < 0 && errno == EINVAL && direct)
			direct = false;
		else if (n <= 0 && errno != EINTR)
			return n ? -errno : -EIO;
		else if (n > 0) {
			data += n;
			at += (uint64_t)n;
			size -= (size_t)n;
		}
	}
	return 0;
}

static int read_file(struct transfer *t, unsigned char *data, size_t size, uint64_t at)
{
	bool direct = t->direct_fd >= 0 && !((size | t->start) & (PAGE_SIZE - 1));

	while (size) {
		ssize_t n = pread(direct ? t->direct_fd : t->fd, data, size, (off_t)(t->start + at));
		if (n < 0 && errno == EINVAL && direct)
			direct = false;
		else if (!n || (n < 0 && errno != EINTR))
			return n ? -errno : -EBADMSG;
		else if (n > 0) {
			data += n;
			at += (uint64_t)n;
			size -= (size_t)n;
		}
	}
	return 0;
}

static bool is_zero(const unsigned char *data, size_t size)
{
	return !size || (!data[0] && !memcmp(data, data + 1, size - 1));
}

/* What was reserved for zeroes is given back; where it can't be, they are read as such all the same. */
static int put_piece(struct transfer *t, const unsigned char *data, size_t size, uint64_t at, bool zero)
{
	if (zero)
		fallocate(t->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(t->start + at), (off_t)size);
	else if (t->map)
		memcpy(t->map + at, data, size);
	else
		return write_file(t, data, size, at);
	return 0;
}

/* Runs of pieces that are zeroes, and of those that are not. */
static int put_out(struct mover *m, size_t size, uint64_t at)
{
	size_t start = 0;
	int r = 0;

	while (!r && start < size) {
		const bool zero = is_zero(m->buffer + start, MIN(PIECE, size - start));
		size_t end = MIN(start + PIECE, size);
		while (end < size && is_zero(m->buffer + end, MIN(PIECE, size - end)) == zero)
			end = MIN(end + PIECE, size);
		r = put_piece(m->t, m->buffer + start, end - start, at + start, zero);
		start = end;
	}
	return r;
}

static int move_block(struct mover *m, size_t index)
{
	struct transfer *t = m->t;
	const struct driver_custom *c = &t->driver->custom;
	const uint64_t at = index * GPU_BLOCK;
	const struct part *p = find_part(t, at);
	const size_t whole = (size_t)MIN(GPU_BLOCK, t->size - at), size = (size_t)MIN(whole, p->offset + p->size - at);
	const uint64_t device = p->at + (at - p->offset);
	XXH128_canonical_t digest;
	int r = enter_context(m, p->context);

	if (r)
		return r;
	if (t->direction == OUT) {
		memset(m->buffer + size, 0, whole - size);
		r = c->copy_out(m->buffer, device, size, m->stream);
		r = r ? r : c->stream_wait(m->stream);
		r = r ? r : put_out(m, whole, at);
	} else {
		r = read_file(t, m->buffer, whole, at);
		if (!r)
			r = is_zero(m->buffer, size) ? c->set(device, 0, size, m->stream) : c->copy_in(device, m->buffer, size, m->stream);
		r = r ? r : c->stream_wait(m->stream);
	}
	if (r || t->digests < 0)
		return r;
	XXH128_canonicalFromHash(&digest, XXH3_128bits(m->buffer, whole));
	return pwrite(t->digests, &digest, sizeof(digest), (off_t)(index * sizeof(digest))) == sizeof(digest) ? 0 : -EIO;
}

/* ---- all of them ---- */

static void *move(void *argument)
{
	struct mover *m = argument;
	struct transfer *t = m->t;
	const size_t count = (size_t)((t->size + GPU_BLOCK - 1) / GPU_BLOCK);
	int none = 0, r = 0;
	size_t index;

	while (!r && !__atomic_load_n(&t->result, __ATOMIC_RELAXED) && (index = __atomic_fetch_add(&t->next, 1, __ATOMIC_RELAXED)) < count)
		r = move_block(m, index);
	if (m->stream)
		t->driver->custom.stream_destroy(TAKE_PTR(m->stream));
	m->context = NULL;
	if (r)
		__atomic_compare_exchange_n(&t->result, &none, r, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	return NULL;
}

static size_t movers_wanted(const struct transfer *t)
{
	cpu_set_t set;
	const size_t processors = sched_getaffinity(0, sizeof(set), &set) == 0 ? (size_t)CPU_COUNT(&set) : 1;

	/* They wait for the bus and the disk more than they work. */
	return (size_t)MIN(MIN((t->size + GPU_BLOCK - 1) / GPU_BLOCK, THREADS_MAX), MAX(2 * processors, 1UL));
}

/* A buffer for each is there before any begins, so that a lack of memory shows at once. */
static int run_transfer(struct transfer *t)
{
	const struct driver_custom *c = &t->driver->custom;
	struct mover movers[THREADS_MAX] = {};
	size_t n = movers_wanted(t), ready = 0, started = 0;
	int r = 0;

	t->next = 0;
	t->result = 0;
	if (t->n_parts)
		r = c->set_current(t->parts[0].context); /* pinned memory belongs to one, and is of use in all (portable) */
	for (; !r && ready < n; ready++) {
		movers[ready].t = t;
		r = c->host_alloc((void **)&movers[ready].buffer, GPU_BLOCK, 1);
		if (r && ready) {
			r = 0;
			break;
		}
	}
	for (; !r && started < ready; started++)
		if (pthread_create(&movers[started].thread, NULL, move, &movers[started])) {
			r = started ? 0 : -EAGAIN;
			break;
		}
	for (size_t i = 0; i < started; i++)
		pthread_join(movers[i].thread, NULL);
	for (size_t i = 0; i < ready; i++)
		if (movers[i].buffer)
			c->host_free(movers[i].buffer);
	return r ? r : t->result;
}

static int open_direct(int fd, int how)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, how | O_DIRECT | O_CLOEXEC);
}

/* Space for all of it, so that no block fails for want of it later. */
static int open_out(struct transfer *t, const struct gpu_call *call)
{
	t->direction = OUT;
	t->fd = call->fd;
	t->digests = call->digests;
	t->direct_fd = -1;
	if (t->size && fallocate(t->fd, 0, 0, (off_t)t->size) < 0 && (errno != EOPNOTSUPP || ftruncate(t->fd, (off_t)t->size) < 0))
		return -errno;
	if (!call->in_memory) {
		t->direct_fd = open_direct(t->fd, O_RDWR);
		return 0;
	}
	t->map = t->size ? mmap(NULL, t->size, PROT_READ | PROT_WRITE, MAP_SHARED, t->fd, 0) : NULL;
	if (t->map == MAP_FAILED)
		t->map = NULL;
	return 0;
}

static void close_transfer(struct transfer *t)
{
	if (t->map)
		munmap(t->map, t->size);
	if (t->direct_fd >= 0)
		close(t->direct_fd);
	t->map = NULL;
	t->direct_fd = -1;
}

static int copy_out(struct transfer *t, const struct gpu_call *call)
{
	int r = open_out(t, call);

	r = r ? r : run_transfer(t);
	close_transfer(t);
	return r;
}

static int copy_in(struct transfer *t, const struct gpu_call *call)
{
	t->direction = IN;
	t->fd = call->fd;
	t->digests = call->digests;
	t->start = call->offset;
	t->direct_fd = call->in_memory ? -1 : open_direct(t->fd, O_RDONLY);
	int r = run_transfer(t);
	close_transfer(t);
	return r;
}

/* ---- operations ---- */

static size_t device_of(struct driver_custom *c, void *stream, void **ret_context)
{
	size_t i = 0;

	if (c->stream_context(stream, ret_context))
		return c->n_devices;
	while (i < c->n_devices && (!c->devices[i].context || c->devices[i].context != *ret_context))
		i++;
	return i;
}

/* What the driver has mapped, in its order. */
static int lay_out(struct driver *d, const struct cuda_storage *storage, struct transfer *t, struct gpu_call *call)
{
	*t = (struct transfer){ .driver = d, .fd = -1, .direct_fd = -1, .digests = -1 };
	call->n_regions = 0;
	if (!storage || storage->n_regions > GPU_DEVICES_MAX)
		return CUDA_ERROR_INVALID_VALUE;
	for (uint32_t i = 0; i < storage->n_regions; i++) {
		struct part *p = &t->parts[t->n_parts];
		size_t device = device_of(&d->custom, storage->regions[i].stream, &p->context);
		if (device == d->custom.n_devices)
			return CUDA_ERROR_INVALID_CONTEXT;
		if (!storage->regions[i].size)
			continue;
		p->at = storage->regions[i].at;
		p->size = storage->regions[i].size;
		p->offset = ALIGN_UP(t->size, GPU_BLOCK);
		t->size = p->offset + p->size;
		struct gpu_region *region = &call->regions[call->n_regions++];
		*region = (struct gpu_region){ .offset = p->offset, .size = p->size };
		memcpy(region->uuid, d->custom.devices[device].uuid, sizeof(region->uuid));
		t->n_parts++;
	}
	return 0;
}

/* The regions of a restore in the places that the file has them. */
static int match(struct driver *d, const struct cuda_storage *storage, struct transfer *t, struct gpu_call *call)
{
	struct gpu_call now = {};
	int r = lay_out(d, storage, t, &now);
	uint64_t size = 0;

	if (!r && now.n_regions != call->n_regions)
		r = -EBADMSG;
	for (size_t i = 0; !r && i < now.n_regions; i++) {
		size_t k = 0;
		while (k < call->n_regions && (strcmp(call->regions[k].uuid, now.regions[i].uuid) || call->regions[k].size != now.regions[i].size))
			k++;
		if (k == call->n_regions)
			r = -EBADMSG;
		else
			t->parts[i].offset = call->regions[k].offset;
		size = MAX(size, t->parts[i].offset + t->parts[i].size);
	}
	t->size = size;
	for (size_t i = 1; !r && i < t->n_parts; i++) /* by their places */
		for (size_t k = i; k > 0 && t->parts[k].offset < t->parts[k - 1].offset; k--) {
			struct part other = t->parts[k];
			t->parts[k] = t->parts[k - 1];
			t->parts[k - 1] = other;
		}
	if (r == -EBADMSG)
		snprintf(call->why, sizeof(call->why), "the driver wants other amounts of memory than were saved");
	return r;
}

static int begin_checkpoint(struct driver *d, int pid, struct cuda_storage **ret)
{
	struct cuda_checkpoint_args args = { .storage = ret };

	*ret = NULL;
	pthread_mutex_lock(&d->custom.lock);
	int r = d->checkpoint(pid, &args);
	pthread_mutex_unlock(&d->custom.lock);
	return r;
}

static int begin_restore(struct driver *d, int pid, struct cuda_restore_args *args, struct cuda_storage **ret)
{
	*ret = NULL;
	args->storage = ret;
	pthread_mutex_lock(&d->custom.lock);
	int r = d->restore(pid, args);
	pthread_mutex_unlock(&d->custom.lock);
	return r;
}

int storage_load(struct driver *d, struct gpu_call *call, struct cuda_restore_args *args)
{
	struct cuda_storage *storage;
	struct transfer t;
	int r = storage_prepare(d, call->regions, call->n_regions);

	if (!r)
		r = begin_restore(d, call->pid, args, &storage);
	if (!r)
		r = match(d, storage, &t, call);
	if (!r && (r = copy_in(&t, call)) < 0)
		snprintf(call->why, sizeof(call->why), "what was on its GPU can't be read: %s", strerror(-r));
	return r ? r : d->custom.complete(storage->handle);
}

/* A copy has failed, and the driver can't be told to forget it: once more to memory, to the end, and back. */
static void rescue(struct driver *d, struct gpu_call *call, struct transfer *t, struct cuda_storage *storage)
{
	struct gpu_call own = { .pid = call->pid, .in_memory = true, .fd = memfd_create("gpu", MFD_CLOEXEC), .digests = -1, .n_regions = call->n_regions };
	struct cuda_restore_args args = {};
	char why[sizeof(call->why)];

	memcpy(own.regions, call->regions, sizeof(own.regions));
	int r = own.fd < 0 ? -errno : copy_out(t, &own);
	if (!r)
		r = d->custom.complete(storage->handle);
	if (!r)
		r = storage_load(d, &own, &args);
	if (own.fd >= 0)
		close(own.fd);
	if (!r)
		return;
	memcpy(why, call->why, sizeof(why));
	snprintf(call->why, sizeof(call->why), "%.60s; its GPU memory can't be put back (%.60s)", why, r < 0 ? strerror(-r) : driver_error_name(d, r));
}

int storage_save(struct driver *d, struct gpu_call *call)
{
	struct cuda_storage *storage = NULL;
	struct transfer t;
	int r = storage_prepare(d, call->regions, call->n_regions);

	r = r ? r : begin_checkpoint(d, call->pid, &storage);
	if (r == CUDA_ERROR_INVALID_CONTEXT && !(r = storage_prepare(d, NULL, 0))) /* it is on more than those that were named */
		r = begin_checkpoint(d, call->pid, &storage);
	if (r)
		return r;
	r = lay_out(d, storage, &t, call);
	if (r) { /* then completing it would lose what is there */
		snprintf(call->why, sizeof(call->why), "the driver says nothing of where its GPU memory is (%s); its GPU state stands in the middle of a checkpoint",
			 driver_error_name(d, r));
		return r;
	}
	r = copy_out(&t, call);
	if (!r)
		return d->custom.complete(storage->handle);
	snprintf(call->why, sizeof(call->why), "%s", r < 0 ? strerror(-r) : driver_error_name(d, r));
	rescue(d, call, &t, storage);
	return r;
}
