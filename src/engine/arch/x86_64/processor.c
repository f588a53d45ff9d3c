/* See processor.h. */
#include "engine/arch/x86_64/processor.h"

#include <asm/unistd.h>
#include <cpuid.h>
#include <sys/platform/x86.h>
#include <unistd.h>

#ifndef ARCH_GET_XCOMP_SUPP
#define ARCH_GET_XCOMP_SUPP 0x1021 /* arch_prctl(2), Linux 5.16 */
#endif
#define XSTATE_ON_DEMAND (1ULL << 18) /* the tiles of AMX */

enum word { ONE_C, ONE_D, SEVEN_B, SEVEN_C, SEVEN_D, SEVEN_ONE_A, EXTENDED_C, EXTENDED_D, XSAVE_A };

static const struct {
	uint32_t leaf, subleaf;
	int reg; /* of eax to edx */
} words[PROCESSOR_WORDS] = {
	[ONE_C] = { 1, 0, 2 },	     [ONE_D] = { 1, 0, 3 },		[SEVEN_B] = { 7, 0, 1 },	     [SEVEN_C] = { 7, 0, 2 },	     [SEVEN_D] = { 7, 0, 3 },
	[SEVEN_ONE_A] = { 7, 1, 0 }, [EXTENDED_C] = { 0x80000001, 0, 2 }, [EXTENDED_D] = { 0x80000001, 0, 3 }, [XSAVE_A] = { 0xd, 1, 0 },
};

/* Instructions that a program may have chosen; not what makes some of them faster, nor what only the kernel sees. */
static const struct {
	enum word word;
	int bit;
	const char *name;
} features[] = {
	{ ONE_C, 0, "pni" }, { ONE_C, 1, "pclmulqdq" }, { ONE_C, 9, "ssse3" }, { ONE_C, 12, "fma" }, { ONE_C, 13, "cx16" }, { ONE_C, 19, "sse4_1" },
	{ ONE_C, 20, "sse4_2" }, { ONE_C, 22, "movbe" }, { ONE_C, 23, "popcnt" }, { ONE_C, 25, "aes" }, { ONE_C, 27, "xsave" }, { ONE_C, 28, "avx" },
	{ ONE_C, 29, "f16c" }, { ONE_C, 30, "rdrand" },
	{ ONE_D, 4, "tsc" }, { ONE_D, 8, "cx8" }, { ONE_D, 15, "cmov" }, { ONE_D, 19, "clflush" }, { ONE_D, 23, "mmx" }, { ONE_D, 24, "fxsr" }, { ONE_D, 25, "sse" }, { ONE_D, 26, "sse2" },
	{ SEVEN_B, 0, "fsgsbase" }, { SEVEN_B, 3, "bmi1" }, { SEVEN_B, 5, "avx2" }, { SEVEN_B, 8, "bmi2" }, { SEVEN_B, 11, "rtm" }, { SEVEN_B, 16, "avx512f" },
	{ SEVEN_B, 17, "avx512dq" }, { SEVEN_B, 18, "rdseed" }, { SEVEN_B, 19, "adx" }, { SEVEN_B, 21, "avx512ifma" }, { SEVEN_B, 23, "clflushopt" }, { SEVEN_B, 24, "clwb" },
	{ SEVEN_B, 26, "avx512pf" }, { SEVEN_B, 27, "avx512er" }, { SEVEN_B, 28, "avx512cd" }, { SEVEN_B, 29, "sha_ni" }, { SEVEN_B, 30, "avx512bw" }, { SEVEN_B, 31, "avx512vl" },
	{ SEVEN_C, 1, "avx512vbmi" }, { SEVEN_C, 4, "ospke" }, { SEVEN_C, 5, "waitpkg" }, { SEVEN_C, 6, "avx512_vbmi2" }, { SEVEN_C, 8, "gfni" }, { SEVEN_C, 9, "vaes" },
	{ SEVEN_C, 10, "vpclmulqdq" }, { SEVEN_C, 11, "avx512_vnni" }, { SEVEN_C, 12, "avx512_bitalg" }, { SEVEN_C, 14, "avx512_vpopcntdq" }, { SEVEN_C, 22, "rdpid" },
	{ SEVEN_C, 25, "cldemote" }, { SEVEN_C, 27, "movdiri" }, { SEVEN_C, 28, "movdir64b" }, { SEVEN_C, 29, "enqcmd" },
	{ SEVEN_D, 2, "avx512_4vnniw" }, { SEVEN_D, 3, "avx512_4fmaps" }, { SEVEN_D, 8, "avx512_vp2intersect" }, { SEVEN_D, 14, "serialize" }, { SEVEN_D, 22, "amx_bf16" },
	{ SEVEN_D, 23, "avx512_fp16" }, { SEVEN_D, 24, "amx_tile" }, { SEVEN_D, 25, "amx_int8" },
	{ SEVEN_ONE_A, 4, "avx_vnni" }, { SEVEN_ONE_A, 5, "avx512_bf16" }, { SEVEN_ONE_A, 7, "cmpccxadd" }, { SEVEN_ONE_A, 21, "amx_fp16" }, { SEVEN_ONE_A, 23, "avx_ifma" },
	{ EXTENDED_C, 0, "lahf_lm" }, { EXTENDED_C, 5, "abm" }, { EXTENDED_C, 6, "sse4a" }, { EXTENDED_C, 8, "3dnowprefetch" }, { EXTENDED_C, 11, "xop" }, { EXTENDED_C, 16, "fma4" },
	{ EXTENDED_C, 21, "tbm" }, { EXTENDED_C, 29, "mwaitx" }, { EXTENDED_D, 27, "rdtscp" },
	{ XSAVE_A, 0, "xsaveopt" }, { XSAVE_A, 1, "xsavec" }, { XSAVE_A, 2, "xgetbv1" },
};

void processor_read(uint32_t ret[PROCESSOR_WORDS])
{
	/* CPUID traps in a virtual machine: no leaf is asked twice. */
	for (size_t i = 0; i < PROCESSOR_WORDS; i++) {
		unsigned int r[4] = {};
		__get_cpuid_count(words[i].leaf, words[i].subleaf, &r[0], &r[1], &r[2], &r[3]);
		for (size_t k = i; k < PROCESSOR_WORDS && words[k].leaf == words[i].leaf && words[k].subleaf == words[i].subleaf; k++)
			ret[i = k] = r[words[k].reg];
	}
}

bool processor_has_avx2(void)
{
	return CPU_FEATURE_ACTIVE(AVX2);
}

uint64_t processor_on_demand(void)
{
	uint64_t states = 0;

	return syscall(__NR_arch_prctl, ARCH_GET_XCOMP_SUPP, &states) < 0 ? 0 : states & XSTATE_ON_DEMAND;
}

bool processor_lacks(const uint32_t *then, size_t n, const uint32_t now[PROCESSOR_WORDS], char *ret, size_t size)
{
	size_t used = 0;

	*ret = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		const size_t w = features[i].word;
		if (w >= n || !(then[w] & ~now[w] & 1U << features[i].bit))
			continue;
		int more = snprintf(ret + used, size - used, "%s%s", used ? " " : "", features[i].name);
		if (more < 0 || (size_t)more >= size - used)
			return true; /* there is no room for more names */
		used += (size_t)more;
	}
	return used > 0;
}
