/* The vdso of another kernel, with this one's in its part: a copy is patched and called. */
#include "base/base.h"
#include "engine/memory/vdso_patch.h"

#include <elf.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

#define AREA_SIZE (1UL << 20)

static int failures;

static void check(const char *name, bool good, const char *why)
{
	printf(good ? "ok %s\n" : "not ok %s: %s\n", name, why);
	failures += !good;
}

static const unsigned char *own;
static size_t own_size;

/* Where a function stands in an image. */
static uint64_t find(const unsigned char *image, const char *name)
{
	const Elf64_Ehdr *head = (const void *)image;
	const Elf64_Shdr *sections = (const void *)(image + head->e_shoff);

	for (size_t i = 0; i < head->e_shnum; i++) {
		const Elf64_Sym *symbols = (const void *)(image + sections[i].sh_offset);
		if (sections[i].sh_type != SHT_DYNSYM)
			continue;
		const char *names = (const char *)image + sections[sections[i].sh_link].sh_offset;
		for (size_t k = 0; k < sections[i].sh_size / sizeof(*symbols); k++)
			if (!strcmp(names + symbols[k].st_name, name))
				return symbols[k].st_value;
	}
	return 0;
}

/* Gives another name to a function, so that the other image lacks it. */
static void hide(unsigned char *image, const char *name)
{
	for (size_t i = 0; i + strlen(name) < own_size; i++)
		if (!memcmp(image + i, name, strlen(name) + 1))
			image[i + strlen(name) - 1] = '#';
}

static unsigned char *copy_of_own(void)
{
	unsigned char *area = mmap(NULL, AREA_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (area == MAP_FAILED)
		exit(1);
	memcpy(area, own, own_size);
	return area;
}

static bool clocks_work(const unsigned char *image)
{
	int (*get_time)(clockid_t, struct timespec *) = (void *)(image + find(image, "__vdso_clock_gettime"));
	int (*get_resolution)(clockid_t, struct timespec *) = (void *)(image + find(image, "__vdso_clock_getres"));
	int (*get_day)(struct timeval *, void *) = (void *)(image + find(image, "__vdso_gettimeofday"));
	time_t (*get_seconds)(time_t *) = (void *)(image + find(image, "__vdso_time"));
	long (*get_cpu)(unsigned *, unsigned *, void *) = (void *)(image + find(image, "__vdso_getcpu"));
	struct timespec before, is = {}, resolution = {};
	struct timeval day = {};
	unsigned cpu = 1 << 20, node = 1 << 20;
	time_t seconds = 0;

	clock_gettime(CLOCK_MONOTONIC, &before);
	if (get_time(CLOCK_MONOTONIC, &is) || is.tv_sec < before.tv_sec || is.tv_sec > before.tv_sec + 10)
		return false;
	if (get_time(12345, &is) != -EINVAL)
		return false;
	if (get_day(&day, NULL) || labs(day.tv_sec - time(NULL)) > 2 || labs(get_seconds(&seconds) - day.tv_sec) > 2 || seconds < day.tv_sec - 2)
		return false;
	return !get_resolution(CLOCK_MONOTONIC, &resolution) && resolution.tv_nsec && !get_cpu(&cpu, &node, NULL) && cpu < 1 << 20 && node < 1 << 20;
}

int main(void)
{
	struct error e = {};

	own = (const void *)getauxval(AT_SYSINFO_EHDR);
	if (!own) {
		printf("skip vdso: no vdso\n");
		return 0;
	}
	own_size = vdso_image_size(own, 4096);
	check("size", own_size > 1000 && own_size < AREA_SIZE, "what size does it have?");

	unsigned char *area = copy_of_own(), *unharmed = copy_of_own();
	check("patch", !vdso_patch(area, own_size, own, own_size, (uint64_t)own, &e), e.text);
	check("patched", memcmp(area, own, own_size) != 0, "nothing has changed");
	check("call", clocks_work(area), "a function went wrong");
	check("unharmed", !memcmp(unharmed, own, own_size), "this process's own was changed");

	/* A kernel that lacks some: what is a system call becomes one. */
	unsigned char *lacking = copy_of_own();
	static const char *const names[] = { "__vdso_clock_gettime", "__vdso_getcpu", "__vdso_time", "__vdso_gettimeofday", "__vdso_clock_getres",
					     "clock_gettime", "getcpu", "time", "gettimeofday", "clock_getres" };
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		hide(lacking, names[i]);
	memcpy(area, own, own_size);
	check("patch_lacking", !vdso_patch(area, own_size, lacking, own_size, (uint64_t)own, &e), e.text);
	check("call_lacking", area[find(area, "__vdso_time")] == 0xb8 && clocks_work(area), "a system call went wrong");

	/* One that has a function of no use elsewhere. */
	memcpy(area, own, own_size);
	hide(area, "__vdso_time");
	check("unknown", vdso_patch(area, own_size, own, own_size, (uint64_t)own, &e) == -ENOTSUP && strstr(e.text, "__vdso_tim#"), e.text);

	/* Nothing in an image is trusted. */
	for (size_t size = 0; size < own_size; size += 7)
		if (!vdso_patch(area, size, own, own_size, (uint64_t)own, &e))
			check("cut", false, "a part of it was taken for the whole");
	unsigned seed = 1;
	for (int i = 0; i < 20000; i++) {
		memcpy(area, own, own_size);
		for (int k = 0; k < 8; k++) {
			seed = seed * 1103515245 + 12345;
			area[(seed >> 8) % (i % 2 ? own_size : 64)] = (unsigned char)(seed >> 3);
		}
		const Elf64_Ehdr *head = (const void *)own;
		if (i % 4 == 0) { /* the section headers, which everything else comes from */
			memcpy(area, own, own_size);
			area[head->e_shoff + (seed >> 8) % (own_size - head->e_shoff)] = (unsigned char)seed;
		}
		vdso_patch(area, own_size, own, own_size, (uint64_t)own, &e);
	}
	check("damaged", true, "");
	return failures != 0;
}
