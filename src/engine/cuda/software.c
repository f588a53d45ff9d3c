/* See software.h. */
#include "engine/cuda/software.h"

#include "base/log.h"
#include "engine/kinds/validate.h"
#include "engine/path.h"
#include "gpu/cdi.h"
#include "gpu/compare.h"
#include "proc/proc.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

static bool is_libcuda(const char *path)
{
	const char *name = strrchr(path, '/');

	return name && !strncmp(name + 1, "libcuda.so", 10);
}

static void write_build_id(int fd, char *ret, size_t room)
{
	uint32_t id[BUILD_ID_WORDS];
	struct stat st;
	const size_t n = fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ? 0 : validate_file_build_id(fd, id);

	ret[0] = '\0';
	for (size_t i = 0; i < n * sizeof(*id) && 2 * i + 2 < room; i++)
		sprintf(ret + 2 * i, "%02x", ((const unsigned char *)id)[i]);
}

/* The path means what it means to the process. */
static void read_build_id(struct cuda_software *s, pid_t pid, const char *path)
{
	char whole[PATH_MAX];

	snprintf(whole, sizeof(whole), "/proc/%d/root%s", pid, path);
	_cleanup_close_ int fd = open(whole, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	write_build_id(fd, s->build_id, sizeof(s->build_id));
}

static int add_path(struct cuda_software *s, pid_t pid, const char *path)
{
	if (!gpu_is_external(path))
		return 0;
	VEC_FOREACH(&s->paths, known)
		if (!strcmp(*known, path))
			return 0;
	char **slot = VEC_PUSH(&s->paths);
	if (!slot || !(*slot = strdup(path))) {
		s->paths.count -= slot != NULL;
		return -ENOMEM;
	}
	if (is_libcuda(path) && !s->build_id[0])
		read_build_id(s, pid, path);
	return 0;
}

int cuda_software_add(struct cuda_software *s, pid_t pid)
{
	struct proc_maps maps = {};
	struct proc_fds fds = {};
	int r = 0;

	if (!proc_read_maps(pid, &maps))
		for (size_t i = 0; !r && i < maps.count; i++)
			if (maps.data[i].name && maps.data[i].name[0] == '/')
				r = add_path(s, pid, maps.data[i].name);
	if (!r && !proc_list_fds(pid, &fds))
		for (size_t i = 0; !r && i < fds.count; i++) {
			char link[64], path[PATH_MAX] = "";
			snprintf(link, sizeof(link), "/proc/%d/fd/%d", pid, fds.data[i]);
			if (readlink(link, path, sizeof(path) - 1) > 0 && path[0] == '/')
				r = add_path(s, pid, path);
		}
	proc_maps_finish(&maps);
	VEC_FREE(&fds);
	return r;
}

int cuda_software_entry(const struct cuda_software *s, FermataGpuEntry *entry)
{
	entry->externals = s->paths.count ? calloc(s->paths.count, sizeof(*entry->externals)) : NULL;
	for (size_t i = 0; i < s->paths.count; i++) {
		FermataGpuExternal *one = entry->externals ? calloc(1, sizeof(*one)) : NULL;
		if (!one)
			return -ENOMEM;
		fermata_gpu_external__init(one);
		entry->externals[entry->n_externals++] = one;
		one->path = strdup(s->paths.data[i]);
		one->build_id = is_libcuda(s->paths.data[i]) && s->build_id[0] ? strdup(s->build_id) : NULL;
		if (!one->path)
			return -ENOMEM;
	}
	return 0;
}

void cuda_software_release(struct cuda_software *s)
{
	VEC_FOREACH(&s->paths, path)
		free(*path);
	VEC_FREE(&s->paths);
}

/* ---- restore ---- */

/* Where this machine has for its containers what is not at its name. */
static const char *place_in_cdi(const char *path, char *room, size_t size)
{
	struct error ignored;
	struct cdi cdi;

	room[0] = '\0';
	if (cdi_read(NULL, &cdi, &ignored))
		return room;
	const char *host = cdi_host_path(&cdi, path);
	if (host)
		snprintf(room, size, "; containers get it from %s (CDI)", host);
	cdi_release(&cdi);
	return room;
}

static int compare_library(const FermataGpuEntry *entry, const FermataGpuExternal *lib, const struct gpu_machine *machine, struct error *e)
{
	char why[512], build_id[129] = "", place[PATH_MAX];
	_cleanup_close_ int fd = lib ? path_open(0, lib->path, O_RDONLY | O_NONBLOCK) : -1;
	struct gpu_software then = { entry->driver, lib ? lib->path : NULL, lib && lib->build_id ? lib->build_id : "" };
	struct gpu_software now = { machine->driver, fd >= 0 ? lib->path : NULL, build_id };

	write_build_id(fd, build_id, sizeof(build_id));
	enum gpu_verdict v = gpu_compare(&then, &now, why, sizeof(why));
	if (v == GPU_INCOMPATIBLE)
		return error_set(e, -ENOTSUP, "it is incompatible: %s%s", why, fd < 0 ? place_in_cdi(lib->path, place, sizeof(place)) : "");
	if (v == GPU_COMPATIBLE)
		log_warning("GPU software is compatible: %s", why);
	else
		log_info("GPU software is identical: %s", why);
	return 0;
}

int cuda_software_compare(const FermataGpuEntry *entry, const struct gpu_machine *machine, struct error *e)
{
	const FermataGpuExternal *lib = NULL;
	char place[PATH_MAX];

	for (size_t i = 0; i < entry->n_externals; i++)
		if (!lib && is_libcuda(entry->externals[i]->path))
			lib = entry->externals[i];
	int r = compare_library(entry, lib, machine, e);
	for (size_t i = 0; !r && i < entry->n_externals; i++) {
		const char *path = entry->externals[i]->path;
		/* Devices have other numbers on another machine; the driver's restore opens those it wants. */
		if (strstr(path, ".so") && path[0] == '/' && access(path, F_OK))
			r = error_set(e, -ENOENT, "%s, of the GPU's driver, is not here%s", path, place_in_cdi(path, place, sizeof(place)));
	}
	return r;
}
