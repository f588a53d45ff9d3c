/* See vdso_patch.h. */
#include "engine/memory/vdso_patch.h"

#include "base/base.h"

#include <asm/unistd.h>
#include <elf.h>

#define JUMP_SIZE 13
#define CALL_SIZE 8
#define SYMBOLS_MAX 4096

/* The functions that an image has. */
struct functions {
	const unsigned char *image;
	size_t size, count;
	const Elf64_Sym *symbols;
	const char *names;
	size_t names_size;
};

static bool holds(size_t size, uint64_t start, uint64_t length)
{
	return start <= size && length <= size - start;
}

size_t vdso_image_size(const void *image, size_t size)
{
	const Elf64_Ehdr *head = image;

	if (size < sizeof(*head) || memcmp(head->e_ident, ELFMAG, SELFMAG) || head->e_ident[EI_CLASS] != ELFCLASS64 ||
	    head->e_shentsize != sizeof(Elf64_Shdr))
		return 0;
	uint64_t length = (uint64_t)head->e_shnum * sizeof(Elf64_Shdr);
	return head->e_shoff % 8 == 0 && head->e_shoff <= 1 << 20 ? head->e_shoff + length : 0;
}

static bool find_functions(const void *image, size_t size, struct functions *ret)
{
	const Elf64_Ehdr *head = image;
	size_t needed = vdso_image_size(image, size);

	if (!needed || needed > size)
		return false;
	const Elf64_Shdr *sections = (const void *)((const char *)image + head->e_shoff);
	for (size_t i = 0; i < head->e_shnum; i++) {
		const Elf64_Shdr *s = &sections[i];
		if (s->sh_type != SHT_DYNSYM)
			continue;
		if (s->sh_link >= head->e_shnum || s->sh_entsize != sizeof(Elf64_Sym) || s->sh_offset % 8 || !holds(size, s->sh_offset, s->sh_size))
			return false;
		const Elf64_Shdr *names = &sections[s->sh_link];
		if (!holds(size, names->sh_offset, names->sh_size) || !names->sh_size)
			return false;
		*ret = (struct functions){ .image = image, .size = size, .count = MIN(s->sh_size / sizeof(Elf64_Sym), (uint64_t)SYMBOLS_MAX),
					   .symbols = (const void *)((const char *)image + s->sh_offset),
					   .names = (const char *)image + names->sh_offset, .names_size = names->sh_size };
		return ret->names[ret->names_size - 1] == '\0';
	}
	return false;
}

/* The name of a function that the image defines, or NULL. */
static const char *function_name(const struct functions *f, size_t i)
{
	const Elf64_Sym *s = &f->symbols[i];

	if (ELF64_ST_TYPE(s->st_info) != STT_FUNC || s->st_shndx == SHN_UNDEF || s->st_name >= f->names_size)
		return NULL;
	return holds(f->size, s->st_value, 1) ? f->names + s->st_name : NULL;
}

static uint64_t find_function(const struct functions *f, const char *name)
{
	for (size_t i = 0; i < f->count; i++) {
		const char *is = function_name(f, i);
		if (is && !strcmp(is, name))
			return f->symbols[i].st_value;
	}
	return 0;
}

/* Bytes from a function's start up to the next one's, or to the end of its section. */
static uint64_t room_of(const struct functions *f, const Elf64_Sym *function)
{
	const Elf64_Ehdr *head = (const void *)f->image;
	const Elf64_Shdr *sections = (const void *)(f->image + head->e_shoff);
	uint64_t start = function->st_value, end = start;

	if (function->st_shndx < head->e_shnum) {
		const Elf64_Shdr *s = &sections[function->st_shndx];
		if (holds(f->size, s->sh_addr, s->sh_size))
			end = s->sh_addr + s->sh_size;
	}
	for (size_t i = 0; i < f->count; i++)
		if (function_name(f, i) && f->symbols[i].st_value > start)
			end = MIN(end, f->symbols[i].st_value);
	return end > start ? end - start : 0;
}

/* The system call that a function stands for; -1: none does the same. */
static long call_of(const char *name)
{
	static const struct {
		const char *name;
		long nr;
	} rows[] = {
		{ "clock_gettime", __NR_clock_gettime }, { "gettimeofday", __NR_gettimeofday }, { "time", __NR_time },
		{ "getcpu", __NR_getcpu },		 { "clock_getres", __NR_clock_getres }, { "getrandom", 318 /* since Linux 3.17 */ },
	};

	if (!strncmp(name, "__vdso_", 7))
		name += 7;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		if (!strcmp(name, rows[i].name))
			return rows[i].nr;
	return -1;
}

static void write_jump(unsigned char *at, uint64_t to)
{
	memcpy(at, "\x49\xbb", 2); /* mov $to, %r11; jmp *%r11: a register that no caller relies on */
	memcpy(at + 2, &to, 8);
	memcpy(at + 10, "\x41\xff\xe3", 3);
}

static void write_call(unsigned char *at, long nr)
{
	uint32_t number = (uint32_t)nr;

	at[0] = 0xb8; /* mov $nr, %eax; syscall; ret: none of them has more than three arguments that differ */
	memcpy(at + 1, &number, 4);
	memcpy(at + 5, "\x0f\x05\xc3", 3);
}

int vdso_patch(void *image, size_t size, const void *now, size_t now_size, uint64_t now_at, struct error *e)
{
	struct functions old = {}, new = {};
	unsigned char *code = image;

	if (!find_functions(image, size, &old))
		return error_set(e, -EBADMSG, "the vdso in the checkpoint is no vdso");
	if (!find_functions(now, now_size, &new))
		return error_set(e, -ENOTSUP, "this kernel's vdso can't be read");
	for (size_t i = 0; i < old.count; i++) {
		const char *name = function_name(&old, i);
		if (!name)
			continue;
		uint64_t to = find_function(&new, name), at = old.symbols[i].st_value;
		long nr = call_of(name);
		if (!to && nr < 0)
			return error_set(e, -ENOTSUP, "the vdso at the dump had %s, which this kernel lacks; restore on a kernel that has it", name);
		if (room_of(&old, &old.symbols[i]) < (to ? JUMP_SIZE : CALL_SIZE))
			return error_set(e, -ENOTSUP, "%s of the vdso at the dump is too short to lead to this kernel's", name);
		if (to)
			write_jump(code + at, now_at + to);
		else
			write_call(code + at, nr);
	}
	return 0;
}
