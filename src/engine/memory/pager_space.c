/* See pager_space.h. */
#include "engine/memory/pager_space.h"

#include <unistd.h>

bool space_is_done(const struct space *s, size_t page)
{
	return s->done[page / 8] & 1u << page % 8;
}

void space_set_done(struct space *s, size_t page)
{
	if (space_is_done(s, page))
		return;
	s->done[page / 8] |= (unsigned char)(1u << page % 8);
	s->left--;
}

size_t space_find(const struct space *s, uint64_t address)
{
	size_t low = 0, high = s->pieces.count;

	while (low < high) {
		size_t middle = (low + high) / 2;
		if (s->pieces.data[middle].end <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

void space_end(struct space *s)
{
	if (s->over)
		return;
	s->over = true;
	s->left = 0;
	close(s->uffd);
	VEC_FREE(&s->pieces);
	free(TAKE_PTR(s->given));
	free(TAKE_PTR(s->done));
}

static void insert_piece(struct space *s, size_t at, struct piece p)
{
	if (!VEC_PUSH(&s->pieces))
		pager_give_up("out of memory");
	memmove(&s->pieces.data[at + 1], &s->pieces.data[at], (s->pieces.count - 1 - at) * sizeof(p));
	s->pieces.data[at] = p;
}

/* No piece reaches over `address` any more. */
static void cut_at(struct space *s, uint64_t address)
{
	size_t i = space_find(s, address);

	if (i == s->pieces.count || s->pieces.data[i].start >= address)
		return;
	struct piece rest = s->pieces.data[i];
	s->pieces.data[i].end = address;
	rest.offset += address - rest.start;
	rest.page += (address - rest.start) / PAGE_SIZE;
	rest.start = address;
	insert_piece(s, i + 1, rest);
}

/* Takes the pieces within the range out. They go to `moved`, or their pages are wanted no more. */
static void take_range(struct space *s, uint64_t start, uint64_t end, struct piece **moved, size_t *count)
{
	size_t first, last;

	cut_at(s, start);
	cut_at(s, end);
	first = space_find(s, start);
	last = space_find(s, end - 1);
	last += last < s->pieces.count && s->pieces.data[last].start < end;
	if (first >= last)
		return;
	if (moved) {
		*moved = malloc((last - first) * sizeof(**moved));
		if (!*moved)
			pager_give_up("out of memory");
		memcpy(*moved, &s->pieces.data[first], (last - first) * sizeof(**moved));
		*count = last - first;
	} else {
		for (size_t i = first; i < last; i++)
			for (uint64_t at = s->pieces.data[i].start; at < s->pieces.data[i].end; at += PAGE_SIZE)
				space_set_done(s, s->pieces.data[i].page + (at - s->pieces.data[i].start) / PAGE_SIZE);
	}
	memmove(&s->pieces.data[first], &s->pieces.data[last], (s->pieces.count - last) * sizeof(struct piece));
	s->pieces.count -= last - first;
	s->cursor = s->at = 0;
}

void space_drop(struct space *s, uint64_t start, uint64_t end)
{
	take_range(s, start, end, NULL, NULL);
}

void space_move(struct space *s, uint64_t from, uint64_t to, uint64_t size)
{
	struct piece *moved = NULL;
	size_t count = 0;

	take_range(s, from, from + size, &moved, &count);
	space_drop(s, to, to + size);
	for (size_t i = 0; i < count; i++) {
		moved[i].start += to - from;
		moved[i].end += to - from;
		insert_piece(s, space_find(s, moved[i].start), moved[i]);
	}
	free(moved);
}

struct space *space_fork(const struct space *parent, int uffd)
{
	struct space *s = calloc(1, sizeof(*s));

	if (!s)
		pager_give_up("out of memory");
	*s = *parent;
	s->uffd = uffd;
	s->first = false;
	s->given = NULL;
	s->pieces.data = NULL;
	s->pieces.count = s->pieces.capacity = 0;
	s->done = malloc(s->pages / 8 + 1);
	if (!s->done)
		pager_give_up("out of memory");
	memcpy(s->done, parent->done, s->pages / 8 + 1);
	for (size_t i = 0; i < parent->pieces.count; i++)
		insert_piece(s, i, parent->pieces.data[i]);
	return s;
}

uint64_t space_address_of(const struct space *s, size_t page)
{
	size_t low = 0, high = s->n_given;

	while (low < high) {
		size_t middle = (low + high) / 2;
		if (s->given[middle].page + (s->given[middle].end - s->given[middle].start) / PAGE_SIZE <= page)
			low = middle + 1;
		else
			high = middle;
	}
	uint64_t address = low < s->n_given ? s->given[low].start + (page - s->given[low].page) * PAGE_SIZE : 0;
	size_t i = address ? space_find(s, address) : 0;
	const struct piece *now = address && i < s->pieces.count ? &s->pieces.data[i] : NULL;
	return now && now->start <= address && now->page + (address - now->start) / PAGE_SIZE == page ? address : 0;
}

struct space *space_new(const struct pager_space *from)
{
	struct space *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->uffd = from->uffd;
	s->pid = from->pid;
	s->first = true;
	for (size_t i = 0; i < from->count; i++) {
		struct piece *piece = VEC_PUSH(&s->pieces);
		if (!piece)
			return NULL;
		*piece = (struct piece){ from->extents[i].start, from->extents[i].end, from->extents[i].offset, s->pages, from->extents[i].source };
		s->pages += (piece->end - piece->start) / PAGE_SIZE;
	}
	s->left = s->pages;
	s->done = calloc(1, s->pages / 8 + 1);
	s->n_given = s->pieces.count;
	s->given = malloc((s->n_given + 1) * sizeof(*s->given));
	if (!s->done || !s->given)
		return NULL;
	for (size_t i = 0; i < s->n_given; i++)
		s->given[i] = s->pieces.data[i];
	return s;
}
