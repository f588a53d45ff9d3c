/* Credentials that differ from thread to thread: ids, groups, capability sets, securebits, no_new_privs. Raw calls,
 * since glibc's wrappers would set them in all threads. */
#include "gate.h"
#include "proc.h"
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>

enum { COUNT = 4, TEXT = 1024 };
static int gate;
static pid_t tids[COUNT];

static void snapshot(char *to)
{
	static const char *const lines[] = {"Uid:", "Gid:", "Groups:", "Cap", "NoNewPrivs:", NULL};
	proc_lines("/proc/thread-self/status", lines, to, TEXT - 64);
	sprintf(to + strlen(to), "securebits %#x", prctl(PR_GET_SECUREBITS));
}

static void unprivileged(void)
{
	gid_t groups[] = {3000, 3001};
	CHECK(syscall(SYS_setgroups, 2, groups) == 0 && syscall(SYS_setresgid, 2001, 2002, 2003) == 0);
	CHECK(syscall(SYS_setresuid, 1001, 1002, 1003) == 0);
}

static void some_capabilities(void)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2] = {{
		.permitted = 1 << CAP_NET_RAW | 1 << CAP_CHOWN, .effective = 1 << CAP_CHOWN, .inheritable = 1 << CAP_NET_RAW}};
	CHECK(prctl(PR_SET_KEEPCAPS, 1) == 0 && syscall(SYS_setresuid, 1011, 1012, 1013) == 0);
	CHECK(syscall(SYS_capset, &header, data) == 0);
	CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_RAW, 0, 0) == 0);
}

static void other_securebits(void)
{
	gid_t many[40];
	for (gid_t i = 0; i < 40; i++) many[i] = 4000 + i;
	CHECK(syscall(SYS_setgroups, 40, many) == 0);
	CHECK(prctl(PR_CAPBSET_DROP, CAP_SYS_TIME) == 0);
	CHECK(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NO_SETUID_FIXUP) == 0);
	setfsuid(1020);
	CHECK(setfsuid(-1) == 1020);
}

static void no_privileges_gained(void)
{
	CHECK(syscall(SYS_setgroups, 0, NULL) == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
}

static void *body(void *argument)
{
	static void (*const set[COUNT])(void) =
		{unprivileged, some_capabilities, other_securebits, no_privileges_gained};
	long number = (long)argument;
	char before[TEXT], after[TEXT];
	set[number]();
	snapshot(before);
	thread_here(&tids[number]);
	gate_wait(&gate);
	snapshot(after);
	if (strcmp(before, after)) {
		live_say("not ok: thread %ld has other credentials", number);
		_exit(1);
	}
	CHECK(prctl(PR_GET_KEEPCAPS) == (number == 1) && prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == (number == 3));
	uid_t r, e, s;
	CHECK(syscall(SYS_getresuid, &r, &e, &s) == 0);
	CHECK(number != 0 || (r == 1001 && e == 1002 && s == 1003));
	CHECK(number != 1 || (r == 1011 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_NET_RAW, 0, 0) == 1));
	CHECK(number != 2 || (r == 0 && setfsuid(-1) == 1020));
	return NULL;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	pthread_t threads[COUNT];
	char before[TEXT], after[TEXT];
	for (long i = 0; i < COUNT; i++) CHECK(pthread_create(&threads[i], NULL, body, (void *)i) == 0);
	for (int i = 0; i < COUNT; i++) await_call(&tids[i], SYS_futex);
	snapshot(before);
	CHECK(strstr(before, "Uid:\t0\t0\t0\t0\n"));
	wait_go();
	snapshot(after);
	CHECK(strcmp(before, after) == 0);
	gate_open(&gate);
	for (int i = 0; i < COUNT; i++) CHECK(pthread_join(threads[i], NULL) == 0);
	return finish();
}
