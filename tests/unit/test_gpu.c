/* CDI specifications in the forms that nvidia-ctk writes, and how the driver of a checkpoint is compared with another. */
#include "gpu/cdi.h"
#include "gpu/compare.h"

static int failures;

static void check(const char *name, bool good)
{
	printf(good ? "ok %s\n" : "not ok %s: see tests/unit/test_gpu.c\n", name);
	failures += !good;
}

static bool is(const char *a, const char *b)
{
	return a && b && !strcmp(a, b);
}

#define UUID(n) "GPU-01234567-89ab-cdef-0123-4567890000" n
#define LIB "/usr/lib/x86_64-linux-gnu/libcuda.so."

static const struct cdi_spec *find(const struct cdi *cdi, const char *kind)
{
	VEC_FOREACH(&cdi->specs, spec)
		if (!strcmp(spec->kind, kind))
			return spec;
	return NULL;
}

static void check_read(const struct cdi *cdi)
{
	const struct cdi_spec *yaml = find(cdi, "nvidia.com/gpu"), *json = find(cdi, "k8s.device-plugin.nvidia.com/gpu");
	char room[32];

	check("cdi kinds", cdi->specs.count == 2 && yaml && json);
	check("cdi damage is told, with its line", cdi->damaged.count == 1 && strstr(cdi->damaged.data[0].file, "broken.yaml") && strstr(cdi->damaged.data[0].why.text, "line "));
	if (!yaml || !json)
		return;
	check("cdi devices", yaml->devices.count == 5 && is(yaml->devices.data[0].name, "0") && is(yaml->devices.data[1].name, UUID("00")) && is(yaml->devices.data[4].name, "all"));
	check("cdi nodes", yaml->edits.nodes.count == 4 && is(yaml->edits.nodes.data[3].path, "/dev/nvidiactl") && is(yaml->edits.nodes.data[3].host_path, "/dev/nvidiactl"));
	check("cdi mounts", yaml->edits.mounts.count == 10 && is(yaml->edits.mounts.data[0].path, "/run/nvidia-persistenced/socket"));
	check("cdi hooks", yaml->edits.hooks.count == 3 && is(yaml->edits.hooks.data[1].name, "createContainer") && yaml->edits.hooks.data[1].arguments.count == 3);
	check("cdi environment", yaml->edits.environment.count == 1 && is(yaml->edits.environment.data[0], "NVIDIA_VISIBLE_DEVICES=void"));
	check("cdi driver of yaml", is(cdi_driver(yaml, room), "580.65.06"));
	check("cdi driver of json", is(cdi_driver(json, room), "615.43.02"));
}

static void check_places(const struct cdi *cdi)
{
	check("cdi host path of a mount", is(cdi_host_path(cdi, LIB "615.43.02"), "/run/nvidia/driver" LIB "615.43.02"));
	check("cdi host path of a node", is(cdi_host_path(cdi, "/dev/nvidia-uvm"), "/dev/nvidia-uvm"));
	check("cdi nothing", !cdi_host_path(cdi, "/dev/null"));
}

static void check_fits(struct cdi *cdi)
{
	struct gpu_machine machine = { .driver = "580.65.06", .n_devices = 2, .devices = { { UUID("00"), "A", 0, 0, false }, { UUID("01"), "A", 0, 0, false } } };
	struct cdi_spec *yaml = (struct cdi_spec *)find(cdi, "nvidia.com/gpu");
	char why[400];

	check("cdi missing files", cdi_compare(yaml, &machine, why, sizeof(why)) == 1 && strstr(why, "is not there"));
	VEC_FOREACH(&yaml->edits.mounts, mount)
		strcpy(mount->host_path, "/");
	VEC_FOREACH(&yaml->edits.nodes, node)
		strcpy(node->host_path, "/");
	VEC_FOREACH(&yaml->devices, device)
		VEC_FOREACH(&device->edits.nodes, node)
			strcpy(node->host_path, "/");
	check("cdi fits", cdi_compare(yaml, &machine, why, sizeof(why)) == 0);
	strcpy(machine.devices[1].uuid, UUID("02"));
	check("cdi a GPU has gone", cdi_compare(yaml, &machine, why, sizeof(why)) == 1 && strstr(why, UUID("01")));
	machine.n_devices = 3;
	strcpy(machine.devices[2].uuid, UUID("01"));
	check("cdi a GPU has come", cdi_compare(yaml, &machine, why, sizeof(why)) == 1 && strstr(why, "lacks " UUID("02")));
	strcpy(machine.driver, "580.95.05");
	strcpy(yaml->edits.mounts.data[4].host_path, "/x");
	check("cdi another driver", cdi_compare(yaml, &machine, why, sizeof(why)) == 1 && strstr(why, "580.65.06") && strstr(why, "nvidia-ctk"));
}

/* Aliases that name each other over and over. */
static void check_bomb(void)
{
	char text[4000] = "a0: &a0 [x, x, x, x, x, x, x, x]\n";
	struct cdi_spec spec;
	struct error e = {};

	for (int i = 1; i < 12; i++)
		sprintf(text + strlen(text), "a%d: &a%d [*a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d]\n", i, i, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1);
	check("cdi aliases without end", cdi_parse(text, strlen(text), false, &spec, &e) < 0);
	cdi_spec_release(&spec);
	static const char *const wrong[] = { "", "a", "- b", "cdiVersion: 1", "{}", "kind: nvidia.com/gpu\ncdiVersion: 1\ndevices: [{}]",
					     "kind: nvidia.com/gpu\ncdiVersion: 1\ncontainerEdits: {mounts: [{hostPath: a}]}", "? [a]\n: b", "\t", "kind: nvidia.com/gpu\ncdiVersion: 1\ncontainerEdits: {env: [[a]]}" };
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		bool bad = cdi_parse(wrong[i], strlen(wrong[i]), false, &spec, &e) < 0 && e.text[0];
		cdi_spec_release(&spec);
		bad &= cdi_parse(wrong[i], strlen(wrong[i]), true, &spec, &e) < 0 && e.text[0];
		cdi_spec_release(&spec);
		check("cdi what is no specification", bad);
	}
}

static bool verdict(struct gpu_software then, struct gpu_software now, enum gpu_verdict v, const char *word)
{
	char why[512];

	return gpu_compare(&then, &now, why, sizeof(why)) == v && strstr(why, word);
}
#define SOFTWARE(...) (struct gpu_software){ __VA_ARGS__ }

static void check_compare(void)
{
	struct gpu_software then = { "580.65.06", LIB "580.65.06", "aabb" };

	check("identical", verdict(then, then, GPU_IDENTICAL, "same"));
	check("another driver, its library brought along", verdict(then, SOFTWARE("580.95.05", LIB "580.65.06", "aabb"), GPU_COMPATIBLE, "580.95.05"));
	check("another driver, no library", verdict(then, SOFTWARE("615.43.02", NULL, ""), GPU_INCOMPATIBLE, "not here"));
	check("another library", verdict(then, SOFTWARE("580.65.06", LIB "580.65.06", "ccdd"), GPU_INCOMPATIBLE, "build id"));
	check("a library that says nothing", verdict(SOFTWARE("580.65.06", "/l", ""), SOFTWARE("590.1", "/l", "aabb"), GPU_COMPATIBLE, "its name"));
	check("nothing known", verdict(SOFTWARE("", NULL, ""), SOFTWARE("", NULL, ""), GPU_IDENTICAL, ""));
	check("external", gpu_is_external("/dev/nvidia-caps/nvidia-cap1") && gpu_is_external(LIB "1") && gpu_is_external("/proc/driver/nvidia/params") &&
			      gpu_is_external("/run/nvidia-persistenced/socket") && !gpu_is_external("/usr/lib/libcudart.so.12") && !gpu_is_external("/dev/null"));
}

int main(int argc, char **argv)
{
	const char *dir = argc > 1 ? argv[1] : CDI_DIR, *dirs[] = { "/nonexistent", dir, NULL };
	struct error e = {};
	struct cdi cdi;

	check("cdi directory", cdi_read(dirs, &cdi, &e) == 0);
	check_read(&cdi);
	if (cdi.specs.count == 2) {
		check_places(&cdi);
		check_fits(&cdi);
	}
	cdi_release(&cdi);
	check_bomb();
	check_compare();
	return failures != 0;
}
