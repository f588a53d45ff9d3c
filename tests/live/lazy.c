/* Much memory, on which threads do all the time what a lazy restore must follow: they touch it anywhere, move parts of it, drop others, and fork. */
#include "live.h"
#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define PAGE 4096UL
#define PAGES 24576UL    /* 96 MiB */
#define CHUNK 16UL

static uint64_t *area, *dropped, *moved;
static unsigned char drops[PAGES];
static volatile int stop;
static volatile unsigned long turns[4];

static uint64_t word_of(uint64_t page) { return page * 0x9e3779b97f4a7c15ULL + 1; }

static uint64_t *at(uint64_t *base, uint64_t page) { return base + page * PAGE / 8; }

static void fill(uint64_t *base)
{
    for (uint64_t i = 0; i < PAGES; i++) {
        at(base, i)[0] = word_of(i);
        at(base, i)[PAGE / 8 - 1] = ~word_of(i);
    }
}

static int right(uint64_t *p, uint64_t page) { return p[0] == word_of(page) && p[PAGE / 8 - 1] == ~word_of(page); }

static uint64_t any(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return (*seed >> 33) % PAGES;
}

static void *touch(void *arg)
{
    uint64_t seed = 1;
    for (; !stop; turns[0]++) {
        uint64_t i = any(&seed);
        CHECK(right(at(area, i), i));
    }
    return NULL;
}

/* A chunk goes elsewhere, is looked at there, and comes back. */
static void *move(void *arg)
{
    uint64_t seed = 2;
    void *elsewhere = mmap(NULL, CHUNK * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(elsewhere != MAP_FAILED);
    for (; !stop; turns[1]++) {
        uint64_t first = any(&seed) / CHUNK * CHUNK;
        uint64_t *there = mremap(at(moved, first), CHUNK * PAGE, CHUNK * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, elsewhere);
        CHECK(there == elsewhere);
        for (uint64_t k = 0; k < CHUNK; k++) CHECK(right(at(there, k), first + k));
        CHECK(mremap(there, CHUNK * PAGE, CHUNK * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at(moved, first)) == at(moved, first));
    }
    return NULL;
}

/* What is dropped is zero from then on, what is not is as it was. */
static void *drop(void *arg)
{
    uint64_t seed = 3;
    for (; !stop; turns[2]++) {
        uint64_t i = any(&seed), k = any(&seed);
        if (turns[2] % 16 == 0) {
            CHECK(madvise(at(dropped, i), PAGE, MADV_DONTNEED) == 0);
            drops[i] = 1;
        }
        CHECK(drops[k] ? at(dropped, k)[0] == 0 && at(dropped, k)[PAGE / 8 - 1] == 0 : right(at(dropped, k), k));
    }
    return NULL;
}

static void *fork_on(void *arg)
{
    uint64_t seed = 4;
    for (; !stop; turns[3]++) {
        int status;
        pid_t child = fork();
        if (child == 0) {
            for (int n = 0; n < 64; n++) {
                uint64_t i = any(&seed);
                if (!right(at(area, i), i)) _exit(1);
                at(area, i)[1] = 5; /* the child's own */
            }
            _exit(0);
        }
        for (int n = 0; n < 64; n++) {
            uint64_t i = any(&seed);
            CHECK(at(area, i)[1] == 0);
        }
        CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
        usleep(1000);
    }
    return NULL;
}

static uint64_t *map(void)
{
    void *p = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(p != MAP_FAILED && madvise(p, PAGES * PAGE, MADV_NOHUGEPAGE) == 0);
    fill(p);
    return p;
}

int main(int argc, char **argv)
{
    void *(*const work[])(void *) = {touch, move, drop, fork_on};
    pthread_t threads[4];
    live_init(argc, argv);
    area = map(), moved = map(), dropped = map();
    for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, work[i], NULL) == 0);
    wait_go();
    unsigned long before[4];
    memcpy(before, (void *)turns, sizeof before);
    for (int i = 0; i < 4; i++)
        while (turns[i] == before[i]) usleep(1000);
    stop = 1;
    for (int i = 0; i < 4; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    for (uint64_t i = 0; i < PAGES; i++) {
        CHECK(right(at(area, i), i) && right(at(moved, i), i));
        CHECK(drops[i] ? at(dropped, i)[0] == 0 : right(at(dropped, i), i));
    }
    return finish();
}
