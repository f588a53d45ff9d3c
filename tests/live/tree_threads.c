/* A tree in which every task has threads, and children are born of threads that are not the leader. */
#include "gate.h"
#include "tree.h"

enum { COUNT = 3 };
struct state { int gate; pid_t tids[COUNT], child; int depth; };
static int start(void *argument);

static void *body(void *argument)
{
	struct { struct state *state; int number; } *own = argument;
	struct state *state = own->state;
	int number = own->number, depth = state->depth - 1;
	if (number == 1 && depth >= 0) state->child = tree_start(start, &depth);
	thread_here(&state->tids[number]);
	gate_wait(&state->gate);
	CHECK(gettid() == state->tids[number]);
	if (number == 1 && depth >= 0) CHECK(tree_finish(state->child) == depth);
	return (void *)(long)(number + 10);
}

static void grow(struct state *state, pthread_t *threads)
{
	static struct { struct state *state; int number; } own[COUNT];
	for (int i = 0; i < COUNT; i++) {
		own[i].state = state;
		own[i].number = i;
		CHECK(pthread_create(&threads[i], NULL, body, &own[i]) == 0);
		await_call(&state->tids[i], SYS_futex);
	}
}

static void shrink(struct state *state, pthread_t *threads)
{
	gate_open(&state->gate);
	for (long i = 0; i < COUNT; i++) {
		void *result;
		CHECK(pthread_join(threads[i], &result) == 0 && (long)result == i + 10);
	}
}

static int start(void *argument)
{
	struct state state = {.depth = *(int *)argument};
	pthread_t threads[COUNT];
	grow(&state, threads);
	tree_park();
	shrink(&state, threads);
	return state.depth;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	struct state state = {.depth = 3};
	pthread_t threads[COUNT];
	grow(&state, threads);
	wait_go();
	shrink(&state, threads);
	return finish();
}
