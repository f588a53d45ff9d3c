/* See compare.h. */
#include "gpu/compare.h"

const char *gpu_verdict_name(enum gpu_verdict v)
{
	return v == GPU_IDENTICAL ? "identical" : v == GPU_COMPATIBLE ? "compatible" : "incompatible";
}

enum gpu_verdict gpu_compare(const struct gpu_software *then, const struct gpu_software *now, char *why, size_t room)
{
	const bool same_driver = !strcmp(then->driver, now->driver);

	if (then->library && !now->library) {
		snprintf(why, room, "it has %s mapped, which is not here (driver %s, then %s): its container or machine must bring that very library", then->library,
			 now->driver, then->driver);
		return GPU_INCOMPATIBLE;
	}
	if (then->build_id[0] && now->build_id[0] && strcmp(then->build_id, now->build_id)) {
		snprintf(why, room, "%s is another one here (build id %.12s, then %.12s; driver %s, then %s): the process has the code of that one mapped", then->library,
			 now->build_id, then->build_id, now->driver, then->driver);
		return GPU_INCOMPATIBLE;
	}
	if (same_driver) {
		snprintf(why, room, "driver %s and its library are the same", now->driver);
		return GPU_IDENTICAL;
	}
	snprintf(why, room, "driver %s here, %s then, with the same library%s", now->driver, then->driver, then->build_id[0] ? "" : ", as far as its name tells");
	return GPU_COMPATIBLE;
}

bool gpu_is_external(const char *path)
{
	static const char *const names[] = { "libcuda.so", "libcudadebugger.so", "libnvidia-", "libnvcuvid.so", "libnvoptix.so", "libGLX_nvidia.so", "libEGL_nvidia.so",
					     "libGLESv1_CM_nvidia.so", "libGLESv2_nvidia.so", "libvdpau_nvidia.so", "gsp_" };
	const char *name = strrchr(path, '/');

	if (!strncmp(path, "/dev/nvidia", 11) || !strncmp(path, "/proc/driver/nvidia", 19) || !strncmp(path, "/run/nvidia-", 12) || !strncmp(path, "/tmp/nvidia-mps", 15))
		return true;
	for (size_t i = 0; name && i < ARRAY_SIZE(names); i++)
		if (!strncmp(name + 1, names[i], strlen(names[i])))
			return true;
	return false;
}
