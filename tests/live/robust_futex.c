/* The list of robust futexes of each thread: an owner that ends after the restore leaves its mutex marked. */
#include "gate.h"

enum { COUNT = 3 };
static int gate;
static pid_t tids[COUNT];
static pthread_mutex_t mutexes[COUNT][2];

static void list_of(void **head, size_t *length)
{
	CHECK(syscall(SYS_get_robust_list, 0, head, length) == 0 && *head);
}

static void *body(void *argument)
{
	long number = (long)argument;
	void *before, *after;
	size_t length_before, length_after;
	for (int i = 0; i < 2; i++) CHECK(pthread_mutex_lock(&mutexes[number][i]) == 0);
	list_of(&before, &length_before);
	thread_here(&tids[number]);
	gate_wait(&gate);
	list_of(&after, &length_after);
	CHECK(before == after && length_before == length_after);
	return NULL; /* with its mutexes */
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	pthread_t threads[COUNT];
	pthread_mutexattr_t attributes;
	void *before, *after;
	size_t length_before, length_after;
	CHECK(pthread_mutexattr_init(&attributes) == 0);
	CHECK(pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST) == 0);
	for (int i = 0; i < COUNT * 2; i++) CHECK(pthread_mutex_init(&mutexes[i / 2][i % 2], &attributes) == 0);
	for (long i = 0; i < COUNT; i++) CHECK(pthread_create(&threads[i], NULL, body, (void *)i) == 0);
	for (int i = 0; i < COUNT; i++) await_call(&tids[i], SYS_futex);
	list_of(&before, &length_before);
	wait_go();
	list_of(&after, &length_after);
	CHECK(before == after && length_before == length_after);
	for (int i = 0; i < COUNT * 2; i++) CHECK(pthread_mutex_trylock(&mutexes[i / 2][i % 2]) == EBUSY);
	gate_open(&gate);
	for (int i = 0; i < COUNT; i++) CHECK(pthread_join(threads[i], NULL) == 0);
	for (int i = 0; i < COUNT * 2; i++) {
		CHECK(pthread_mutex_trylock(&mutexes[i / 2][i % 2]) == EOWNERDEAD);
		CHECK(pthread_mutex_consistent(&mutexes[i / 2][i % 2]) == 0);
		CHECK(pthread_mutex_unlock(&mutexes[i / 2][i % 2]) == 0);
	}
	return finish();
}
