/*
 * The protocol between the coordinator and the agent: arrays of operations, each one system call.
 *
 * The agent is the only code of ours that ever runs inside a target. It is placed into a frozen process on
 * dump, and is what a newborn process runs on restore. It takes no decisions: it runs a batch and writes the
 * results back into it. Shared by agent.c (freestanding) and the engine.
 */
#pragma once

#include <stdint.h>

enum {
	AGENT_OP_REF_ARG0 = 1 << 0, /* argument i holds the index of an operation whose result is meant: bit i */
	AGENT_OP_MAY_FAIL = 1 << 8, /* an error is written down, the batch goes on */
	AGENT_OP_EXPECT = 1 << 9,   /* the result must be `expect`, anything else ends the batch */
};

#define AGENT_SIGNALS 64

/* Operations that are no plain system call. */
enum {
	AGENT_OP_FORK = -2,   /* clone3(arg0, arg1); the child runs the batch at arg2 on the stack that ends at arg3 */
	AGENT_OP_PARK = -4,   /* count this thread in, wake the coordinator, wait until it takes over */
	AGENT_OP_AWAIT = -5,  /* wait until *(u32 *)arg0 is at least arg1 */
	AGENT_OP_ARRIVE = -7, /* add one to *(u32 *)arg0; from arg1 on, wake who waits for it */
	AGENT_OP_ZERO = -8,   /* write zeroes over arg1 bytes at arg0 */
	AGENT_OP_LOAD = -9,   /* its result is *(u64 *)arg0 */
	AGENT_OP_STORE = -10, /* *(u32 *)arg0 = arg1 */
	AGENT_OP_FILL = -11,  /* do the pieces of the struct agent_fill at arg0 that nobody has taken yet, each by preads from arg1; arg2: AGENT_DIGEST_STATE bytes */
	AGENT_OP_FILLED = -12, /* wait until the arg2 threads whose ids are at arg1 have ended; its result is that of the filling at arg0 */
	AGENT_OP_REST = -14,  /* as PARK, but wait in the code at arg0, with arg1 and arg2 as its arguments */
	AGENT_OP_ADD = -17,   /* *(u32 *)(arg0 + arg2) += arg1 */
	AGENT_OP_REPEAT = -18, /* go back by arg0 operations, until they have been run arg1 times */
	AGENT_OP_ACTIONS = -15, /* the actions of all AGENT_SIGNALS signals to arg0, each as rt_sigaction gives it in 32 bytes */
	AGENT_OP_CAPS = -16, /* the capability sets of this thread into the struct agent_caps at arg0 */
	AGENT_OP_FPU = -19, /* the FPU state from the xsave area at arg0, all but the keys of memory (PKRU) */
	AGENT_OP_EXIT = -13,  /* end this thread, and nobody needs its stack any more */
};

struct agent_caps {
	uint64_t effective, permitted, inheritable, bounding, ambient;
};

/* digest.c: begins (neither data nor result), takes data, or gives the result: XXH3-128, the high word first. The state's address is a multiple of
 * AGENT_DIGEST_ALIGN. */
#define AGENT_DIGEST_SIZE 16
#define AGENT_DIGEST_STATE 576
#define AGENT_DIGEST_ALIGN 64
typedef void agent_digest_call(void *state, const void *data, uint64_t size, unsigned char *result);

/* Memory to be filled from a file, by several threads. */
struct agent_range {
	uint64_t address, size;
};
struct agent_piece {
	uint64_t ranges; /* address of struct agent_range, as preadv has it */
	uint64_t count;
	uint64_t offset; /* in the file; the ranges follow upon each other there */
	uint64_t size;
	uint64_t digest; /* address of the 16 bytes where that of what was read goes, or 0 */
};
struct agent_fill {
	uint32_t next, count; /* the first piece that was not taken */
	int64_t error;        /* of a piece, or 0 */
	uint64_t pieces;      /* address of struct agent_piece */
	uint64_t digest;      /* address of an agent_digest_call, where a piece wants it */
};

struct agent_op {
	int32_t nr;
	uint32_t flags;
	uint64_t arg[6];
	int64_t result;
	int64_t expect;
};

/* What stands at the head of a batch; the operations follow at once. */
struct agent_batch {
	uint32_t count;
	uint32_t done;    /* operations that were run */
	int32_t failed;   /* index of the operation that ended the batch, or -1 */
	uint32_t number;  /* dump: 0 the leader's */
	uint64_t status;  /* restore: address of the shared struct agent_status */
	uint64_t linger;  /* dump: address of the area's struct agent_linger */
	uint32_t inside;  /* dump: a thread other than the leader is in the area; set by itself, cleared by whoever takes it out */
};

static inline struct agent_op *agent_batch_ops(const struct agent_batch *b)
{
	return (struct agent_op *)(b + 1);
}

/* Shared by all tasks of a restore and the coordinator. */
struct agent_status {
	uint32_t parked; /* threads that have parked */
	uint32_t threads; /* that will: the last of them wakes the coordinator */
	uint32_t failed; /* not 0: a batch failed */
	uint32_t change; /* futex: counts every change of the two above */
	uint32_t go;
	uint64_t failed_batch; /* address of the batch that failed first */
	uint64_t owner; /* address of the futex word that says when the coordinator is dead (robust futexes, linux/futex.h); 0: none */
};

/*
 * Dump, several threads in one area: the leader unmaps it, so it must be the last to leave. Used only when the coordinator
 * died or gave up; otherwise it takes each thread out itself. A flag for each thread, not a count: the coordinator clears that of a
 * thread while others are running.
 */
struct agent_linger {
	uint32_t threads, slot_size; /* beside the leader */
	uint64_t slots;              /* address of the first of their batches */
};
