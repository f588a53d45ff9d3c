/* libnvidia-ml.so.1 of the tests: two GPUs, and the processes that fake.h's driver says use them. */
#include "fake.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int setting(const char *name, int otherwise)
{
	return getenv(name) ? atoi(getenv(name)) : otherwise;
}

int nvmlInit_v2(void)
{
	return 0;
}

int nvmlSystemGetDriverVersion(char *ret, unsigned int size)
{
	snprintf(ret, size, "%s", getenv("FAKE_DRIVER") ? getenv("FAKE_DRIVER") : "580.65.06");
	return 0;
}

int nvmlDeviceGetCount_v2(unsigned int *ret)
{
	*ret = FAKE_DEVICES;
	return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int i, void **ret)
{
	*ret = (void *)(uintptr_t)(i + 1);
	return 0;
}

static int number(void *device)
{
	return (int)(uintptr_t)device - 1;
}

int nvmlDeviceGetName(void *device, char *ret, unsigned int size)
{
	(void)device;
	snprintf(ret, size, "%s", getenv("FAKE_GPU_NAME") ? getenv("FAKE_GPU_NAME") : "Fake H200");
	return 0;
}

/* FAKE_GPU_FIRST: other GPUs are in this machine. */
int nvmlDeviceGetUUID(void *device, char *ret, unsigned int size)
{
	snprintf(ret, size, "GPU-01234567-89ab-cdef-0123-4567890000%02x", number(device) + setting("FAKE_GPU_FIRST", 0));
	return 0;
}

int nvmlDeviceGetMemoryInfo(void *device, unsigned long long ret[3])
{
	(void)device;
	ret[0] = FAKE_MEMORY;
	ret[1] = (unsigned long long)setting("FAKE_FREE_MIB", (int)(FAKE_MEMORY >> 20)) << 20;
	ret[2] = ret[0] - ret[1];
	return 0;
}

int nvmlDeviceGetMigMode(void *device, unsigned int *now, unsigned int *pending)
{
	(void)device;
	*now = *pending = (unsigned int)setting("FAKE_MIG", 0);
	return 0;
}

struct process {
	unsigned int pid;
	unsigned long long used;
	unsigned int gpu_instance, compute_instance;
};

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned int *count, struct process *ret)
{
	const char *dir = getenv("FAKE_GPU_DIR");
	DIR *d = opendir(dir ? dir : "/nonexistent");
	struct dirent *entry;
	unsigned int room = *count;

	*count = 0;
	while (d && (entry = readdir(d))) {
		char path[600];
		int on, pid;
		size_t used;
		if (sscanf(entry->d_name, "user-%d", &pid) != 1)
			continue;
		snprintf(path, sizeof(path), "%s/%s", dir, entry->d_name);
		FILE *f = fopen(path, "re");
		while (f && fscanf(f, "%d %zu", &on, &used) == 2)
			if (on == number(device) + setting("FAKE_GPU_FIRST", 0) && *count < room)
				ret[(*count)++] = (struct process){ (unsigned int)pid, getenv("FAKE_NO_AMOUNTS") ? ~0ULL : used, 0, 0 };
		if (f)
			fclose(f);
	}
	if (d)
		closedir(d);
	return 0;
}
