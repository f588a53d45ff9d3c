/* See slots.h. */
#include "engine/memory/slots.h"

int extents_add(struct extents *e, struct extent x)
{
	struct extent *last = e->count ? &e->data[e->count - 1] : NULL;

	if (x.start >= x.end)
		return 0;
	if (last && last->end == x.start && last->shared == x.shared && last->several == x.several && last->previous == x.previous &&
	    (x.shared || last->slot + (last->end - last->start) == x.slot)) {
		last->end = x.end;
		return 0;
	}
	last = VEC_PUSH(e);
	if (!last)
		return -ENOMEM;
	*last = x;
	return 0;
}

size_t extents_find(const struct extents *e, uint64_t address)
{
	size_t low = 0, high = e->count;

	while (low < high) {
		size_t middle = (low + high) / 2;
		if (e->data[middle].end <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

struct placing {
	struct slots *s;
	struct extents out;
	struct extents *copies;
	struct extent head; /* what is left of the known extent that is being gone through; empty: none */
	size_t next;	    /* the known extent after it */
};

/* Known extents that end before `address` stay as they are. */
static int pass(struct placing *p, uint64_t address)
{
	int r = 0;

	for (;;) {
		if (p->head.start >= p->head.end) {
			if (p->next == p->s->known.count)
				return r;
			p->head = p->s->known.data[p->next++];
		}
		if (r || p->head.end > address)
			return r;
		r = extents_add(&p->out, p->head);
		p->head.start = p->head.end;
	}
}

/* The part of the head before `address` stays as it is. */
static int keep(struct placing *p, uint64_t address)
{
	struct extent part = p->head;

	part.end = MIN(address, part.end);
	if (part.start >= part.end)
		return 0;
	p->head.slot += part.shared ? 0 : part.end - part.start;
	p->head.start = part.end;
	return extents_add(&p->out, part);
}

/* The first part of `run`, up to where it is of one kind. */
static int place_part(struct placing *p, const struct extent *run, uint64_t *at)
{
	bool known = p->head.start <= *at && p->head.end > *at;
	struct extent part = *run;
	int r;

	part.start = *at;
	part.end = known ? MIN(run->end, p->head.end) : p->head.end > *at ? MIN(run->end, p->head.start) : run->end;
	*at = part.end;
	if (known && !p->head.shared && !run->shared) {
		part.slot = p->head.slot;
		r = keep(p, part.end);
	} else {
		part.slot = run->shared ? 0 : p->s->size;
		p->s->size += run->shared ? 0 : part.end - part.start;
		if (known) { /* it had no place, or needs none now */
			p->head.slot += p->head.shared ? 0 : part.end - part.start;
			p->head.start = part.end;
		}
		r = extents_add(&p->out, part);
	}
	return r || run->shared || !p->copies ? r : extents_add(p->copies, part);
}

int slots_place(struct slots *s, const struct extents *runs, struct extents *copies)
{
	struct placing p = { .s = s, .copies = copies };
	int r = 0;

	for (size_t i = 0; !r && i < runs->count; i++) {
		const struct extent *run = &runs->data[i];
		for (uint64_t at = run->start; !r && at < run->end;) {
			r = pass(&p, at);
			if (!r)
				r = keep(&p, at);
			if (!r)
				r = place_part(&p, run, &at);
		}
	}
	if (!r)
		r = pass(&p, UINT64_MAX);
	if (r) {
		VEC_FREE(&p.out);
		return r;
	}
	VEC_FREE(&s->known);
	s->known = p.out;
	return 0;
}

int extents_join(struct extents *to, const struct extents *more)
{
	struct extents out = {};
	int r = 0;

	for (size_t i = 0, k = 0; !r && (i < to->count || k < more->count);) {
		bool first = k == more->count || (i < to->count && to->data[i].start <= more->data[k].start);
		struct extent x = first ? to->data[i++] : more->data[k++];
		struct extent *last = out.count ? &out.data[out.count - 1] : NULL;
		if (last && x.start <= last->end)
			last->end = MAX(last->end, x.end);
		else
			r = extents_add(&out, (struct extent){ .start = x.start, .end = x.end, .shared = true });
	}
	if (r) {
		VEC_FREE(&out);
		return r;
	}
	VEC_FREE(to);
	*to = out;
	return 0;
}
