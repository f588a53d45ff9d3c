/* The list of chunks that were found damaged, in the store's directory: their packs and numbers. A dump that meets the same content stores it anew. */
#include "image/store/private.h"

#include <fcntl.h>
#include <sys/stat.h>

#define NAME "damaged"
#define LIST_MAX (64UL << 20)

static int by_chunk(const void *a, const void *b)
{
	const struct damage *x = a, *y = b;
	int order = memcmp(x->pack, y->pack, DIGEST);

	return order ? order : x->chunk < y->chunk ? -1 : x->chunk > y->chunk;
}

int damage_read(struct store *s, damage_list *ret)
{
	_cleanup_close_ int fd = openat(s->fd, NAME, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct stat st;

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > (off_t)LIST_MAX)
		return -EBADMSG;
	size_t count = (size_t)st.st_size / sizeof(struct damage);
	if (!count)
		return 0;
	if (!vec_reserve((void **)&ret->data, &ret->capacity, count, sizeof(*ret->data)))
		return -ENOMEM;
	int r = read_whole(fd, ret->data, count * sizeof(*ret->data), 0);
	if (!r) {
		ret->count = count;
		qsort(ret->data, count, sizeof(*ret->data), by_chunk);
	}
	return r;
}

int damage_write(struct store *s, damage_list *list)
{
	struct fresh f;

	if (!list->count)
		return unlinkat(s->fd, NAME, 0) < 0 && errno != ENOENT ? -errno : 0;
	qsort(list->data, list->count, sizeof(*list->data), by_chunk);
	int r = fresh_open(s->fd, &f);
	if (r)
		return r;
	r = write_whole(f.fd, list->data, list->count * sizeof(*list->data), 0);
	if (!r)
		r = fresh_name(&f, NAME, true);
	fresh_close(&f);
	return r;
}

bool damage_has(const damage_list *list, const unsigned char pack[DIGEST], uint32_t chunk)
{
	struct damage key = { .chunk = chunk };

	memcpy(key.pack, pack, DIGEST);
	return list->count && bsearch(&key, list->data, list->count, sizeof(key), by_chunk);
}
