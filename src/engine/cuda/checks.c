/* What stands against a dump of CUDA processes, before anything is touched. See parts.h. */
#include "base/store_path.h"
#include "engine/cuda/parts.h"

#include <fcntl.h>
#include <sys/statvfs.h>

#define MAPS_MAX (256UL << 20)
#define MPS_SERVER "nvidia-cuda-mps" /* …-server, as far as the kernel keeps it */
#define IMEX "/dev/nvidia-caps-imex-channels/"

static bool has_collective_library(pid_t pid)
{
	_cleanup_free_ char *text = NULL;
	char path[40];

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	return !read_file_at(AT_FDCWD, path, MAPS_MAX, &text, NULL) && (strstr(text, "/libnccl") || strstr(text, "/libnvshmem"));
}

static int check_collectives(struct dump *d)
{
	size_t users = 0;
	pid_t one = 0;

	VEC_FOREACH(&d->cuda->processes, p)
		if (has_collective_library(p->pid) && p->before == GPU_RUNNING) {
			users++;
			one = p->pid;
		}
	if (users < 2 || d->request->gpu_force)
		return 0;
	return cuda_error(d, one, -ENOTSUP, "it shares GPU memory with others through NCCL or NVSHMEM, perhaps, which can be saved but not restored; start it with "
			  "NCCL_P2P_DISABLE=1 NCCL_NVLS_ENABLE=0 NCCL_SHM_DISABLE=1 and use --gpu-force");
}

/* Where it goes is looked at before the tree is: on disk as much is needed, where nothing is packed. */
static int check_room(struct dump *d, uint64_t need)
{
	const uint64_t free = cuda_memory_available();
	const char *path = d->request->images_dir;
	struct statvfs disk;

	if (need > free && (!d->cuda->own || cuda_image_in_memory(d)))
		return error_set(d->e, -ENOMEM, "the tree has %llu MiB on GPUs, which go into memory first, and %llu MiB of memory are available%s",
				 (unsigned long long)need >> 20, (unsigned long long)free >> 20,
				 d->cuda->own ? "; a dump to a plain directory, with --no-live, needs none" : "");
	if (!path || store_is_path(path) || d->request->packing.kind != PACKING_NONE || d->request->packing.streams || statvfs(path, &disk) < 0)
		return 0;
	if (need > (uint64_t)disk.f_bavail * disk.f_frsize)
		return error_set(d->e, -ENOSPC, "the tree has %llu MiB on GPUs, and %s has room for %llu MiB; choose a directory on another file system, or --compression",
				 (unsigned long long)need >> 20, path, (unsigned long long)disk.f_bavail * disk.f_frsize >> 20);
	return 0;
}

static int check_machine(struct dump *d)
{
	const struct gpu_machine *m = d->cuda->machine;
	uint64_t need = 0;

	for (uint32_t i = 0; i < m->n_devices; i++)
		if (m->devices[i].mig)
			return error_set(d->e, -ENOTSUP, "GPU %s is divided (MIG), which its driver can't save; see nvidia-smi -mig 0", m->devices[i].uuid);
	for (uint32_t i = 0; i < m->n_users && !d->request->gpu_force; i++)
		if (!strcmp(comm_of((pid_t)m->users[i].pid, &(struct proc_stat){}), MPS_SERVER) && m->users[i].device < m->n_devices)
			return error_set(d->e, -ENOTSUP, "GPU %s is shared through MPS, which its driver can't save; end it with: echo quit | nvidia-cuda-mps-control",
					 m->devices[m->users[i].device].uuid);
	VEC_FOREACH(&d->cuda->processes, p)
		need += p->before == GPU_RUNNING ? p->memory : 0;
	return check_room(d, need);
}

bool cuda_holds_device(pid_t pid, const char *name, char ret[64])
{
	struct proc_fds fds = {};
	bool found = false;

	if (proc_list_fds(pid, &fds))
		return false;
	for (size_t i = 0; !found && i < fds.count; i++) {
		char link[64];
		snprintf(link, sizeof(link), "/proc/%d/fd/%d", pid, fds.data[i]);
		ssize_t n = readlink(link, ret, 63);
		ret[MAX(n, 0)] = '\0';
		found = !strncmp(ret, name, strlen(name));
	}
	VEC_FREE(&fds);
	return found;
}

/* The driver closes its devices in those processes that use CUDA. What others have, by fork mostly, stays open and can't be saved. */
static int check_bystanders(struct dump *d)
{
	struct pids tree = {};
	int r = cuda_list_tree(&tree, d->request->pid) ? error_set(d->e, -ENOMEM, "out of memory") : 0;

	for (size_t i = 0; !r && i < tree.list.count; i++) {
		char device[64];
		const pid_t pid = tree.list.data[i];
		if (!cuda_find(d, pid) && cuda_holds_device(pid, "/dev/nvidia", device))
			r = cuda_error(d, pid, -ENOTSUP, "it has %s open without using CUDA, from its parent most likely, where the driver can't close it; close it there, or "
				       "start such processes before the program uses CUDA", device);
	}
	VEC_FREE(&tree.list);
	return r;
}

/* What is on other machines, and who looks at it from outside. */
static int check_processes(struct dump *d)
{
	char device[64];

	VEC_FOREACH(&d->cuda->processes, p) {
		struct proc_status status;
		if (p->before != GPU_RUNNING)
			continue;
		if (cuda_holds_device(p->pid, IMEX, device))
			return cuda_error(d, p->pid, -ENOTSUP, "it has %s open, for memory on GPUs of other machines (NVLink fabric), which can't be saved; let the program do without",
					  device);
		if (!proc_read_status(p->pid, &status) && status.tracer_pid && (pid_t)status.tracer_pid != getpid())
			return cuda_error(d, p->pid, -EBUSY, "it is being debugged by process %d; end that first", (int)status.tracer_pid);
	}
	return 0;
}

int cuda_check_obstacles(struct dump *d)
{
	int r = dump_part(d, check_machine(d));

	if (!r)
		r = dump_part(d, check_processes(d));

	if (!r)
		r = dump_part(d, check_bystanders(d));
	return r ? r : dump_part(d, check_collectives(d));
}
