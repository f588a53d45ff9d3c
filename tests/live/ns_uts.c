/* A UTS namespace of its own, with the names of a host and a domain, and a child that is in it too. */
#include "live.h"
#include <sched.h>
#include <sys/utsname.h>
#include <sys/wait.h>

static void look(void)
{
	struct utsname names;
	CHECK(uname(&names) == 0 && !strcmp(names.nodename, "inside.example") && !strcmp(names.domainname, "a domain"));
}

int main(int argc, char **argv)
{
	int ends[2], status;
	char c;
	live_init(argc, argv);
	if (unshare(CLONE_NEWUTS)) { live_say("skip: no UTS namespace: %s", strerror(errno)); return 0; }
	CHECK(sethostname("inside.example", 14) == 0 && setdomainname("a domain", 8) == 0 && pipe(ends) == 0);
	pid_t child = fork();
	if (child == 0) {
		close(ends[1]);
		CHECK(read(ends[0], &c, 1) == 0);
		look();
		_exit(sethostname("another", 7) == 0 ? 0 : 1);
	}
	close(ends[0]);
	look();
	wait_go();
	look();
	close(ends[1]);
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	struct utsname names;
	CHECK(uname(&names) == 0 && !strcmp(names.nodename, "another"));
	return finish();
}
