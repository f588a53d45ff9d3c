/* See tool.h. */
#include "gpu/tool.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>

#define TOOL "cuda-checkpoint"
#define SMI "nvidia-smi"

extern char **environ;

/* Runs it; `output`, what it printed, is cut to `room`. Gives its exit status, or a negative errno. */
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
	r = -posix_spawnp(&pid, arguments[0], &actions, NULL, arguments, environ);
	posix_spawn_file_actions_destroy(&actions);
	close(out[1]);
	for (ssize_t n = 1; !r && n > 0;) {
		char rest[256];
		n = used + 1 < room ? read(out[0], output + used, room - 1 - used) : read(out[0], rest, sizeof(rest));
		used += n > 0 && used + 1 < room ? (size_t)n : 0;
	}
	output[used] = '\0';
	close(out[0]);
	if (!r && waitpid(pid, &status, 0) < 0)
		r = -errno;
	return r ? r : WIFEXITED(status) ? WEXITSTATUS(status) : -EIO;
}

/* The first line alone. */
static int run_line(char *const *arguments, char *output, size_t room)
{
	int r = run(arguments, output, room);

	output[strcspn(output, "\n")] = '\0';
	return r;
}

/* "GPU-…, NVIDIA H200, 143771, 143000, 580.65.06, Disabled" */
static bool read_device(char *line, struct gpu_device *d, char *driver, size_t driver_room)
{
	char *fields[6], *rest = line;

	for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
		fields[i] = strsep(&rest, ",");
		if (!fields[i])
			return false;
		fields[i] += strspn(fields[i], " ");
	}
	*d = (struct gpu_device){ .total = strtoull(fields[2], NULL, 10) << 20, .free = strtoull(fields[3], NULL, 10) << 20, .mig = !strncmp(fields[5], "Enabled", 7) };
	snprintf(d->uuid, sizeof(d->uuid), "%s", fields[0]);
	snprintf(d->name, sizeof(d->name), "%s", fields[1]);
	snprintf(driver, driver_room, "%s", fields[4]);
	return !strncmp(d->uuid, "GPU-", 4);
}

void tool_machine(struct gpu_machine *m)
{
	char *const gpus[] = { (char *)SMI, (char *)"--query-gpu=uuid,name,memory.total,memory.free,driver_version,mig.mode.current",
			       (char *)"--format=csv,noheader,nounits", NULL };
	char *const users[] = { (char *)SMI, (char *)"--query-compute-apps=pid,gpu_uuid,used_memory", (char *)"--format=csv,noheader,nounits", NULL };
	const size_t room = 64UL << 10;
	_cleanup_free_ char *output = malloc(room);

	if (!output || run(gpus, output, room))
		return;
	for (char *rest = output, *line; (line = strsep(&rest, "\n")) && m->n_devices < GPU_DEVICES_MAX;)
		m->n_devices += read_device(line, &m->devices[m->n_devices], m->driver, sizeof(m->driver));
	if (run(users, output, room))
		return;
	for (char *rest = output, *line; (line = strsep(&rest, "\n")) && m->n_users < GPU_USERS_MAX;) {
		char uuid[GPU_UUID_MAX];
		unsigned long long mib = 0;
		unsigned int pid;
		int n = sscanf(line, "%u, %47[^,], %llu", &pid, uuid, &mib);
		for (uint32_t i = 0; n >= 2 && i < m->n_devices; i++)
			if (!strcmp(m->devices[i].uuid, uuid))
				m->users[m->n_users++] = (struct gpu_user){ pid, i, n == 3 ? mib << 20 : UINT64_MAX };
	}
}

bool tool_found(void)
{
	char *const arguments[] = { (char *)TOOL, (char *)"--get-state", (char *)"--pid", (char *)"1", NULL };
	char output[160];

	/* Init is no CUDA process: an answer about that means that it knows the option. */
	return run_line(arguments, output, sizeof(output)) >= 0 && !strstr(output, "nrecognized") && !strstr(output, "nvalid option");
}

static int ask(struct gpu_call *call, const char *option)
{
	static const char *const states[] = { "running", "locked", "checkpointed", "failed" };
	char pid[16], output[160];
	char *const arguments[] = { (char *)TOOL, (char *)option, (char *)"--pid", pid, NULL };

	snprintf(pid, sizeof(pid), "%d", call->pid);
	int r = run_line(arguments, output, sizeof(output));
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
	int r = run_line(arguments, output, sizeof(output));
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
