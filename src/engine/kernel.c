/* See kernel.h. */
#include "engine/kernel.h"

#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/btf.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define BTF_PATH "/sys/kernel/btf/vmlinux"
#define BTF_MAX (256UL << 20)
#define TYPES_MAX (1U << 22)
#define TRIES 10
#define KNOWN_MAX 128
#define TYPES_KNOWN_MAX 48

/* What the program is given, and what it gives back: whether some piece can't be read. */
struct context {
	uint64_t count, failed;
};

/* The memory that we share with it: the pieces, then the window, with room for one that begins at its end. */
#define PIECES_SIZE (KERNEL_PIECES * sizeof(struct kernel_piece))
#define WINDOW_AT ALIGN_UP(PIECES_SIZE, PAGE_SIZE)
#define MAP_SIZE (WINDOW_AT + KERNEL_WINDOW + ALIGN_UP(KERNEL_PIECE_MAX, PAGE_SIZE))
/* kernel_read's, in the window. */
#define ADDRESS_AT 8
#define DATA_AT 16

/* Where each type stands among all, by its id: of the first `count`; the others when they are asked for. */
struct index {
	uint32_t *at;
	size_t capacity;
	uint32_t count, end;
	/* What was asked for: names that the program has anyway. */
	struct {
		const char *type, *member;
		int bits;
	} known[KNOWN_MAX];
	size_t known_count;
	struct {
		const char *name;
		uint32_t id; /* 0: there is none */
	} types[TYPES_KNOWN_MAX];
	size_t types_count;
};

struct kernel {
	char *text;
	size_t size;
	bool is_mapped; /* `text` is the kernel's own */
	const char *types, *strings;
	uint32_t types_size, strings_size;
	struct index *index;
	int map, program;
	char *shared; /* the map's memory */
};

/* ---- layout ---- */

static const char *name_of(const struct kernel *k, uint32_t offset)
{
	return offset < k->strings_size ? k->strings + offset : "";
}

/* Bytes behind the head of a type. */
static size_t tail_size(const struct btf_type *t)
{
	const size_t n = BTF_INFO_VLEN(t->info);

	switch (BTF_INFO_KIND(t->info)) {
	case BTF_KIND_INT:
	case BTF_KIND_VAR:
	case BTF_KIND_DECL_TAG:
		return 4;
	case BTF_KIND_ARRAY:
		return sizeof(struct btf_array);
	case BTF_KIND_STRUCT:
	case BTF_KIND_UNION:
		return n * sizeof(struct btf_member);
	case BTF_KIND_ENUM:
	case BTF_KIND_FUNC_PROTO:
		return n * 8;
	case BTF_KIND_DATASEC:
	case BTF_KIND_ENUM64:
		return n * 12;
	default:
		return 0;
	}
}

/* NULL: there is none, or what there is is damaged. */
static const struct btf_type *type_at(const struct kernel *k, uint32_t id)
{
	struct index *i = k->index;

	for (; i->count <= id && i->end < k->types_size; i->count++) {
		const uint32_t at = i->end;
		const struct btf_type *t = (const struct btf_type *)(k->types + at);
		if (k->types_size - at < sizeof(*t) || k->types_size - at - sizeof(*t) < tail_size(t) || i->count >= TYPES_MAX ||
		    !vec_reserve((void **)&i->at, &i->capacity, i->count + 1, sizeof(*i->at)))
			return NULL;
		i->at[i->count] = at;
		i->end += (uint32_t)(sizeof(*t) + tail_size(t));
	}
	return id && id < i->count ? (const struct btf_type *)(k->types + i->at[id]) : NULL;
}

/* The file can be mapped (Linux 6.16), or is read. */
static int get_text(struct kernel *k)
{
	_cleanup_close_ int fd = open(BTF_PATH, O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0)
		return errno == ENOENT ? -ENOTSUP : -errno;
	if (fstat(fd, &st) == 0 && st.st_size > 0 && st.st_size <= (off_t)BTF_MAX) {
		k->size = (size_t)st.st_size;
		k->text = mmap(NULL, k->size, PROT_READ, MAP_PRIVATE, fd, 0);
		k->is_mapped = k->text != MAP_FAILED;
	}
	if (!k->is_mapped)
		k->text = NULL;
	return k->is_mapped ? 0 : read_file_at(AT_FDCWD, BTF_PATH, BTF_MAX, &k->text, &k->size);
}

static int read_layout(struct kernel *k)
{
	const struct btf_header *h;
	int r = get_text(k);

	if (r)
		return r;
	h = (const struct btf_header *)k->text;
	if (k->size < sizeof(*h) || h->magic != BTF_MAGIC || h->hdr_len > k->size || (uint64_t)h->type_off + h->type_len > k->size - h->hdr_len ||
	    !h->str_len || (uint64_t)h->str_off + h->str_len > k->size - h->hdr_len)
		return -EBADMSG;
	k->types = k->text + h->hdr_len + h->type_off;
	k->types_size = h->type_len;
	k->strings = k->text + h->hdr_len + h->str_off;
	k->strings_size = h->str_len;
	k->index = calloc(1, sizeof(*k->index));
	if (!k->index)
		return -ENOMEM;
	k->index->count = 1; /* 0 is void */
	return k->strings[k->strings_size - 1] ? -EBADMSG : 0;
}

/* Behind typedefs and qualifiers. */
static const struct btf_type *bare_type(const struct kernel *k, uint32_t id)
{
	const struct btf_type *t = type_at(k, id);

	for (int i = 0; t && i < 8; i++) {
		const uint32_t kind = BTF_INFO_KIND(t->info);
		if (kind != BTF_KIND_TYPEDEF && kind != BTF_KIND_CONST && kind != BTF_KIND_VOLATILE)
			break;
		t = type_at(k, t->type);
	}
	return t;
}

static bool has_members(const struct btf_type *t)
{
	return t && (BTF_INFO_KIND(t->info) == BTF_KIND_STRUCT || BTF_INFO_KIND(t->info) == BTF_KIND_UNION);
}

/* In bits, and its type. */
static int find_member(const struct kernel *k, const struct btf_type *t, const char *path, int depth, uint32_t *ret_type)
{
	const struct btf_member *m = (const struct btf_member *)(t + 1);
	const bool fields = BTF_INFO_KFLAG(t->info);
	const size_t length = strcspn(path, ".");

	for (size_t i = 0; i < BTF_INFO_VLEN(t->info); i++) {
		uint32_t bits = fields ? BTF_MEMBER_BIT_OFFSET(m[i].offset) : m[i].offset;
		const struct btf_type *inner = bare_type(k, m[i].type);
		const char *name = name_of(k, m[i].name_off);
		const bool found = m[i].name_off && strlen(name) == length && !memcmp(name, path, length);
		int r = -ENOENT;
		if (found && !path[length])
			r = 0;
		else if (found && has_members(inner) && depth)
			r = find_member(k, inner, path + length + 1, depth - 1, ret_type);
		else if (!m[i].name_off && has_members(inner) && depth)
			r = find_member(k, inner, path, depth - 1, ret_type);
		if (r >= 0) {
			if (!path[length] && found)
				*ret_type = m[i].type;
			return r + (int)bits;
		}
	}
	return -ENOENT;
}

/* Structs that nearly every dump asks for: all are found by going through the types once. */
static void learn(const struct kernel *k)
{
	static const char *const names[] = { "task_struct", "mm_struct", "pid", "cred", "signal_struct", "sighand_struct", "file", "inode",
					     "files_struct", "fdtable" };
	struct index *x = k->index;
	const struct btf_type *t;

	for (uint32_t id = 1; x->types_count < ARRAY_SIZE(names) && (t = type_at(k, id)); id++) {
		const char *name = BTF_INFO_KIND(t->info) == BTF_KIND_STRUCT ? name_of(k, t->name_off) : "";
		for (size_t i = 0; name[0] && i < ARRAY_SIZE(names); i++)
			if (name[0] == names[i][0] && !strcmp(name, names[i])) {
				x->types[x->types_count].name = names[i];
				x->types[x->types_count++].id = id;
			}
	}
}

static const struct btf_type *find_struct(const struct kernel *k, const char *type)
{
	struct index *x = k->index;
	const struct btf_type *t;
	uint32_t id = 1;

	for (size_t i = 0; i < x->types_count; i++)
		if (!strcmp(x->types[i].name, type))
			return type_at(k, x->types[i].id);
	for (; (t = type_at(k, id)); id++)
		if (BTF_INFO_KIND(t->info) == BTF_KIND_STRUCT && !strcmp(name_of(k, t->name_off), type))
			break;
	if (x->types_count < TYPES_KNOWN_MAX) {
		x->types[x->types_count].name = type;
		x->types[x->types_count++].id = t ? id : 0;
	}
	return t;
}

/* By its name or, where that is NULL, by its value; in all enumerations of that name, of which "" is that of many. */
static const struct btf_enum *find_enumerator(const struct kernel *k, const char *type, const char *name, int value)
{
	const struct btf_type *t;

	for (uint32_t id = 1; (t = type_at(k, id)); id++) {
		const struct btf_enum *e = (const struct btf_enum *)(t + 1);
		if (BTF_INFO_KIND(t->info) != BTF_KIND_ENUM || strcmp(name_of(k, t->name_off), type))
			continue;
		for (size_t i = 0; i < BTF_INFO_VLEN(t->info); i++)
			if (name ? !strcmp(name_of(k, e[i].name_off), name) : e[i].val == value)
				return &e[i];
	}
	return NULL;
}

int kernel_enumerator(const struct kernel *k, const char *type, const char *name)
{
	const struct btf_enum *e = find_enumerator(k, type, name, 0);

	return e && e->val >= 0 ? e->val : -ENOENT;
}

const char *kernel_enumerator_name(const struct kernel *k, const char *type, int value)
{
	const struct btf_enum *e = find_enumerator(k, type, NULL, value);

	return e ? name_of(k, e->name_off) : NULL;
}

static int find(const struct kernel *k, const char *type, const char *member, uint32_t *ret_type)
{
	const struct btf_type *t = find_struct(k, type);

	return t ? find_member(k, t, member, 4, ret_type) : -ENOENT;
}

bool kernel_is_pointer(const struct kernel *k, const char *type, const char *member)
{
	uint32_t id = 0;
	const struct btf_type *of = find(k, type, member, &id) < 0 ? NULL : type_at(k, id);

	return of && BTF_INFO_KIND(of->info) == BTF_KIND_PTR;
}

int kernel_size(const struct kernel *k, const char *type, const char *member)
{
	uint32_t id = 0, count = 1;
	const struct btf_type *t = find(k, type, member, &id) < 0 ? NULL : bare_type(k, id);

	while (t && BTF_INFO_KIND(t->info) == BTF_KIND_ARRAY) {
		const struct btf_array *a = (const struct btf_array *)(t + 1);
		if (a->nelems > PAGE_SIZE)
			return -ENOENT;
		count *= a->nelems;
		t = bare_type(k, a->type);
	}
	const uint32_t kind = t ? BTF_INFO_KIND(t->info) : BTF_KIND_UNKN;
	if (kind == BTF_KIND_PTR)
		return (int)(count * sizeof(void *));
	return kind == BTF_KIND_INT || kind == BTF_KIND_ENUM || has_members(t) ? (int)(count * t->size) : -ENOENT;
}

int kernel_struct_size(const struct kernel *k, const char *type)
{
	const struct btf_type *t = find_struct(k, type);

	return t ? (int)t->size : -ENOENT;
}

int kernel_bit(const struct kernel *k, const char *type, const char *member)
{
	struct index *x = k->index;
	uint32_t unused;

	for (size_t i = 0; i < x->known_count; i++)
		if (!strcmp(x->known[i].type, type) && !strcmp(x->known[i].member, member))
			return x->known[i].bits;
	int bits = find(k, type, member, &unused);
	if (x->known_count < KNOWN_MAX) {
		x->known[x->known_count].type = type;
		x->known[x->known_count].member = member;
		x->known[x->known_count++].bits = bits;
	}
	return bits;
}

int kernel_offset(const struct kernel *k, const char *type, const char *member)
{
	int bits = kernel_bit(k, type, member);

	return bits < 0 ? bits : bits / 8;
}

/* ---- reading ---- */

static int bpf(int command, union bpf_attr *attr)
{
	int r, tries = 0;

	/* A signal that comes while a program is examined ends that. */
	do
		r = (int)syscall(__NR_bpf, command, attr, sizeof(*attr));
	while (r < 0 && (errno == EAGAIN || errno == EINTR) && ++tries < TRIES);
	return r < 0 ? -errno : r;
}

#define INSN(c, d, s, o, i) { .code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i) }
#define LOAD(size, to, from, at) INSN(BPF_LDX | BPF_MEM | (size), to, from, at, 0)
#define STORE(to, at, from) INSN(BPF_STX | BPF_MEM | BPF_DW, to, from, at, 0)
#define COPY(to, from) INSN(BPF_ALU64 | BPF_MOV | BPF_X, to, from, 0, 0)
#define SET(to, value) INSN(BPF_ALU64 | BPF_MOV | BPF_K, to, 0, 0, value)
#define MATH(op, to, value) INSN(BPF_ALU64 | (op) | BPF_K, to, 0, 0, value)
#define ADD(to, from) INSN(BPF_ALU64 | BPF_ADD | BPF_X, to, from, 0, 0)
#define CALL(function) INSN(BPF_JMP | BPF_CALL, 0, 0, 0, function)

/*
 * r6 the context, r7 the memory, r8 the number of the piece, r9 the piece. Whatever can't be read counts as failed, and the next is read all the same:
 * the fewer ways there are through it, the sooner the kernel has examined it, which it does as often as there may be pieces.
 */
static int load_program(struct kernel *k)
{
	const struct bpf_insn code[] = {
		COPY(BPF_REG_6, BPF_REG_1),
		INSN(BPF_LD | BPF_IMM | BPF_DW, BPF_REG_7, BPF_PSEUDO_MAP_VALUE, 0, k->map),
		INSN(0, 0, 0, 0, 0),
		CALL(BPF_FUNC_get_current_task),
		STORE(BPF_REG_7, WINDOW_AT, BPF_REG_0),
		SET(BPF_REG_8, 0),
		/* each piece: 6 */
		LOAD(BPF_DW, BPF_REG_1, BPF_REG_6, offsetof(struct context, count)),
		INSN(BPF_JMP | BPF_JGE | BPF_X, BPF_REG_8, BPF_REG_1, 23, 0),
		COPY(BPF_REG_9, BPF_REG_8),
		MATH(BPF_MUL, BPF_REG_9, sizeof(struct kernel_piece)),
		ADD(BPF_REG_9, BPF_REG_7),
		LOAD(BPF_W, BPF_REG_1, BPF_REG_9, offsetof(struct kernel_piece, base)),
		MATH(BPF_AND, BPF_REG_1, KERNEL_WINDOW - 1),
		ADD(BPF_REG_1, BPF_REG_7),
		LOAD(BPF_DW, BPF_REG_3, BPF_REG_1, WINDOW_AT),
		LOAD(BPF_W, BPF_REG_1, BPF_REG_9, offsetof(struct kernel_piece, offset)),
		MATH(BPF_LSH, BPF_REG_1, 32),
		MATH(BPF_ARSH, BPF_REG_1, 32),
		ADD(BPF_REG_3, BPF_REG_1),
		LOAD(BPF_W, BPF_REG_2, BPF_REG_9, offsetof(struct kernel_piece, size)),
		MATH(BPF_AND, BPF_REG_2, KERNEL_PIECE_MAX),
		LOAD(BPF_W, BPF_REG_1, BPF_REG_9, offsetof(struct kernel_piece, to)),
		MATH(BPF_AND, BPF_REG_1, KERNEL_WINDOW - 1),
		ADD(BPF_REG_1, BPF_REG_7),
		MATH(BPF_ADD, BPF_REG_1, WINDOW_AT),
		CALL(BPF_FUNC_probe_read_kernel),
		LOAD(BPF_DW, BPF_REG_1, BPF_REG_6, offsetof(struct context, failed)),
		INSN(BPF_ALU64 | BPF_OR | BPF_X, BPF_REG_1, BPF_REG_0, 0, 0),
		STORE(BPF_REG_6, offsetof(struct context, failed), BPF_REG_1),
		MATH(BPF_ADD, BPF_REG_8, 1),
		INSN(BPF_JMP | BPF_JLT | BPF_K, BPF_REG_8, 0, -25, KERNEL_PIECES),
		/* the end: 31 */
		SET(BPF_REG_0, 0),
		INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
	};
	union bpf_attr attr = { .prog_type = BPF_PROG_TYPE_SYSCALL, .insns = (uint64_t)code, .insn_cnt = ARRAY_SIZE(code),
				.license = (uint64_t)"Dual MIT/GPL", .prog_flags = BPF_F_SLEEPABLE };

	return k->program = bpf(BPF_PROG_LOAD, &attr);
}

static int make_map(struct kernel *k)
{
	union bpf_attr attr = { .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = MAP_SIZE, .max_entries = 1, .map_flags = BPF_F_MMAPABLE };

	k->map = bpf(BPF_MAP_CREATE, &attr);
	if (k->map < 0)
		return k->map;
	k->shared = mmap(NULL, MAP_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, k->map, 0);
	if (k->shared != MAP_FAILED)
		return 0;
	k->shared = NULL;
	return -errno;
}

char *kernel_window(struct kernel *k)
{
	return k->shared + WINDOW_AT;
}

static int run(struct kernel *k, size_t count)
{
	struct context c = { .count = count };
	union bpf_attr attr = { .test = { .prog_fd = (uint32_t)k->program, .ctx_in = (uint64_t)&c, .ctx_size_in = sizeof(c) } };
	int r = bpf(BPF_PROG_TEST_RUN, &attr);

	return r ? r : c.failed ? -EFAULT : 0;
}

int kernel_read_pieces(struct kernel *k, const struct kernel_piece *pieces, size_t count)
{
	if (count > KERNEL_PIECES)
		return -EINVAL;
	memcpy(k->shared, pieces, count * sizeof(*pieces));
	return run(k, count);
}

int kernel_read(struct kernel *k, uint64_t address, void *to, size_t size)
{
	const struct kernel_piece piece = { .base = ADDRESS_AT, .size = (uint32_t)size, .to = DATA_AT };

	if (size > KERNEL_PIECE_MAX)
		return -EINVAL;
	memcpy(kernel_window(k) + ADDRESS_AT, &address, sizeof(address));
	int r = kernel_read_pieces(k, &piece, 1);
	if (!r)
		memcpy(to, kernel_window(k) + DATA_AT, size);
	return r;
}

static int follow(struct kernel *k, uint64_t *at, const char *type, const char *member)
{
	int offset = kernel_offset(k, type, member);

	return offset < 0 ? offset : kernel_read(k, *at + (uint64_t)offset, at, sizeof(*at));
}

int kernel_self(struct kernel *k, uint64_t *ret)
{
	int r = run(k, 0);

	memcpy(ret, kernel_window(k), sizeof(*ret));
	return r;
}

int kernel_file(struct kernel *k, int fd, uint64_t *ret)
{
	uint64_t at;
	int r = kernel_self(k, &at);

	if (!r)
		r = follow(k, &at, "task_struct", "files");
	if (!r)
		r = follow(k, &at, "files_struct", "fdt");
	if (!r)
		r = follow(k, &at, "fdtable", "fd");
	if (!r)
		r = kernel_read(k, at + (uint64_t)fd * 8, &at, sizeof(at));
	*ret = at;
	return r;
}

int kernel_task(struct kernel *k, int fd, const char *comm, uint64_t *ret)
{
	const int inode = kernel_offset(k, "proc_inode", "vfs_inode"), pid = kernel_offset(k, "proc_inode", "pid");
	const int links = kernel_offset(k, "task_struct", "pid_links"), name = kernel_offset(k, "task_struct", "comm");
	char found[16];
	uint64_t at;
	int r = inode < 0 || pid < 0 || links < 0 || name < 0 ? -ENOTSUP : kernel_file(k, fd, &at);

	if (!r)
		r = follow(k, &at, "file", "f_inode");
	if (!r)
		r = kernel_read(k, at - (uint64_t)inode + (uint64_t)pid, &at, sizeof(at));
	if (!r)
		r = follow(k, &at, "pid", "tasks"); /* the first list: whose id it is */
	if (!r && !at)
		r = -ESRCH;
	if (!r)
		r = kernel_read(k, at - (uint64_t)links + (uint64_t)name, found, sizeof(found));
	if (!r && strncmp(found, comm, sizeof(found)))
		r = -EBADMSG;
	*ret = at - (uint64_t)links;
	return r;
}

int kernel_open(struct kernel **ret)
{
	struct kernel *k = calloc(1, sizeof(*k));

	if (!k)
		return -ENOMEM;
	k->map = k->program = -1;
	int r = read_layout(k);
	if (!r)
		learn(k);
	if (!r)
		r = make_map(k);
	if (!r)
		r = load_program(k);
	if (r < 0) {
		kernel_close(k);
		return r;
	}
	*ret = k;
	return 0;
}

void kernel_close(struct kernel *k)
{
	if (!k)
		return;
	if (k->shared)
		munmap(k->shared, MAP_SIZE);
	if (k->program >= 0)
		close(k->program);
	if (k->map >= 0)
		close(k->map);
	if (k->index)
		free(k->index->at);
	free(k->index);
	if (k->is_mapped)
		munmap(k->text, k->size);
	else
		free(k->text);
	free(k);
}
