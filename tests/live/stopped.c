/* Children stopped by SIGSTOP and SIGTSTP stay so; one's stop was waited for before, the others' after. */
#include "tree.h"

static int child(void *argument)
{
	if (argument) CHECK(setpgid(0, 0) == 0); /* out of the orphaned group, where SIGTSTP does nothing */
	tree_there();
	wait_signal();
	return 61;
}

static char state_of(pid_t pid)
{
	char path[64], text[512] = "";
	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	CHECK(slurp(path, text, sizeof text - 1) > 0);
	return strrchr(text, ')')[2];
}

static void check(pid_t pid, int sig)
{
	int status = -1;
	CHECK(state_of(pid) == 'T');
	if (sig) CHECK(waitpid(pid, &status, WUNTRACED | WNOHANG) == pid && WIFSTOPPED(status) && WSTOPSIG(status) == sig);
	/* It does not run on before it is told to. */
	CHECK(kill(pid, SIGUSR1) == 0);
	usleep(5000);
	CHECK(state_of(pid) == 'T' && kill(pid, SIGCONT) == 0);
	CHECK(waitpid(pid, &status, WCONTINUED) == pid && (WIFCONTINUED(status) || WIFEXITED(status)));
	if (WIFCONTINUED(status)) CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 61);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	pid_t waited = tree_start(child, NULL), stopped = tree_start(child, NULL), terminal = tree_start(child, "");
	int status;
	CHECK(kill(waited, SIGSTOP) == 0 && waitpid(waited, &status, WUNTRACED) == waited && WIFSTOPPED(status));
	CHECK(kill(stopped, SIGSTOP) == 0 && kill(terminal, SIGTSTP) == 0);
	siginfo_t info;
	CHECK(waitid(P_PID, stopped, &info, WSTOPPED | WNOWAIT) == 0 && info.si_status == SIGSTOP);
	CHECK(waitid(P_PID, terminal, &info, WSTOPPED | WNOWAIT) == 0 && info.si_status == SIGTSTP);
	wait_go();
	check(waited, 0);
	check(stopped, SIGSTOP);
	check(terminal, SIGTSTP);
	return finish();
}
