/*
 * See validate.h. The build id is the note that the linker puts into an ELF file (NT_GNU_BUILD_ID), as bytes in words of 32 bits, the last
 * one filled up with zeroes.
 *
 * On dump the id of a mapped file is read from the memory it is mapped at: opening and reading the file would be told to whoever watches it,
 * maybe to the target. So that of an open file that is not mapped is read only where it can be run.
 */
#include "engine/kinds/validate.h"

#include "engine/task/task.h"

#include <elf.h>
#include <fcntl.h>

#define PERMISSIONS (S_IRWXU | S_IRWXG | S_IRWXO)
#define HEADERS_MAX 64
#define NOTES_MAX 4096

/* Where the bytes of a file are: at `fd`, or in a process. */
struct source {
	int fd;
	pid_t pid;
	uint64_t start, end;
};

static bool get(const struct source *s, uint64_t offset, void *to, size_t size)
{
	if (!s->pid)
		return pread(s->fd, to, size, (off_t)offset) == (ssize_t)size;
	return offset < s->end - s->start && size <= s->end - s->start - offset && !proc_peek(s->pid, s->start + offset, to, size);
}

static size_t find_note(const unsigned char *notes, size_t size, uint32_t id[BUILD_ID_WORDS])
{
	for (size_t at = 0; at + sizeof(Elf64_Nhdr) <= size;) {
		Elf64_Nhdr n;
		memcpy(&n, notes + at, sizeof(n));
		size_t name = at + sizeof(n), content = name + ALIGN_UP((size_t)n.n_namesz, 4UL);
		if (content > size || n.n_descsz > size - content)
			return 0;
		if (n.n_type == NT_GNU_BUILD_ID && n.n_namesz == 4 && !memcmp(notes + name, "GNU", 4) && n.n_descsz && n.n_descsz <= BUILD_ID_WORDS * 4) {
			memset(id, 0, BUILD_ID_WORDS * 4);
			memcpy(id, notes + content, n.n_descsz);
			return (n.n_descsz + 3) / 4;
		}
		at = content + ALIGN_UP((size_t)n.n_descsz, 4UL);
	}
	return 0;
}

static size_t read_build_id(const struct source *s, uint32_t id[BUILD_ID_WORDS])
{
	unsigned char notes[NOTES_MAX];
	Elf64_Ehdr head;
	Elf64_Phdr p;
	size_t n = 0;

	if (!get(s, 0, &head, sizeof(head)) || memcmp(head.e_ident, ELFMAG, SELFMAG) || head.e_ident[EI_CLASS] != ELFCLASS64 ||
	    head.e_phentsize != sizeof(p))
		return 0;
	for (size_t i = 0; !n && i < MIN(head.e_phnum, HEADERS_MAX); i++)
		if (get(s, head.e_phoff + i * sizeof(p), &p, sizeof(p)) && p.p_type == PT_NOTE && p.p_filesz <= sizeof(notes) &&
		    get(s, p.p_offset, notes, p.p_filesz))
			n = find_note(notes, p.p_filesz, id);
	return n;
}

size_t validate_file_build_id(int fd, uint32_t id[BUILD_ID_WORDS])
{
	const struct source s = { .fd = fd };

	return read_build_id(&s, id);
}

static bool wanted(const struct request *r)
{
	return !r->file_validation || strcmp(r->file_validation, "filesize");
}

size_t validate_read_build_id(struct dump *d, const struct descriptor *f, uint32_t id[BUILD_ID_WORDS])
{
	struct source s = { .fd = f->own_fd };

	if (!wanted(d->request) || !S_ISREG(f->st.st_mode))
		return 0;
	if (f->vma) {
		if (f->vma->pgoff)
			return 0;
		s = (struct source){ .pid = f->task->proc, .start = f->vma->start, .end = f->vma->end };
	} else if (f->fd < 0 || !(f->st.st_mode & 0111) || f->flags & O_PATH || (f->flags & O_ACCMODE) == O_WRONLY || f->flags & O_DIRECT) {
		return 0;
	}
	return read_build_id(&s, id);
}

/* One that the tree writes to may have grown meanwhile. */
static bool size_fits(const RegFileEntry *reg, const struct stat *st)
{
	bool writes = reg->flags & (O_WRONLY | O_RDWR) && !(reg->flags & O_PATH);

	return !reg->has_size || !S_ISREG(st->st_mode) || (uint64_t)st->st_size == reg->size || (writes && (uint64_t)st->st_size > reg->size);
}

static int check_build_id(struct restore *s, const RegFileEntry *reg, int fd)
{
	uint32_t id[BUILD_ID_WORDS];
	const struct source from = { .fd = fd };

	if (!reg->n_build_id || !wanted(s->request) || reg->flags & O_PATH)
		return 0;
	size_t n = read_build_id(&from, id);
	if (n == reg->n_build_id && !memcmp(id, reg->build_id, n * 4))
		return 0;
	return error_set(s->e, -ESTALE, "%s is another build than at the dump (its build id differs); put the old one back, or use --file-validation filesize",
			 reg->name);
}

int validate_unchanged(struct restore *s, const RegFileEntry *reg, int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return error_errno(s->e, -errno, "cannot examine %s", reg->name);
	if (!size_fits(reg, &st))
		return error_set(s->e, -ESTALE, "%s changed since the dump (it has %lld bytes, had %llu); put the old one back", reg->name,
				 (long long)st.st_size, (unsigned long long)reg->size);
	mode_t compared = ~(mode_t)S_IFMT & 07777 & (s->request->skip_file_rwx_check ? ~(mode_t)PERMISSIONS : ~(mode_t)0);
	if (reg->has_mode && (st.st_mode & compared) != (reg->mode & compared))
		return error_set(s->e, -ESTALE, "the mode of %s changed since the dump (it is %04o, was %04o); change it back%s", reg->name,
				 st.st_mode & 07777, reg->mode & 07777, s->request->skip_file_rwx_check ? "" : ", or use --skip-file-rwx-check");
	return check_build_id(s, reg, fd);
}
