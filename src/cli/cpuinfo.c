/*
 * criu cpuinfo dump, check: what this processor can do, in cpuinfo.img of the images directory, compared with another machine's before anything is moved there. The
 * capabilities are words of CPUID (engine/arch/x86_64/processor.h), under a version of our own, since criu's are the kernel's and differ with it.
 */
#include "cli/cli.h"
#include "cpuinfo.pb-c.h"
#include "engine/arch/x86_64/processor.h"

#include <cpuid.h>
#include <fcntl.h>

#define NAME "cpuinfo.img"
#define MAGICS { 0x54564319u, 0x61404013u } /* of criu's images, and of this one */
#define CAPABILITY_VERSION 1000
#define FILE_MAX 4096

static void identify(CpuinfoX86Entry *x, char model[49])
{
	unsigned int a = 0, b = 0, c = 0, d = 0;

	__get_cpuid(0, &a, &b, &c, &d);
	x->vendor_id = b == signature_INTEL_ebx ? CPUINFO_X86_ENTRY__VENDOR__INTEL : b == signature_AMD_ebx ? CPUINFO_X86_ENTRY__VENDOR__AMD : CPUINFO_X86_ENTRY__VENDOR__UNKNOWN;
	__get_cpuid(1, &a, &b, &c, &d);
	x->cpu_family = (a >> 8 & 15) + ((a >> 8 & 15) == 15 ? a >> 20 & 255 : 0);
	x->model = (a >> 4 & 15) | (a >> 16 & 15) << 4;
	x->stepping = a & 15;
	memset(model, 0, 49);
	for (unsigned int i = 0; i < 3; i++) {
		unsigned int part[4] = {};
		__get_cpuid(0x80000002 + i, &part[0], &part[1], &part[2], &part[3]);
		memcpy(model + 16 * i, part, 16);
	}
	x->model_id = model;
}

static int write_file(const char *dir, const uint8_t *packed, uint32_t size, struct error *e)
{
	const uint32_t head[3] = { ((const uint32_t[])MAGICS)[0], ((const uint32_t[])MAGICS)[1], size };
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/" NAME, dir);
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 || write(fd, head, sizeof(head)) != sizeof(head) || write(fd, packed, size) != (ssize_t)size)
		return error_errno(e, -errno, "cannot write %s", path);
	return 0;
}

int cpuinfo_dump(const char *dir, struct error *e)
{
	CpuinfoEntry entry = CPUINFO_ENTRY__INIT;
	CpuinfoX86Entry x = CPUINFO_X86_ENTRY__INIT, *list = &x;
	uint32_t words[PROCESSOR_WORDS];
	uint8_t packed[FILE_MAX];
	char model[49];

	processor_read(words);
	identify(&x, model);
	x.capability_ver = CAPABILITY_VERSION;
	x.n_capability = PROCESSOR_WORDS;
	x.capability = words;
	entry.n_x86_entry = 1;
	entry.x86_entry = &list;
	return write_file(dir, packed, (uint32_t)cpuinfo_entry__pack(&entry, packed), e);
}

static int compare(const char *path, const CpuinfoEntry *entry, struct error *e)
{
	const CpuinfoX86Entry *x = entry && entry->n_x86_entry == 1 ? entry->x86_entry[0] : NULL;
	uint32_t now[PROCESSOR_WORDS];
	char names[512];

	if (!x)
		return error_set(e, -EBADMSG, "%s is damaged, or of another architecture", path);
	if (x->capability_ver != CAPABILITY_VERSION)
		return error_set(e, -ENOTSUP, "%s was written by another program; write it again with criu cpuinfo dump of this one", path);
	processor_read(now);
	if (!processor_lacks(x->capability, x->n_capability, now, names, sizeof(names)))
		return 0;
	return error_set(e, -ENOTSUP, "this processor lacks what the other has (%s): %s", x->model_id ? x->model_id : "unknown", names);
}

int cpuinfo_check(const char *dir, struct error *e)
{
	const uint32_t magics[2] = MAGICS;
	_cleanup_free_ char *text = NULL;
	char path[PATH_MAX];
	uint32_t head[3];
	size_t size;

	snprintf(path, sizeof(path), "%s/" NAME, dir);
	int r = read_file_at(AT_FDCWD, path, FILE_MAX, &text, &size);
	if (r)
		return error_errno(e, r, "cannot read %s", path);
	memcpy(head, text, MIN(size, sizeof(head)));
	if (size < sizeof(head) || memcmp(head, magics, sizeof(magics)) || head[2] != size - sizeof(head))
		return error_set(e, -EBADMSG, "%s is damaged", path);
	CpuinfoEntry *entry = cpuinfo_entry__unpack(NULL, head[2], (const uint8_t *)text + sizeof(head));
	r = compare(path, entry, e);
	if (entry)
		cpuinfo_entry__free_unpacked(entry, NULL);
	return r;
}

int verb_cpuinfo(struct command_line *c)
{
	struct error e = {};
	int r;

	if (!strcmp(c->words[0], "dump"))
		r = cpuinfo_dump(c->request.images_dir, &e);
	else if (!strcmp(c->words[0], "check"))
		r = cpuinfo_check(c->request.images_dir, &e);
	else
		r = error_set(&e, -EINVAL, "criu cpuinfo takes dump or check, not %s", c->words[0]);
	return r ? cli_report(c, &e) : 0;
}
