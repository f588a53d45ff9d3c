/* See areas.h. Maple trees: Documentation/core-api/maple_tree.rst and include/linux/maple_tree.h of the kernel. */
#include "engine/task/areas.h"

#include <sys/mman.h>

#define NODE_SIZE 256
#define NODE_MASK 0xffUL
#define TYPE_SHIFT 3
#define TYPE_MASK 0xfUL
#define RESERVED_MAX 4096UL /* entries that are no addresses */
#define NODES_MAX (1U << 16)
#define AREAS_MAX (1U << 20)
#define PLACE_NODES PAGE_SIZE
#define SLOT_ADDRESS(i) (64U + 8 * (unsigned)(i))

/* What has stood at the same bits since before Linux 5.14, and is usual. */
static const struct {
	uint64_t bit, flag;
} usual[] = {
	{ 0x1, PROC_VMF_RD },	     { 0x2, PROC_VMF_WR },	  { 0x4, PROC_VMF_EX },	       { 0x8, PROC_VMF_SH },	    { 0x10, PROC_VMF_MR },
	{ 0x20, PROC_VMF_MW },	     { 0x40, PROC_VMF_ME },	  { 0x80, PROC_VMF_MS },       { 0x100, PROC_VMF_GD },	    { 0x400, PROC_VMF_PF },
	{ 0x4000, PROC_VMF_IO },     { 0x8000, PROC_VMF_SR },	  { 0x10000, PROC_VMF_RR },    { 0x20000, PROC_VMF_DC },    { 0x40000, PROC_VMF_DE },
	{ 0x100000, PROC_VMF_AC },   { 0x200000, PROC_VMF_NR },	  { 0x800000, PROC_VMF_SF },   { 0x2000000, PROC_VMF_WF },  { 0x4000000, PROC_VMF_DD },
	{ 0x8000000, PROC_VMF_SD },  { 0x10000000, PROC_VMF_MM }, { 0x20000000, PROC_VMF_HG }, { 0x40000000, PROC_VMF_NH },
};

static bool find_shape(struct kernel *k, const char *node, const char *type, struct areas_shape *s)
{
	s->type = kernel_enumerator(k, "maple_type", type);
	s->pivot = kernel_offset(k, node, "pivot");
	s->slot = kernel_offset(k, node, "slot");
	const int size = kernel_size(k, node, "slot"), pivots = kernel_size(k, node, "pivot");
	s->slots = (size_t)(size / 8);
	return s->type >= 0 && s->pivot >= 0 && s->slot >= 0 && size > 0 && pivots == size - 8 && s->slot + size <= NODE_SIZE && s->pivot + pivots <= NODE_SIZE;
}

int areas_find_layout(struct kernel *k, struct areas_layout *l)
{
	l->root = kernel_offset(k, "mm_struct", "mm_mt.ma_root");
	l->start = kernel_offset(k, "vm_area_struct", "vm_start");
	l->end = kernel_offset(k, "vm_area_struct", "vm_end");
	l->flags = kernel_offset(k, "vm_area_struct", "vm_flags");
	if (l->root < 0 || l->start < 0 || l->end < 0 || l->flags < 0 || kernel_size(k, "vm_area_struct", "vm_flags") != 8)
		return -ENOTSUP;
	l->from = MIN(l->start, MIN(l->end, l->flags));
	l->size = MAX(l->start, MAX(l->end, l->flags)) + 8 - l->from;
	return l->size <= NODE_SIZE && find_shape(k, "maple_range_64", "maple_leaf_64", &l->leaf) && find_shape(k, "maple_range_64", "maple_range_64", &l->range) &&
			       find_shape(k, "maple_arange_64", "maple_arange_64", &l->allocation) ?
		       0 :
		       -ENOTSUP;
}

/* An entry of a node, and the last address that it is for. */
struct entry {
	uint64_t address, last;
};
struct entries {
	struct entry *data;
	size_t count, capacity;
};

/* Reads `size` bytes behind each of these addresses, as many at a time as there can be. */
static int read_some(struct kernel *k, const struct entry *e, size_t count, int64_t offset, size_t size)
{
	struct kernel_piece piece[KERNEL_PIECES];

	for (size_t i = 0; i < count; i++) {
		memcpy(kernel_window(k) + SLOT_ADDRESS(i), &e[i].address, 8);
		piece[i] = (struct kernel_piece){ SLOT_ADDRESS(i), (int32_t)offset, (uint32_t)size, (uint32_t)(PLACE_NODES + NODE_SIZE * i) };
	}
	return kernel_read_pieces(k, piece, count);
}

/* What a node holds, of which the last entry ends where the node does. */
static int take_node(const char *node, const struct areas_shape *s, uint64_t last, struct entries *to)
{
	for (size_t i = 0; i < s->slots; i++) {
		uint64_t slot, pivot = 0;
		memcpy(&slot, node + s->slot + 8 * i, 8);
		if (i + 1 < s->slots)
			memcpy(&pivot, node + s->pivot + 8 * i, 8);
		const bool is_last = i + 1 == s->slots || (i && !pivot) || pivot >= last;
		if (slot) {
			struct entry *e = slot > RESERVED_MAX ? VEC_PUSH(to) : NULL;
			if (!e)
				return slot > RESERVED_MAX ? -ENOMEM : -EBADMSG;
			*e = (struct entry){ slot, is_last ? last : pivot };
		}
		if (is_last)
			return 0;
	}
	return -EBADMSG;
}

static const struct areas_shape *shape_of(const struct areas_layout *l, uint64_t entry)
{
	const struct areas_shape *shapes[] = { &l->leaf, &l->range, &l->allocation };

	for (size_t i = 0; i < ARRAY_SIZE(shapes); i++)
		if ((int)(entry >> TYPE_SHIFT & TYPE_MASK) == shapes[i]->type)
			return shapes[i];
	return NULL;
}

/* From all nodes of one depth to what they hold; *ret_leaves: those are areas. */
static int descend(struct kernel *k, const struct areas_layout *l, const struct entries *from, struct entries *to, bool *ret_leaves)
{
	for (size_t done = 0, n; done < from->count; done += n) {
		struct entry nodes[KERNEL_PIECES];
		n = MIN(from->count - done, (size_t)KERNEL_PIECES);
		for (size_t i = 0; i < n; i++)
			nodes[i] = (struct entry){ from->data[done + i].address & ~NODE_MASK, 0 };
		int r = read_some(k, nodes, n, 0, NODE_SIZE);
		for (size_t i = 0; !r && i < n; i++) {
			const struct entry *e = &from->data[done + i];
			const struct areas_shape *s = shape_of(l, e->address);
			r = s ? take_node(kernel_window(k) + PLACE_NODES + NODE_SIZE * i, s, e->last, to) : -EBADMSG;
			*ret_leaves = s == &l->leaf;
		}
		if (r)
			return r;
	}
	return to->count > AREAS_MAX ? -EBADMSG : 0;
}

static int find_areas(struct kernel *k, const struct areas_layout *l, uint64_t mm, struct entries *ret)
{
	struct entries nodes = {};
	bool leaves = false;
	uint64_t root;
	int r = kernel_read(k, mm + (uint64_t)l->root, &root, sizeof(root));
	struct entry *first = r ? NULL : VEC_PUSH(&nodes);

	if (!first)
		return r ? r : -ENOMEM;
	*first = (struct entry){ root, UINT64_MAX };
	if (root <= RESERVED_MAX || (root & 3) != 2)
		r = -EBADMSG;
	for (int depth = 0; !r && !leaves; depth++) {
		struct entries below = {};
		r = depth < 16 && nodes.count < NODES_MAX ? descend(k, l, &nodes, &below, &leaves) : -EBADMSG;
		VEC_FREE(&nodes);
		nodes = below;
	}
	if (r)
		VEC_FREE(&nodes);
	else
		*ret = nodes;
	return r;
}

static bool decode(uint64_t bits, uint64_t *ret)
{
	*ret = 0;
	for (size_t i = 0; i < ARRAY_SIZE(usual); i++)
		if (bits & usual[i].bit) {
			*ret |= usual[i].flag;
			bits &= ~usual[i].bit;
		}
	return !bits;
}

int areas_walk(struct kernel *k, const struct areas_layout *l, uint64_t mm, struct areas *ret)
{
	struct entries found = {};
	struct areas areas = {};
	int r = find_areas(k, l, mm, &found);

	for (size_t done = 0, n; !r && done < found.count; done += n) {
		n = MIN(found.count - done, (size_t)KERNEL_PIECES);
		r = read_some(k, &found.data[done], n, l->from, (size_t)l->size);
		for (size_t i = 0; !r && i < n; i++) {
			const char *area = kernel_window(k) + PLACE_NODES + NODE_SIZE * i - l->from;
			struct area *a = VEC_PUSH(&areas);
			if (!a) {
				r = -ENOMEM;
				break;
			}
			memcpy(&a->start, area + l->start, 8);
			memcpy(&a->end, area + l->end, 8);
			memcpy(&a->flags, area + l->flags, 8);
		}
	}
	VEC_FREE(&found);
	if (r)
		VEC_FREE(&areas);
	else
		*ret = areas;
	return r;
}

int areas_read(struct kernel *k, const struct areas_layout *l, uint64_t mm, struct areas *ret)
{
	struct areas areas = {};
	uint64_t flags;
	int r = areas_walk(k, l, mm, &areas);

	for (size_t i = 0; !r && i < areas.count; i++)
		r = decode(areas.data[i].flags, &flags) ? 0 : -ENOTSUP;
	if (r)
		VEC_FREE(&areas);
	else
		*ret = areas;
	return r;
}

int areas_read_maps(pid_t pid, const struct areas *a, struct proc_maps *ret)
{
	struct proc_maps maps = {};
	int r = proc_read_maps(pid, &maps);

	/* The last of them may be the vsyscall page, which is no area. */
	if (!r && (maps.count < a->count || maps.count > a->count + 1))
		r = -EBADMSG;
	for (size_t i = 0; !r && i < a->count; i++) {
		struct proc_vma *v = &maps.data[i];
		if (v->start != a->data[i].start || v->end != a->data[i].end || !decode(a->data[i].flags, &v->vmflags))
			r = -EBADMSG;
	}
	if (r)
		proc_maps_finish(&maps);
	else
		*ret = maps;
	return r;
}

/* ---- ourselves ---- */

#define TRIES 3 /* memory that is taken meanwhile changes them */

static bool is_right(struct kernel *k, const struct areas_layout *l)
{
	const int mm_at = kernel_offset(k, "task_struct", "mm");
	struct areas areas = {};
	struct proc_maps told = {}, seen = {};
	uint64_t mm, all = 0;

	for (size_t i = 0; i < ARRAY_SIZE(usual); i++)
		all |= usual[i].flag;
	/* This takes the most memory, and so comes first. */
	bool right = mm_at >= 0 && !proc_read_smaps(getpid(), &told) && !kernel_self(k, &mm) &&
		     !kernel_read(k, mm + (uint64_t)mm_at, &mm, sizeof(mm)) && !areas_read(k, l, mm, &areas) && !areas_read_maps(getpid(), &areas, &seen) && told.count == seen.count;
	for (size_t i = 0; right && i < told.count; i++)
		right = i >= areas.count || (told.data[i].vmflags & all) == seen.data[i].vmflags;
	proc_maps_finish(&told);
	proc_maps_finish(&seen);
	VEC_FREE(&areas);
	return right;
}

struct areas_layout *areas_find_checked(struct kernel *k)
{
	static const int advice[][3] = { { MADV_DONTFORK, MADV_DONTDUMP, MADV_NOHUGEPAGE }, { MADV_WIPEONFORK, MADV_RANDOM, MADV_HUGEPAGE },
					 { MADV_SEQUENTIAL, MADV_SEQUENTIAL, MADV_SEQUENTIAL } };
	const size_t size = ARRAY_SIZE(advice) * PAGE_SIZE;
	struct areas_layout *l = calloc(1, sizeof(*l));
	/* Areas with flags that we would not have otherwise; what this kernel does not have can't be compared, nor do others have it. */
	char *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	bool right = false;

	for (size_t i = 0; pages != MAP_FAILED && i < size / PAGE_SIZE * 3; i++)
		(void)madvise(pages + i / 3 * PAGE_SIZE, PAGE_SIZE, advice[i / 3][i % 3]);
	if (l && pages != MAP_FAILED && !areas_find_layout(k, l))
		for (int i = 0; !right && i < TRIES; i++)
			right = is_right(k, l);
	if (pages != MAP_FAILED)
		munmap(pages, size);
	if (right)
		return l;
	free(l);
	return NULL;
}
