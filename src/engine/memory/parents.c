/* See parents.h. The link and the flag are CRIU's; the ids that keep a chain together are ours (image.h). */
#include "engine/memory/parents.h"

#include <unistd.h>

enum { IN_PARENT = 1, PRESENT = 4 }; /* flags */
#define ENTRY_PAGES_MAX (1UL << 30)
#define PARENTS_MAX 512
#define TASK_END 0x7ffffffff000ULL

enum pages_place pages_place(const PagemapEntry *p)
{
	if (p->has_forked && p->forked)
		return PAGES_FORKED;
	return (p->has_in_parent && p->in_parent) || (p->has_flags && p->flags & IN_PARENT) ? PAGES_IN_PARENT : PAGES_HERE;
}

static int span_add(struct page_spans *list, uint64_t address, uint64_t size, uint64_t offset)
{
	struct page_span *last = list->count ? &list->data[list->count - 1] : NULL;

	if (last && last->address + last->size == address && last->offset + last->size == offset) {
		last->size += size;
		return 0;
	}
	last = VEC_PUSH(list);
	if (!last)
		return -ENOMEM;
	*last = (struct page_span){ address, size, offset };
	return 0;
}

/* The end of all that was added. */
static uint64_t end_of(const struct page_spans *list)
{
	return list->count ? list->data[list->count - 1].address + list->data[list->count - 1].size : 0;
}

int pagemap_add(struct pagemap *m, const PagemapEntry *p)
{
	uint64_t size = (uint64_t)p->nr_pages * PAGE_SIZE, end = MAX(MAX(end_of(&m->here), end_of(&m->in_parent)), end_of(&m->forked));
	int r;

	if (p->vaddr % PAGE_SIZE || p->vaddr < end || p->vaddr > TASK_END || size > TASK_END - p->vaddr)
		return -EBADMSG;
	if (!size)
		return 0;
	switch (pages_place(p)) {
	case PAGES_FORKED:
		return span_add(&m->forked, p->vaddr, size, p->vaddr);
	case PAGES_IN_PARENT:
		return span_add(&m->in_parent, p->vaddr, size, p->vaddr);
	case PAGES_HERE:
		r = span_add(&m->here, p->vaddr, size, m->size);
		m->size += size;
		return r;
	}
	return -EBADMSG;
}

int pagemap_write(struct image_file *map, uint64_t start, uint64_t last, enum pages_place place)
{
	PagemapEntry entry = PAGEMAP_ENTRY__INIT;
	int r = 0;

	for (uint64_t at = start; at < last && !r;) {
		uint64_t end = MIN(last, at + ENTRY_PAGES_MAX * PAGE_SIZE);
		entry.vaddr = at;
		entry.nr_pages = (uint32_t)((end - at) / PAGE_SIZE);
		entry.has_flags = 1;
		entry.flags = place == PAGES_HERE ? PRESENT : place == PAGES_IN_PARENT ? IN_PARENT : 0;
		entry.has_in_parent = entry.in_parent = place == PAGES_IN_PARENT;
		entry.has_forked = entry.forked = place == PAGES_FORKED;
		r = image_write_message(map, &entry.base);
		at = end;
	}
	return r;
}

int pagemap_read(struct image_dir *dir, const char *name, struct pagemap *m)
{
	struct image_file *file;
	ProtobufCMessage *message;
	PagemapHead *head;
	int r = image_open(dir, name, IMAGE_MAGIC_PAGEMAP, &file);

	if (r)
		return r;
	r = image_read_message(file, &pagemap_head__descriptor, (ProtobufCMessage **)&head);
	if (r == 1) {
		m->pages_id = head->pages_id;
		pagemap_head__free_unpacked(head, NULL);
	} else if (!r) {
		r = -EBADMSG;
	}
	while (r == 1 && (r = image_read_message(file, &pagemap_entry__descriptor, &message)) == 1) {
		int added = pagemap_add(m, (PagemapEntry *)message);
		protobuf_c_message_free_unpacked(message, NULL);
		r = added ? added : 1;
	}
	image_close(file);
	return r;
}

void pagemap_finish(struct pagemap *m)
{
	VEC_FREE(&m->here);
	VEC_FREE(&m->in_parent);
	VEC_FREE(&m->forked);
}

int spans_common(const struct page_spans *a, const struct page_spans *b, struct page_spans *ret)
{
	int r = 0;

	for (size_t i = 0, k = 0; !r && i < a->count && k < b->count;) {
		const struct page_span *x = &a->data[i], *y = &b->data[k];
		uint64_t start = MAX(x->address, y->address), end = MIN(x->address + x->size, y->address + y->size);
		if (start < end)
			r = span_add(ret, start, end - start, y->offset + (start - y->address));
		if (x->address + x->size < y->address + y->size)
			i++;
		else
			k++;
	}
	return r;
}

int spans_join(const struct page_spans *a, const struct page_spans *b, struct page_spans *ret)
{
	int r = 0;

	for (size_t i = 0, k = 0; !r && (i < a->count || k < b->count);) {
		bool first = k == b->count || (i < a->count && a->data[i].address < b->data[k].address);
		const struct page_span *x = first ? &a->data[i++] : &b->data[k++];
		r = span_add(ret, x->address, x->size, x->address);
	}
	return r;
}

size_t spans_at(const struct page_spans *list, uint64_t offset)
{
	size_t low = 0, high = list->count;

	while (low < high) {
		size_t middle = (low + high) / 2;
		if (list->data[middle].offset + list->data[middle].size <= offset)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

size_t spans_next(const struct page_spans *list, uint64_t *at, uint64_t end, size_t most)
{
	size_t i = spans_at(list, *at);
	uint64_t n = 0;

	if (i == list->count || list->data[i].offset >= end)
		return 0;
	*at = MAX(*at, list->data[i].offset);
	for (; i < list->count && list->data[i].offset <= *at + n && n < most; i++)
		n = list->data[i].offset + list->data[i].size - *at;
	return (size_t)MIN(MIN(n, most), end - *at);
}

/* ---- the checkpoints ---- */

static int fail_chain(struct restore *s, int r, const char *what, const struct image_dir *of, size_t level)
{
	return error_set(s->e, r, "%s (%zu checkpoint%s up from %s, by the link `parent`)", what, level + 1, level ? "s" : "", s->request->images_dir);
}

/* It must be the one that the checkpoint below was made from. */
static int check_lineage(struct restore *s, struct image_dir *below, struct image_dir *dir, size_t level)
{
	struct image_lineage of = {}, is = {};
	int r = image_dir_lineage(below, &of), p = image_dir_lineage(dir, &is);

	if (r || p)
		return fail_chain(s, -EBADMSG, "the manifest of a parent checkpoint can't be read: it is damaged", dir, level);
	if (of.parent[0] && strcmp(of.parent, is.id) != 0)
		return fail_chain(s, -EBADMSG, "the parent is another checkpoint than the one that this was made from", dir, level);
	return 0;
}

static int check_loop(struct restore *s, const struct image_dir *dir, size_t level)
{
	bool loop = image_dir_is(s->dir, dir);

	for (size_t i = 0; i < s->parents.count; i++)
		loop |= image_dir_is(s->parents.data[i]->dir, dir);
	if (loop)
		return fail_chain(s, -ELOOP, "a checkpoint is its own parent: the checkpoint is damaged", dir, level);
	if (level >= PARENTS_MAX)
		return fail_chain(s, -ELOOP, "there are more parents than 512: the checkpoint is damaged", dir, level);
	return 0;
}

/* The one `level` + 1 further up; *ret stays ours. */
static int open_parent(struct restore *s, size_t level, struct parent **ret)
{
	struct image_dir *below = level ? s->parents.data[level - 1]->dir : s->dir, *dir;

	if (level < s->parents.count) {
		*ret = s->parents.data[level];
		return 0;
	}
	int r = image_dir_open_parent(below, &dir);
	if (r == -ENOENT)
		return fail_chain(s, r, "its parent checkpoint, which has pages of it, is missing; put it back where it was", below, level);
	if (r)
		return fail_chain(s, r, "its parent checkpoint, which has pages of it, can't be opened", below, level);
	struct parent *parent = NULL, **slot = NULL;
	r = check_loop(s, dir, level);
	if (!r && !((parent = calloc(1, sizeof(*parent))) && (slot = VEC_PUSH(&s->parents))))
		r = error_set(s->e, -ENOMEM, "out of memory");
	if (r) {
		image_dir_free(dir);
		free(parent);
		return r;
	}
	*slot = parent;
	parent->dir = dir;
	r = s->request->skip_verify ? 0 : image_dir_verify_begin(dir, &parent->verification, s->e);
	if (r < 0)
		return error_prefix(s->e, r, "in the parent checkpoint %zu up from %s", level + 1, s->request->images_dir);
	*ret = parent;
	return check_lineage(s, below, dir, level);
}

void parents_verify(struct restore *s)
{
	for (size_t i = 0; i < s->parents.count; i++)
		image_dir_verify_start(s->parents.data[i]->verification);
}

int parents_verified(struct restore *s, int r)
{
	for (size_t i = 0; i < s->parents.count; i++) {
		struct error damage = {};
		int v = image_dir_verified(TAKE_PTR(s->parents.data[i]->verification), &damage);
		if (v < 0) {
			*s->e = damage;
			r = error_prefix(s->e, v, "in the parent checkpoint %zu up from %s", i + 1, s->request->images_dir);
		}
	}
	return r;
}

void parents_cancel(struct restore *s)
{
	for (size_t i = 0; i < s->parents.count; i++)
		image_dir_verify_cancel(TAKE_PTR(s->parents.data[i]->verification));
}

void parents_release(struct restore *s)
{
	parents_cancel(s);
	for (size_t i = 0; i < s->parents.count; i++) {
		image_dir_free(s->parents.data[i]->dir);
		free(s->parents.data[i]);
	}
	VEC_FREE(&s->parents);
}

/* ---- pages ---- */

void page_sources_finish(struct page_sources *sources)
{
	VEC_FOREACH(sources, source) {
		image_raw_close(source->stored);
		VEC_FREE(&source->spans);
		if (source->fd >= 0)
			close(source->fd);
	}
	VEC_FREE(sources);
}

static uint64_t total(const struct page_spans *list)
{
	uint64_t size = 0;

	for (size_t i = 0; i < list->count; i++)
		size += list->data[i].size;
	return size;
}

/* What the parent's pages file has of it. */
static int add_source(struct restore *s, struct parent *parent, const struct pagemap *m, const struct page_spans *wanted, struct page_sources *ret)
{
	struct page_source source = { .parent = parent, .fd = -1 };
	char pages[40];
	int r = spans_common(wanted, &m->here, &source.spans);

	snprintf(pages, sizeof(pages), "pages-%u.img", m->pages_id);
	if (!r && source.spans.count)
		r = image_raw_open(parent->dir, pages, &source.stored);
	if (!r && source.stored && image_raw_size(source.stored) < m->size)
		r = -EBADMSG;
	struct page_source *slot = !r && source.stored ? VEC_PUSH(ret) : NULL;
	if (slot) {
		*slot = source;
		return 0;
	}
	r = r ? r : source.stored ? -ENOMEM : 0;
	image_raw_close(source.stored);
	VEC_FREE(&source.spans);
	return r;
}

/* One checkpoint further up: what it has, and what is then still to be found. */
static int find_in(struct restore *s, const char *name, size_t level, struct page_spans *wanted, struct page_sources *ret)
{
	struct page_spans left = {};
	struct pagemap m = {};
	struct parent *parent = NULL;
	int r = open_parent(s, level, &parent);

	if (r)
		return r;
	r = pagemap_read(parent->dir, name, &m);
	if (r == -ENOENT) {
		char text[160];
		snprintf(text, sizeof(text), "the parent checkpoint has no %s: it is of another process", name);
		return fail_chain(s, -EBADMSG, text, parent->dir, level);
	}
	size_t before = ret->count;
	if (!r)
		r = add_source(s, parent, &m, wanted, ret);
	if (!r)
		r = spans_common(wanted, &m.in_parent, &left);
	if (!r && (ret->count > before ? total(&ret->data[before].spans) : 0) + total(&left) != total(wanted))
		r = error_set(s->e, -EBADMSG, "%s refers to pages that its parent checkpoint does not have: the checkpoint is damaged", name);
	else if (r)
		r = error_errno(s->e, r, "%s of the parent checkpoint is damaged, or its pages are missing", name);
	pagemap_finish(&m);
	VEC_FREE(wanted);
	*wanted = left;
	return r;
}

int parents_find(struct restore *s, const char *name, const struct page_spans *wanted, struct page_sources *ret)
{
	struct page_spans left = {};
	int r = spans_common(wanted, wanted, &left);

	if (r)
		return error_set(s->e, -ENOMEM, "out of memory");
	for (size_t level = 0; !r && left.count; level++)
		r = find_in(s, name, level, &left, ret);
	VEC_FREE(&left);
	return r;
}
