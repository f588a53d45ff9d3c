/* See driver.h. */
#include "gpu/driver.h"

#include "gpu/storage.h"
#include "gpu/tool.h"

#include <dlfcn.h>

#define LIBCUDA "libcuda.so.1"
#define LIBNVML "libnvidia-ml.so.1"
#define CUDA_WITH_CHECKPOINTS 12080 /* the version of the interface that is asked for: 12.8, driver 570 */
#define CUDA_WITH_PAIRS 13000	    /* 13.0, driver 580 */
#define CUDA_WITH_STORAGE 13040	    /* 13.4, driver 615 */

/* dlsym gives the oldest form of a function; the driver itself has the one that a version of the interface means. */
static void *entry_point(const struct driver *d, const char *name, int version)
{
	int (*get)(const char *name, void **ret, int version, uint64_t flags, int *status) = dlsym(d->cuda, "cuGetProcAddress_v2");
	void *p = NULL;
	int status;

	if (get && get(name, &p, version, 0, &status) == CUDA_SUCCESS && p)
		return p;
	return dlsym(d->cuda, name);
}

const char *driver_error_name(const struct driver *d, int result)
{
	const char *name = NULL;

	return d->error_name && d->error_name(result, &name) == CUDA_SUCCESS && name ? name : "an error that it has no name for";
}

/* The first -errno that fits. */
int driver_errno(int result)
{
	switch (result) {
	case CUDA_SUCCESS:
		return 0;
	case CUDA_ERROR_INVALID_VALUE:
	case CUDA_ERROR_NOT_INITIALIZED:
		return -ESRCH;
	case CUDA_ERROR_OUT_OF_MEMORY:
		return -ENOMEM;
	case CUDA_ERROR_ILLEGAL_STATE:
		return -EBUSY;
	case CUDA_ERROR_NOT_READY:
		return -ETIMEDOUT;
	case CUDA_ERROR_NOT_PERMITTED:
		return -EPERM;
	case CUDA_ERROR_NOT_SUPPORTED:
		return -ENOTSUP;
	case CUDA_ERROR_NO_DEVICE:
		return -ENODEV;
	default:
		return -EIO;
	}
}

/*
 * By symbol, not by version: a library of another version may come with the compatibility package. cuGetProcAddress alone is asked, since the
 * arguments of the calls that begin an operation have changed with it.
 */
static void load_custom(struct driver *d)
{
	struct driver_custom *c = &d->custom;
	const struct {
		const char *name;
		void *at;
	} calls[] = {
		{ "cuDeviceGetCount", &c->device_count }, { "cuDeviceGet", &c->device_get }, { "cuDeviceGetUuid_v2", &c->device_uuid },
		{ "cuDevicePrimaryCtxRetain", &c->retain }, { "cuCtxSetCurrent", &c->set_current }, { "cuStreamGetCtx", &c->stream_context },
		{ "cuStreamCreate", &c->stream_create }, { "cuStreamDestroy_v2", &c->stream_destroy }, { "cuStreamSynchronize", &c->stream_wait },
		{ "cuMemHostAlloc", &c->host_alloc }, { "cuMemFreeHost", &c->host_free }, { "cuMemcpyDtoHAsync_v2", &c->copy_out },
		{ "cuMemcpyHtoDAsync_v2", &c->copy_in }, { "cuMemsetD8Async", &c->set },
	};
	int (*get)(const char *name, void **ret, int version, uint64_t flags, int *status) = dlsym(d->cuda, "cuGetProcAddress_v2");
	void *complete = NULL;
	int status;

	pthread_mutex_init(&c->lock, NULL);
	if (!get || get("cuCheckpointOperationComplete", &complete, CUDA_WITH_STORAGE, 0, &status) != CUDA_SUCCESS || !complete)
		return;
	c->complete = complete;
	c->found = true;
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
		void *f = dlsym(d->cuda, calls[i].name);
		memcpy(calls[i].at, &f, sizeof(f));
		c->found &= f != NULL;
	}
	if (!c->found)
		return;
	d->checkpoint = entry_point(d, "cuCheckpointProcessCheckpoint", CUDA_WITH_STORAGE);
	d->restore = entry_point(d, "cuCheckpointProcessRestore", CUDA_WITH_STORAGE);
}

int driver_load(struct driver *d, const char *library, struct error *e)
{
	const char *name = library ? library : LIBCUDA;
	int (*init)(unsigned int flags), r;

	*d = (struct driver){ .cuda = dlopen(name, RTLD_NOW | RTLD_LOCAL) };
	if (!d->cuda)
		return error_set(e, -ENOENT, "the library of NVIDIA's driver can't be loaded (%s); install the driver's user-space part", dlerror());
	d->driver_version = dlsym(d->cuda, "cuDriverGetVersion");
	d->error_name = dlsym(d->cuda, "cuGetErrorName");
	init = (int (*)(unsigned int))dlsym(d->cuda, "cuInit");
	if (!init)
		return error_set(e, -ENOENT, "%s is not the library of a CUDA driver", name);
	r = init(0);
	if (r)
		return error_set(e, driver_errno(r) ? driver_errno(r) : -EIO, "the CUDA driver does not start: %s; see nvidia-smi", driver_error_name(d, r));
	if (d->driver_version)
		d->driver_version(&d->version);
	d->get_state = entry_point(d, "cuCheckpointProcessGetState", CUDA_WITH_CHECKPOINTS);
	d->get_restore_thread = entry_point(d, "cuCheckpointProcessGetRestoreThreadId", CUDA_WITH_CHECKPOINTS);
	d->lock = entry_point(d, "cuCheckpointProcessLock", CUDA_WITH_CHECKPOINTS);
	d->checkpoint = entry_point(d, "cuCheckpointProcessCheckpoint", CUDA_WITH_CHECKPOINTS);
	d->restore = entry_point(d, "cuCheckpointProcessRestore", d->version >= CUDA_WITH_PAIRS ? CUDA_WITH_PAIRS : CUDA_WITH_CHECKPOINTS);
	d->unlock = entry_point(d, "cuCheckpointProcessUnlock", CUDA_WITH_CHECKPOINTS);
	load_custom(d);
	d->by_tool = !d->get_state && tool_found();
	if (d->by_tool)
		return 0;
	if (!d->get_state || !d->get_restore_thread || !d->lock || !d->checkpoint || !d->restore || !d->unlock)
		return error_set(e, -ENOTSUP, "this NVIDIA driver (CUDA %d.%d) can't save CUDA processes; install 570 or a later one",
				 d->version / 1000, d->version % 1000 / 10);
	return 0;
}

bool driver_read_uuid(const char *text, struct cuda_uuid *ret)
{
	size_t n = 0;

	if (!strncmp(text, "GPU-", 4))
		text += 4;
	for (; n < sizeof(ret->bytes) && *text; text += *text == '-') {
		unsigned int byte;
		if (sscanf(text, "%2x", &byte) != 1 || !text[1])
			return false;
		ret->bytes[n++] = (unsigned char)byte;
		text += 2;
	}
	return n == sizeof(ret->bytes) && !*text;
}

void driver_write_uuid(const struct cuda_uuid *uuid, char ret[GPU_UUID_MAX])
{
	const unsigned char *b = uuid->bytes;

	snprintf(ret, GPU_UUID_MAX, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8],
		 b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
}

static int restore(struct driver *d, struct gpu_call *call, char *why, size_t room)
{
	struct cuda_gpu_pair pairs[GPU_DEVICES_MAX] = {};
	struct cuda_restore_args args = {};

	if (call->n_pairs > GPU_DEVICES_MAX)
		return CUDA_ERROR_INVALID_VALUE;
	for (size_t i = 0; i < call->n_pairs; i++)
		if (!driver_read_uuid(call->pairs[i].from, &pairs[i].from) || !driver_read_uuid(call->pairs[i].to, &pairs[i].to)) {
			snprintf(why, room, "%s or %s is no GPU's id", call->pairs[i].from, call->pairs[i].to);
			return CUDA_ERROR_INVALID_VALUE;
		}
	if (call->n_pairs && d->version < CUDA_WITH_PAIRS) {
		snprintf(why, room, "another GPU can take the place of one from driver 580 on");
		return CUDA_ERROR_NOT_SUPPORTED;
	}
	args.pairs = call->n_pairs ? pairs : NULL;
	args.n_pairs = (uint32_t)call->n_pairs;
	return call->own ? storage_load(d, call, &args) : d->restore(call->pid, &args);
}

void driver_call(struct driver *d, struct gpu_call *call)
{
	struct cuda_lock_args lock = { .timeout_ms = call->timeout_ms };
	struct cuda_checkpoint_args checkpoint = {};
	struct cuda_unlock_args unlock = {};
	int value = 0, r = CUDA_SUCCESS;

	if (d->by_tool) {
		tool_call(call);
		return;
	}
	call->why[0] = 0;
	switch (call->op) {
	case GPU_STATE:
		r = d->get_state(call->pid, &value);
		break;
	case GPU_RESTORE_THREAD:
		r = d->get_restore_thread(call->pid, &value);
		break;
	case GPU_LOCK:
		r = call->own ? storage_prepare(d, call->regions, call->n_regions) : 0;
		r = r ? r : d->lock(call->pid, &lock);
		break;
	case GPU_CHECKPOINT:
		r = call->own ? storage_save(d, call) : d->checkpoint(call->pid, &checkpoint);
		break;
	case GPU_RESTORE:
		r = restore(d, call, call->why, sizeof(call->why));
		break;
	case GPU_UNLOCK:
		r = d->unlock(call->pid, &unlock);
		break;
	default:
		break;
	}
	call->value = (uint32_t)value;
	call->result = r < 0 ? r : driver_errno(r); /* storage_ gives those of the system too */
	if (r > 0 && !call->why[0])
		snprintf(call->why, sizeof(call->why), "%s", driver_error_name(d, r));
}

/* ---- NVML ---- */

static void read_users(void *nvml, void *device, uint32_t number, struct gpu_machine *m)
{
	int (*list)(void *device, unsigned int *count, struct nvml_process *ret) = dlsym(nvml, "nvmlDeviceGetComputeRunningProcesses_v3");
	struct nvml_process found[GPU_USERS_MAX];
	unsigned int count = GPU_USERS_MAX;

	if (!list || list(device, &count, found) != NVML_SUCCESS)
		return;
	for (unsigned int i = 0; i < count && i < GPU_USERS_MAX && m->n_users < GPU_USERS_MAX; i++)
		m->users[m->n_users++] = (struct gpu_user){ found[i].pid, number, found[i].used };
}

static void read_device(void *nvml, void *device, struct gpu_machine *m)
{
	int (*get_name)(void *device, char *ret, unsigned int size) = dlsym(nvml, "nvmlDeviceGetName");
	int (*get_uuid)(void *device, char *ret, unsigned int size) = dlsym(nvml, "nvmlDeviceGetUUID");
	int (*get_memory)(void *device, struct nvml_memory *ret) = dlsym(nvml, "nvmlDeviceGetMemoryInfo");
	int (*get_mig)(void *device, unsigned int *now, unsigned int *pending) = dlsym(nvml, "nvmlDeviceGetMigMode");
	struct gpu_device *d = &m->devices[m->n_devices];
	struct nvml_memory memory = {};
	unsigned int mig = 0, pending;

	*d = (struct gpu_device){};
	if (!get_uuid || get_uuid(device, d->uuid, sizeof(d->uuid)) != NVML_SUCCESS)
		return;
	if (get_name)
		get_name(device, d->name, sizeof(d->name));
	if (get_memory && get_memory(device, &memory) == NVML_SUCCESS) {
		d->total = memory.total;
		d->free = memory.free;
	}
	d->mig = get_mig && get_mig(device, &mig, &pending) == NVML_SUCCESS && mig;
	read_users(nvml, device, m->n_devices++, m);
}

void driver_machine(struct driver *d, struct gpu_machine *ret)
{
	*ret = (struct gpu_machine){ .cuda = (uint32_t)d->version, .maps = d->version >= CUDA_WITH_PAIRS, .own = d->custom.found && !d->by_tool };
	if (!d->nvml) {
		d->nvml = dlopen(LIBNVML, RTLD_NOW | RTLD_LOCAL);
		int (*init)(void) = d->nvml ? (int (*)(void))dlsym(d->nvml, "nvmlInit_v2") : NULL;
		if (!init || init() != NVML_SUCCESS) {
			if (d->nvml)
				dlclose(TAKE_PTR(d->nvml));
			tool_machine(ret);
			return;
		}
	}
	int (*get_version)(char *ret, unsigned int size) = dlsym(d->nvml, "nvmlSystemGetDriverVersion");
	int (*get_count)(unsigned int *ret) = dlsym(d->nvml, "nvmlDeviceGetCount_v2");
	int (*get_device)(unsigned int i, void **ret) = dlsym(d->nvml, "nvmlDeviceGetHandleByIndex_v2");
	unsigned int count = 0;
	void *device;

	if (get_version)
		get_version(ret->driver, sizeof(ret->driver));
	if (get_count && get_device && get_count(&count) == NVML_SUCCESS)
		for (unsigned int i = 0; i < count && ret->n_devices < GPU_DEVICES_MAX; i++)
			if (get_device(i, &device) == NVML_SUCCESS)
				read_device(d->nvml, device, ret);
}
