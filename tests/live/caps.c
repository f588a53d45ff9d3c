/* Capability sets, each another one: bounding, inheritable, permitted, effective, ambient; secure bits, some locked. */
#include "proc.h"
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static char before[1024], after[1024];
static const char *const lines[] = {"Cap", "NoNewPrivs:", NULL};

static void change(void)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2] = {{
		.permitted = 1 << CAP_NET_RAW | 1 << CAP_CHOWN | 1 << CAP_SYS_TIME | 1 << CAP_SETPCAP,
		.effective = 1 << CAP_CHOWN | 1 << CAP_SETPCAP, .inheritable = 1 << CAP_NET_RAW | 1 << CAP_SYS_TIME}};
	CHECK(prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT) == 0 && prctl(PR_CAPBSET_DROP, CAP_KILL) == 0);
	CHECK(syscall(SYS_capset, &header, data) == 0);
	CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_RAW, 0, 0) == 0);
	CHECK(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_KEEP_CAPS_LOCKED) == 0);
	data[0].effective = 1 << CAP_CHOWN;
	data[0].permitted &= ~(1 << CAP_SETPCAP);
	CHECK(syscall(SYS_capset, &header, data) == 0);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	change();
	proc_lines("/proc/self/status", lines, before, sizeof before);
	wait_go();
	proc_lines("/proc/self/status", lines, after, sizeof after);
	CHECK(strcmp(before, after) == 0);
	CHECK(prctl(PR_GET_SECUREBITS) == (SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_KEEP_CAPS_LOCKED));
	CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_NET_RAW, 0, 0) == 1);
	CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_SYS_TIME, 0, 0) == 0);
	CHECK(prctl(PR_CAPBSET_READ, CAP_SYS_BOOT) == 0 && prctl(PR_CAPBSET_READ, CAP_CHOWN) == 1);
	CHECK(prctl(PR_SET_KEEPCAPS, 1) == -1 && errno == EPERM);
	return finish();
}
