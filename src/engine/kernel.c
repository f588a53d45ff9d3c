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

/* What the program is given, and what it gives back. */
struct context {
	uint64_t address, size;
	uint64_t task; /* the caller's task_struct */
	int64_t result;
};

/* Where each type stands among all, by its id: of the first `count`; the others when they are asked for. */
struct index {
	uint32_t *at;
	size_t capacity;
	uint32_t count, end;
	/* What was asked for: names that the program has anyway. */
	struct {
		const char *type, *member;
		int offset;
	} known[KNOWN_MAX];
	size_t known_count;
};

struct kernel {
	char *text;
	size_t size;
	bool is_mapped; /* `text` is the kernel's own */
	const char *types, *strings;
	uint32_t types_size, strings_size;
	struct index *index;
	int map, program;
	char *window; /* the map's memory: a page */
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

static int find_member(const struct kernel *k, const struct btf_type *t, const char *path, int depth)
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
			r = find_member(k, inner, path + length + 1, depth - 1);
		else if (!m[i].name_off && has_members(inner) && depth)
			r = find_member(k, inner, path, depth - 1);
		if (r >= 0)
			return r + (int)(bits / 8);
	}
	return -ENOENT;
}

static int find_offset(const struct kernel *k, const char *type, const char *member)
{
	const struct btf_type *t;

	for (uint32_t id = 1; (t = type_at(k, id)); id++) {
		if (BTF_INFO_KIND(t->info) == BTF_KIND_STRUCT && !strcmp(name_of(k, t->name_off), type))
			return find_member(k, t, member, 4);
	}
	return -ENOENT;
}

int kernel_enumerator(const struct kernel *k, const char *type, const char *name)
{
	const struct btf_type *t;

	for (uint32_t id = 1; (t = type_at(k, id)); id++) {
		const struct btf_enum *e = (const struct btf_enum *)(t + 1);
		if (BTF_INFO_KIND(t->info) != BTF_KIND_ENUM || strcmp(name_of(k, t->name_off), type))
			continue;
		for (size_t i = 0; i < BTF_INFO_VLEN(t->info); i++)
			if (!strcmp(name_of(k, e[i].name_off), name))
				return e[i].val < 0 ? -ENOENT : e[i].val;
	}
	return -ENOENT;
}

bool kernel_is_pointer(const struct kernel *k, const char *type, const char *member)
{
	const struct btf_type *t;

	for (uint32_t id = 1; (t = type_at(k, id)); id++) {
		const struct btf_member *m = (const struct btf_member *)(t + 1);
		if (BTF_INFO_KIND(t->info) != BTF_KIND_STRUCT || strcmp(name_of(k, t->name_off), type))
			continue;
		for (size_t i = 0; i < BTF_INFO_VLEN(t->info); i++) {
			const struct btf_type *of = strcmp(name_of(k, m[i].name_off), member) ? NULL : type_at(k, m[i].type);
			if (of)
				return BTF_INFO_KIND(of->info) == BTF_KIND_PTR;
		}
		return false;
	}
	return false;
}

int kernel_offset(const struct kernel *k, const char *type, const char *member)
{
	struct index *x = k->index;

	for (size_t i = 0; i < x->known_count; i++)
		if (!strcmp(x->known[i].type, type) && !strcmp(x->known[i].member, member))
			return x->known[i].offset;
	int offset = find_offset(k, type, member);
	if (x->known_count < KNOWN_MAX) {
		x->known[x->known_count].type = type;
		x->known[x->known_count].member = member;
		x->known[x->known_count++].offset = offset;
	}
	return offset;
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
#define LOAD(to, field) INSN(BPF_LDX | BPF_MEM | BPF_DW, to, BPF_REG_6, offsetof(struct context, field), 0)
#define STORE(field, from) INSN(BPF_STX | BPF_MEM | BPF_DW, BPF_REG_6, from, offsetof(struct context, field), 0)
#define CALL(function) INSN(BPF_JMP | BPF_CALL, 0, 0, 0, function)

static int load_program(struct kernel *k)
{
	const struct bpf_insn code[] = {
		INSN(BPF_ALU64 | BPF_MOV | BPF_X, BPF_REG_6, BPF_REG_1, 0, 0),
		CALL(BPF_FUNC_get_current_task),
		STORE(task, BPF_REG_0),
		LOAD(BPF_REG_3, address),
		LOAD(BPF_REG_2, size),
		INSN(BPF_JMP | BPF_JGT | BPF_K, BPF_REG_2, 0, 4, PAGE_SIZE),
		INSN(BPF_LD | BPF_IMM | BPF_DW, BPF_REG_1, BPF_PSEUDO_MAP_VALUE, 0, k->map),
		INSN(0, 0, 0, 0, 0),
		CALL(BPF_FUNC_probe_read_kernel),
		STORE(result, BPF_REG_0),
		INSN(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 0),
		INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
	};
	union bpf_attr attr = { .prog_type = BPF_PROG_TYPE_SYSCALL, .insns = (uint64_t)code, .insn_cnt = ARRAY_SIZE(code),
				.license = (uint64_t)"Dual MIT/GPL", .prog_flags = BPF_F_SLEEPABLE };

	return k->program = bpf(BPF_PROG_LOAD, &attr);
}

static int make_map(struct kernel *k)
{
	union bpf_attr attr = { .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = PAGE_SIZE, .max_entries = 1, .map_flags = BPF_F_MMAPABLE };

	k->map = bpf(BPF_MAP_CREATE, &attr);
	if (k->map < 0)
		return k->map;
	k->window = mmap(NULL, PAGE_SIZE, PROT_READ, MAP_SHARED, k->map, 0);
	if (k->window != MAP_FAILED)
		return 0;
	k->window = NULL;
	return -errno;
}

static int run(struct kernel *k, struct context *c)
{
	union bpf_attr attr = { .test = { .prog_fd = (uint32_t)k->program, .ctx_in = (uint64_t)c, .ctx_size_in = sizeof(*c) } };

	return bpf(BPF_PROG_TEST_RUN, &attr);
}

int kernel_read(struct kernel *k, uint64_t address, void *to, size_t size)
{
	struct context c = { .address = address, .size = size, .result = -EFAULT };
	int r = size > PAGE_SIZE ? -EINVAL : run(k, &c);

	if (r)
		return r;
	if (c.result)
		return (int)c.result;
	memcpy(to, k->window, size);
	return 0;
}

static int follow(struct kernel *k, uint64_t *at, const char *type, const char *member)
{
	int offset = kernel_offset(k, type, member);

	return offset < 0 ? offset : kernel_read(k, *at + (uint64_t)offset, at, sizeof(*at));
}

int kernel_file(struct kernel *k, int fd, uint64_t *ret)
{
	struct context c = { .size = 0 };
	int r = run(k, &c);
	uint64_t at = c.task;

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
	if (k->window)
		munmap(k->window, PAGE_SIZE);
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
