/* SSE registers keep their values over a spin in user code. */
#include "live.h"
#include <stdint.h>

int main(int argc, char **argv)
{
    live_init(argc, argv);
#ifdef __x86_64__
    static uint64_t in[32], out[32];
    for (int i = 0; i < 32; i++) in[i] = 0x0123456789abcdefULL * (i + 1);
    ready();
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    uint64_t r12 = 0x1212121212121212ULL, r13 = 0x1313131313131313ULL;
#define LOAD(n) "movdqu " #n "*16(%[in]), %%xmm" #n "\n\t"
#define SAVE(n) "movdqu %%xmm" #n ", " #n "*16(%[out])\n\t"
#define ALL(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
    __asm__ volatile(
        "mov %[a], %%r12\n\tmov %[b], %%r13\n\t"
        ALL(LOAD)
        "1: pause\n\tcmpl $0, (%[go])\n\tje 1b\n\t"
        ALL(SAVE)
        "mov %%r12, %[a]\n\tmov %%r13, %[b]\n\t"
        : [a] "+&r"(r12), [b] "+&r"(r13)
        : [in] "r"(in), [out] "r"(out), [go] "r"(&live_go)
        : "memory", "cc", "r12", "r13", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
          "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
    CHECK(memcmp(in, out, sizeof in) == 0);
    CHECK(r12 == 0x1212121212121212ULL && r13 == 0x1313131313131313ULL);
    return finish();
#else
    wait_go();
    live_say("skip: x86-64 only");
    return 0;
#endif
}
