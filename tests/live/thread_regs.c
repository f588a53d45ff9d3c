/* Threads that spin in user code with values of their own in the vector registers (the widest that the processor has),
 * the mask registers, the x87 stack and the two control words. */
#include "gate.h"

#ifdef __x86_64__
#include <stdint.h>

enum { COUNT = 3, SIZE = 32 * 64 };
struct control { uint32_t mxcsr; uint16_t x87, pad; double top; uint64_t masks[8]; };
struct work { uint8_t vectors[SIZE]; struct control control; int started; } __attribute__((aligned(64)));
static struct work in[COUNT], out[COUNT];
static int go;

#define X16(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define X32(X) X16(X) X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23) X(24) X(25) X(26) X(27) X(28) X(29) X(30) X(31)
#define X7(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define LOAD_CONTROL "ldmxcsr (%[cin])\n\tfldcw 4(%[cin])\n\tfldl 8(%[cin])\n\t"
#define SAVE_CONTROL "stmxcsr (%[cout])\n\tfnstcw 4(%[cout])\n\tfstpl 8(%[cout])\n\t"
#define SPIN "movl $1, (%[started])\n\t1: pause\n\tcmpl $0, (%[go])\n\tje 1b\n\t"
#define OPERANDS(i) : : [in] "r"(in[i].vectors), [out] "r"(out[i].vectors), [cin] "r"(&in[i].control), \
	[cout] "r"(&out[i].control), [started] "r"(&in[i].started), [go] "r"(&go) : "memory", "cc", \
	"xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", \
	"xmm13", "xmm14", "xmm15"
#define LOAD_X(n) "movdqu " #n "*16(%[in]), %%xmm" #n "\n\t"
#define SAVE_X(n) "movdqu %%xmm" #n ", " #n "*16(%[out])\n\t"
#define LOAD_Y(n) "vmovdqu " #n "*32(%[in]), %%ymm" #n "\n\t"
#define SAVE_Y(n) "vmovdqu %%ymm" #n ", " #n "*32(%[out])\n\t"
#define LOAD_Z(n) "vmovdqu64 " #n "*64(%[in]), %%zmm" #n "\n\t"
#define SAVE_Z(n) "vmovdqu64 %%zmm" #n ", " #n "*64(%[out])\n\t"
#define LOAD_K(n) "kmovq 16+" #n "*8(%[cin]), %%k" #n "\n\t"
#define SAVE_K(n) "kmovq %%k" #n ", 16+" #n "*8(%[cout])\n\t"

static int spin_sse(int i)
{
	__asm__ volatile(LOAD_CONTROL X16(LOAD_X) SPIN X16(SAVE_X) SAVE_CONTROL OPERANDS(i));
	return 16 * 16;
}

static int spin_avx(int i)
{
	__asm__ volatile(LOAD_CONTROL X16(LOAD_Y) SPIN X16(SAVE_Y) "vzeroupper\n\t" SAVE_CONTROL OPERANDS(i));
	return 16 * 32;
}

__attribute__((target("avx512f,avx512bw"))) static int spin_avx512(int i)
{
	__asm__ volatile(LOAD_CONTROL X7(LOAD_K) X32(LOAD_Z) SPIN X32(SAVE_Z) X7(SAVE_K) "vzeroupper\n\t" SAVE_CONTROL
		OPERANDS(i), "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26",
		"xmm27", "xmm28", "xmm29", "xmm30", "xmm31", "k1", "k2", "k3", "k4", "k5", "k6", "k7");
	return 32 * 64;
}

static void *body(void *argument)
{
	int i = (int)(long)argument, size;
	struct control *want = &in[i].control, *got = &out[i].control;
	uint32_t mxcsr = 0x1f80;
	for (int j = 0; j < SIZE; j++) in[i].vectors[j] = j * 13 + j / 256 + i * 101 + 1;
	*want = (struct control){.mxcsr = 0x1f80 | (i + 1) << 13, .x87 = 0x37f | (i + 1) << 10, .top = 1.5 + i};
	for (int j = 1; j < 8; j++) want->masks[j] = 0x0102030405060708ULL * (i * 8 + j);
	if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) {
		size = spin_avx512(i);
		CHECK(memcmp(want->masks, got->masks, sizeof got->masks) == 0);
	} else {
		size = __builtin_cpu_supports("avx") ? spin_avx(i) : spin_sse(i);
	}
	/* Back to the usual rounding before the compiler's own arithmetic. */
	__asm__ volatile("ldmxcsr (%0)\n\tfninit" : : "r"(&mxcsr) : "memory");
	CHECK(memcmp(in[i].vectors, out[i].vectors, size) == 0);
	CHECK((want->mxcsr | 0x3f) == (got->mxcsr | 0x3f) && want->x87 == got->x87 && want->top == got->top);
	return NULL;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	pthread_t threads[COUNT];
	for (long i = 0; i < COUNT; i++) CHECK(pthread_create(&threads[i], NULL, body, (void *)i) == 0);
	for (int i = 0; i < COUNT; i++) while (!__atomic_load_n(&in[i].started, __ATOMIC_ACQUIRE)) usleep(1000);
	wait_go();
	__atomic_store_n(&go, 1, __ATOMIC_RELEASE);
	for (int i = 0; i < COUNT; i++) CHECK(pthread_join(threads[i], NULL) == 0);
	return finish();
}
#else
int main(int argc, char **argv)
{
	live_init(argc, argv);
	live_say("skip: x86-64 only");
	return 0;
}
#endif
