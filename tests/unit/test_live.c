/* The places that copied pages get, against a plain table of pages; and the flags of areas that are read before and behind a pause. */
#include "engine/memory/parents.h"
#include "engine/memory/slots.h"
#include "engine/memory/vmflags.h"

#define PAGES 64
#define ROUNDS 20000

static int failures;

static void check(const char *name, bool good)
{
	printf(good ? "ok %s\n" : "not ok %s: see tests/unit/test_live.c\n", name);
	failures += !good;
}

/* ---- places ---- */

struct page {
	bool known, shared;
	uint64_t slot;
};

static bool same_as(const struct slots *s, const struct page *table)
{
	struct page seen[PAGES] = {};
	uint64_t last = 0;

	for (size_t i = 0; i < s->known.count; i++) {
		const struct extent *x = &s->known.data[i];
		if (x->start < last || x->start >= x->end)
			return false;
		last = x->end;
		for (uint64_t at = x->start; at < x->end; at += PAGE_SIZE)
			seen[at / PAGE_SIZE] = (struct page){ true, x->shared, x->shared ? 0 : x->slot + (at - x->start) };
	}
	for (size_t i = 0; i < PAGES; i++)
		if (seen[i].known != table[i].known || seen[i].shared != table[i].shared || seen[i].slot != table[i].slot)
			return false;
	return true;
}

/* Random runs, of which those that are shared come first; each is looked up in the table. */
static bool try_places(unsigned seed)
{
	struct page table[PAGES] = {};
	struct slots s = {};
	uint64_t next = 0;
	bool good = true;

	for (int round = 0; round < 4 && good; round++) {
		struct extents runs = {}, copies = {};
		uint64_t copied = 0, wanted = 0;
		for (size_t at = (size_t)rand_r(&seed) % 8; at < PAGES;) {
			size_t end = at + 1 + (size_t)rand_r(&seed) % 9;
			end = MIN(end, (size_t)PAGES);
			bool shared = !round && rand_r(&seed) % 3 == 0;
			good &= extents_add(&runs, (struct extent){ .start = at * PAGE_SIZE, .end = end * PAGE_SIZE, .shared = shared }) == 0;
			for (; at < end; at++) {
				if (!shared && (!table[at].known || table[at].shared)) {
					table[at].slot = next;
					next += PAGE_SIZE;
				}
				table[at].known = true;
				table[at].shared = shared;
				wanted += shared ? 0 : PAGE_SIZE;
			}
			at += (size_t)rand_r(&seed) % 8;
		}
		good &= slots_place(&s, &runs, &copies) == 0 && s.size == next && same_as(&s, table);
		for (size_t i = 0; i < copies.count; i++)
			for (uint64_t at = copies.data[i].start; at < copies.data[i].end; at += PAGE_SIZE) {
				good &= copies.data[i].slot + (at - copies.data[i].start) == table[at / PAGE_SIZE].slot;
				copied += PAGE_SIZE;
			}
		good &= copied == wanted;
		VEC_FREE(&runs);
		VEC_FREE(&copies);
	}
	VEC_FREE(&s.known);
	return good;
}

static void test_places(void)
{
	bool good = true;

	for (unsigned i = 0; i < ROUNDS && good; i++)
		good = try_places(i);
	check("every page has one place and keeps it", good);
}

static void test_join(void)
{
	struct extents a = {}, b = {};

	extents_add(&a, (struct extent){ .start = 0, .end = 10, .shared = true });
	extents_add(&a, (struct extent){ .start = 40, .end = 50, .shared = true });
	extents_add(&b, (struct extent){ .start = 5, .end = 20, .shared = true });
	extents_add(&b, (struct extent){ .start = 50, .end = 60, .shared = true });
	check("two lists are joined to one", extents_join(&a, &b) == 0 && a.count == 2 && a.data[0].end == 20 && a.data[1].start == 40 && a.data[1].end == 60);
	check("the extent of an address is found", extents_find(&a, 20) == 1 && extents_find(&a, 19) == 0 && extents_find(&a, 60) == 2);
	VEC_FREE(&a);
	VEC_FREE(&b);
}

/* ---- flags ---- */

static struct proc_maps maps_of(struct proc_vma *list, size_t count)
{
	return (struct proc_maps){ .data = list, .count = count };
}

static void test_flags(void)
{
	struct proc_vma before[] = { { .start = 0x1000, .end = 0x5000, .vmflags = PROC_VMF_LO }, { .start = 0x8000, .end = 0x9000 } };
	struct proc_vma now[] = { { .start = 0x2000, .end = 0x3000 }, { .start = 0x8000, .end = 0x9000 }, { .start = 0xa000, .end = 0xb000 } };
	struct proc_vma later[] = { { .start = 0x1000, .end = 0x5000, .vmflags = PROC_VMF_LO }, { .start = 0x8000, .end = 0xb000 } };
	struct proc_maps a = maps_of(before, 2), b = maps_of(now, 3), c = maps_of(later, 2);

	vmflags_borrow(&b, &a);
	check("a part of an area has its flags", now[0].vmflags == PROC_VMF_LO && !now[1].vmflags && !now[2].vmflags);
	check("flags that stay are confirmed", vmflags_confirm(&b, &c, 0));
	later[0].vmflags = 0;
	check("a flag that is gone later is not", !vmflags_confirm(&b, &c, 0));
	later[0].vmflags = PROC_VMF_LO;
	later[1].vmflags = PROC_VMF_UW;
	check("one that does not count is overlooked", !vmflags_confirm(&b, &c, 0) && vmflags_confirm(&b, &c, PROC_VMF_UW));
	later[1] = (struct proc_vma){ .start = 0x8000, .end = 0x9000 };
	check("an area of the pause alone counts where flags matter", !vmflags_confirm(&b, &c, 0));
	before[0].vmflags = later[0].vmflags = now[0].vmflags = 0;
	check("and does not where they do not", vmflags_confirm(&b, &c, 0));
	now[0].inode = 7;
	later[0].vmflags = PROC_VMF_DC;
	check("an area of another file is not the same", !vmflags_confirm(&b, &c, 0));
}

static int add(struct pagemap *m, uint64_t at, uint32_t pages, enum pages_place place)
{
	PagemapEntry e = PAGEMAP_ENTRY__INIT;

	e.vaddr = at;
	e.nr_pages = pages;
	e.has_flags = 1;
	e.flags = place == PAGES_HERE ? 4 : place == PAGES_IN_PARENT ? 1 : 0;
	e.has_forked = e.forked = place == PAGES_FORKED;
	return pagemap_add(m, &e);
}

static bool span_is(const struct page_span *x, uint64_t address, uint64_t size, uint64_t offset)
{
	return x->address == address && x->size == size && x->offset == offset;
}

static void test_pagemap(void)
{
	struct pagemap m = {};
	struct page_spans wanted = {}, found = {}, joined = {};

	check("entries are taken", !add(&m, 0x1000, 2, PAGES_HERE) && !add(&m, 0x3000, 1, PAGES_IN_PARENT) && !add(&m, 0x4000, 4, PAGES_HERE) &&
					   !add(&m, 0x9000, 1, PAGES_FORKED));
	check("not one that goes back", add(&m, 0x8000, 1, PAGES_HERE) == -EBADMSG);
	check("nor one within a page, or beyond all", add(&m, 0xa001, 1, PAGES_HERE) == -EBADMSG && add(&m, 0x7fffffffe000, 2, PAGES_HERE) == -EBADMSG);
	check("offsets count what is in the file", m.size == 0x6000 && m.here.count == 2 && span_is(&m.here.data[1], 0x4000, 0x4000, 0x2000));
	check("what is elsewhere is known", m.in_parent.count == 1 && m.forked.count == 1);
	struct page_span *x = VEC_PUSH(&wanted);
	*x = (struct page_span){ 0x2000, 0x3000, 0 };
	check("what two lists have in common", !spans_common(&wanted, &m.here, &found) && found.count == 2 && span_is(&found.data[0], 0x2000, 0x1000, 0x1000) &&
						       span_is(&found.data[1], 0x4000, 0x1000, 0x2000));
	check("two lists as one", !spans_join(&m.here, &m.in_parent, &joined) && joined.count == 1 && span_is(&joined.data[0], 0x1000, 0x7000, 0x1000));
	VEC_FREE(&wanted);
	VEC_FREE(&found);
	VEC_FREE(&joined);
	pagemap_finish(&m);
}

int main(void)
{
	test_pagemap();
	test_places();
	test_join();
	test_flags();
	return failures != 0;
}
