/* Threads are created and joined without a pause while the dump goes on. */
#include "gate.h"

enum { MAKERS = 3 };
static int stop;
static long made[MAKERS];

static void *one(void *argument) { return (char *)argument + gettid(); }

static void *maker(void *argument)
{
	long number = (long)argument;
	pid_t tid = gettid();
	while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) {
		pthread_t thread;
		void *result;
		CHECK(pthread_create(&thread, NULL, one, (void *)number) == 0);
		CHECK(pthread_join(thread, &result) == 0 && (long)result > number);
		__atomic_add_fetch(&made[number], 1, __ATOMIC_SEQ_CST);
		CHECK(gettid() == tid);
	}
	return NULL;
}

static void await_more(int number)
{
	long now = __atomic_load_n(&made[number], __ATOMIC_SEQ_CST);
	for (int i = 0; i < 5000 && __atomic_load_n(&made[number], __ATOMIC_SEQ_CST) < now + 5; i++) usleep(1000);
	CHECK(__atomic_load_n(&made[number], __ATOMIC_SEQ_CST) >= now + 5);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	pthread_t threads[MAKERS];
	for (long i = 0; i < MAKERS; i++) CHECK(pthread_create(&threads[i], NULL, maker, (void *)i) == 0);
	for (int i = 0; i < MAKERS; i++) await_more(i);
	wait_go();
	for (int i = 0; i < MAKERS; i++) await_more(i);
	__atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
	for (int i = 0; i < MAKERS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
	return finish();
}
