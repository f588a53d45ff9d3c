/* What is a thread's own: thread-local variables, keys, errno, the address of the thread, the gs base. */
#include "gate.h"
#include <stdint.h>
#ifdef __x86_64__
#include <asm/prctl.h>
#endif

enum { COUNT = 5 };
static int gate;
static pid_t tids[COUNT];
static pthread_key_t key;
static __thread _Alignas(64) struct { long number; char pattern[3000]; } local;
static __thread int zero;

static void set_gs(uint64_t *word)
{
#ifdef __x86_64__
	CHECK(syscall(SYS_arch_prctl, ARCH_SET_GS, word) == 0);
#endif
}

static uint64_t gs_word(uint64_t *word)
{
#ifdef __x86_64__
	uint64_t value;
	__asm__ volatile("mov %%gs:0, %0" : "=r"(value));
	return value;
#else
	return *word;
#endif
}

static void *body(void *argument)
{
	long number = (long)argument;
	uint64_t word = 0xabcdef0000ULL + number;
	pthread_t self = pthread_self();
	void *address = &local;
	local.number = number;
	memset(local.pattern, 'a' + number, sizeof local.pattern);
	CHECK(pthread_setspecific(key, &local.pattern[number]) == 0);
	set_gs(&word);
	errno = 1000 + number;
	int *errno_at = &errno;
	thread_here(&tids[number]);
	/* No call that fails in between: errno is checked. */
	while (!__atomic_load_n(&gate, __ATOMIC_ACQUIRE)) syscall(SYS_futex, &gate, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
	CHECK(errno == 1000 + number && &errno == errno_at);
	CHECK(pthread_equal(self, pthread_self()) && gettid() == tids[number] && address == &local && zero == 0);
	CHECK(local.number == number && pthread_getspecific(key) == &local.pattern[number]);
	for (size_t i = 0; i < sizeof local.pattern; i++) CHECK(local.pattern[i] == 'a' + number);
	CHECK(gs_word(&word) == 0xabcdef0000ULL + number);
	return NULL;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	pthread_t threads[COUNT];
	static uint64_t word = 0x1122334455667788ULL;
	CHECK(pthread_key_create(&key, NULL) == 0);
	local.number = 99;
	set_gs(&word);
	for (long i = 0; i < COUNT; i++) CHECK(pthread_create(&threads[i], NULL, body, (void *)i) == 0);
	for (int i = 0; i < COUNT; i++) await_call(&tids[i], SYS_futex);
	wait_go();
	CHECK(local.number == 99 && pthread_getspecific(key) == NULL && gs_word(&word) == 0x1122334455667788ULL);
	gate_open(&gate);
	for (int i = 0; i < COUNT; i++) CHECK(pthread_join(threads[i], NULL) == 0);
	return finish();
}
