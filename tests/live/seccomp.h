/* Helpers for live test programs under seccomp: a filter that makes one system call fail with a number of choice. */
#ifndef SECCOMP_H
#define SECCOMP_H
#include "live.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static inline void seccomp_refuse(unsigned number, unsigned error, unsigned flags)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof code / sizeof *code, code};
	CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program) == 0);
}

/* Whether the call, without arguments, fails with the number; 0: does not fail. */
static inline int refused_with(long number, int error)
{
	errno = 0;
	long result = syscall(number);
	return error ? result == -1 && errno == error : result != -1;
}
#endif
