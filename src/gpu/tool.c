/* See tool.h. */
#include "gpu/tool.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>

#define TOOL "cuda-checkpoint"

extern char **environ;

/* Runs it; *ret_output, what it printed, is cut to `room`. Gives its exit status, or a negative errno. */
static int run(char *const *arguments, char *output, size_t room)
{
	posix_spawn_file_actions_t actions;
	int out[2], status = 0, r;
	size_t used = 0;
	pid_t pid;

	if (pipe2(out, O_CLOEXEC) < 0)
		return -errno;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
	posix_spawn_file_actions_adddup2(&actions, out[1], STDERR_FILENO);
	r = -posix_spawnp(&pid, TOOL, &actions, NULL, arguments, environ);
	posix_spawn_file_actions_destroy(&actions);
	close(out[1]);
	for (ssize_t n = 1; !r && n > 0;) {
		char rest[256];
		n = used + 1 < room ? read(out[0], output + used, room - 1 - used) : read(out[0], rest, sizeof(rest));
		used += n > 0 && used + 1 < room ? (size_t)n : 0;
	}
	output[used] = '\0';
	output[strcspn(output, "\n")] = '\0';
	close(out[0]);
	if (!r && waitpid(pid, &status, 0) < 0)
		r = -errno;
	return r ? r : WIFEXITED(status) ? WEXITSTATUS(status) : -EIO;
}

bool tool_found(void)
{
	char *const arguments[] = { (char *)TOOL, (char *)"--get-state", (char *)"--pid", (char *)"1", NULL };
	char output[160];

	/* Init is no CUDA process: an answer about that means that it knows the option. */
	return run(arguments, output, sizeof(output)) >= 0 && !strstr(output, "nrecognized") && !strstr(output, "nvalid option");
}

static int ask(struct gpu_call *call, const char *option)
{
	static const char *const states[] = { "running", "locked", "checkpointed", "failed" };
	char pid[16], output[160];
	char *const arguments[] = { (char *)TOOL, (char *)option, (char *)"--pid", pid, NULL };

	snprintf(pid, sizeof(pid), "%d", call->pid);
	int r = run(arguments, output, sizeof(output));
	if (r < 0)
		return r;
	snprintf(call->why, sizeof(call->why), "%s", output);
	if (r)
		return -ESRCH;
	if (call->op == GPU_RESTORE_THREAD)
		return sscanf(output, "%u", &call->value) == 1 ? 0 : -EIO;
	for (size_t i = 0; i < ARRAY_SIZE(states); i++)
		if (!strncmp(output, states[i], strlen(states[i]))) {
			call->value = (uint32_t)i;
			return 0;
		}
	return -EIO;
}

static int act(struct gpu_call *call, const char *action)
{
	char pid[16], timeout[16], output[160];
	char *const arguments[] = { (char *)TOOL, (char *)"--action", (char *)action, (char *)"--pid", pid,
				    call->timeout_ms ? (char *)"--timeout" : NULL, timeout, NULL };

	snprintf(pid, sizeof(pid), "%d", call->pid);
	snprintf(timeout, sizeof(timeout), "%u", call->timeout_ms);
	int r = run(arguments, output, sizeof(output));
	snprintf(call->why, sizeof(call->why), "%s", r > 0 ? output : r < 0 ? strerror(-r) : "");
	if (r <= 0)
		return r;
	return strstr(output, "timed out") || strstr(output, "not ready") ? -ETIMEDOUT : strstr(output, "not supported") ? -ENOTSUP : -EIO;
}

void tool_call(struct gpu_call *call)
{
	call->why[0] = '\0';
	call->value = 0;
	switch (call->op) {
	case GPU_STATE:
		call->result = ask(call, "--get-state");
		break;
	case GPU_RESTORE_THREAD:
		call->result = ask(call, "--get-restore-tid");
		break;
	case GPU_LOCK:
	case GPU_CHECKPOINT:
	case GPU_RESTORE:
	case GPU_UNLOCK:
		if (call->n_pairs) {
			call->result = -ENOTSUP;
			snprintf(call->why, sizeof(call->why), "another GPU can take the place of one from driver 580 on");
		} else {
			call->result = act(call, gpu_op_name(call->op));
		}
		break;
	default:
		call->result = 0;
	}
}
