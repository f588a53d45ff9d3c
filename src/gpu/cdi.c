/* See cdi.h. Both forms become one tree of jansson's first. */
#include "gpu/cdi.h"

#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <yaml.h>

#define FILE_MAX (4UL << 20)
#define NODES_MAX 200000 /* of a YAML document, aliases followed: some are made to grow without end */
#define DEPTH_MAX 32
#define KIND "nvidia.com/gpu" /* also behind a prefix: k8s.device-plugin.nvidia.com/gpu */

static const char *const usual_dirs[] = { "/etc/cdi", "/var/run/cdi", NULL };

/* ---- YAML ---- */

static json_t *convert(yaml_document_t *document, int index, int depth, size_t *left);

static json_t *convert_pairs(yaml_document_t *document, const yaml_node_t *node, int depth, size_t *left)
{
	json_t *object = json_object();

	for (yaml_node_pair_t *p = node->data.mapping.pairs.start; object && p < node->data.mapping.pairs.top; p++) {
		const yaml_node_t *key = yaml_document_get_node(document, p->key);
		json_t *value = key && key->type == YAML_SCALAR_NODE ? convert(document, p->value, depth, left) : NULL;
		if (!value || json_object_set_new(object, (const char *)key->data.scalar.value, value)) {
			json_decref(object);
			return NULL;
		}
	}
	return object;
}

static json_t *convert(yaml_document_t *document, int index, int depth, size_t *left)
{
	const yaml_node_t *node = yaml_document_get_node(document, index);

	if (!node || depth > DEPTH_MAX || !*left)
		return NULL;
	--*left;
	if (node->type == YAML_SCALAR_NODE) /* numbers are wanted as text too */
		return json_stringn((const char *)node->data.scalar.value, node->data.scalar.length);
	if (node->type == YAML_MAPPING_NODE)
		return convert_pairs(document, node, depth + 1, left);
	json_t *array = json_array();
	for (yaml_node_item_t *item = node->data.sequence.items.start; array && item < node->data.sequence.items.top; item++) {
		json_t *value = convert(document, *item, depth + 1, left);
		if (!value || json_array_append_new(array, value)) {
			json_decref(array);
			return NULL;
		}
	}
	return array;
}

static json_t *load_yaml(const char *text, size_t size, struct error *e)
{
	yaml_document_t document;
	yaml_parser_t parser;
	size_t left = NODES_MAX;
	json_t *root = NULL;

	if (!yaml_parser_initialize(&parser))
		return NULL;
	yaml_parser_set_input_string(&parser, (const unsigned char *)text, size);
	if (!yaml_parser_load(&parser, &document)) {
		error_set(e, -EBADMSG, "line %zu: %s", parser.problem_mark.line + 1, parser.problem ? parser.problem : "it can't be parsed");
	} else {
		const yaml_node_t *first = yaml_document_get_root_node(&document);
		root = first ? convert(&document, 1, 0, &left) : NULL;
		yaml_document_delete(&document);
	}
	yaml_parser_delete(&parser);
	return root;
}

/* ---- what it says ---- */

static char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? strdup(text) : NULL;
}

static int read_strings(const json_t *array, char ***data, size_t *count, size_t *capacity)
{
	json_t *one;
	size_t i;

	json_array_foreach(array, i, one) {
		if (!json_is_string(one) || !vec_reserve((void **)data, capacity, *count + 1, sizeof(char *)))
			return -EBADMSG;
		(*data)[*count] = strdup(json_string_value(one));
		if (!(*data)[(*count)++])
			return -ENOMEM;
	}
	return 0;
}
#define READ_STRINGS(array, v) read_strings(array, &(v)->data, &(v)->count, &(v)->capacity)

static int read_edits(const json_t *json, struct cdi_edits *ret)
{
	json_t *one;
	size_t i;

	json_array_foreach(json_object_get(json, "deviceNodes"), i, one) {
		struct cdi_node *node = VEC_PUSH(&ret->nodes);
		if (!node || !(node->path = text_of(one, "path")))
			return -EBADMSG;
		node->host_path = text_of(one, "hostPath");
		if (!node->host_path && !(node->host_path = strdup(node->path)))
			return -ENOMEM;
	}
	json_array_foreach(json_object_get(json, "mounts"), i, one) {
		struct cdi_mount *mount = VEC_PUSH(&ret->mounts);
		if (!mount || !(mount->host_path = text_of(one, "hostPath")) || !(mount->path = text_of(one, "containerPath")))
			return -EBADMSG;
	}
	json_array_foreach(json_object_get(json, "hooks"), i, one) {
		struct cdi_hook *hook = VEC_PUSH(&ret->hooks);
		if (!hook || !(hook->name = text_of(one, "hookName")) || !(hook->path = text_of(one, "path")))
			return -EBADMSG;
		int r = READ_STRINGS(json_object_get(one, "args"), &hook->arguments);
		if (r)
			return r;
	}
	return READ_STRINGS(json_object_get(json, "env"), &ret->environment);
}

static int read_spec(const json_t *root, struct cdi_spec *ret)
{
	json_t *one;
	size_t i;

	ret->version = text_of(root, "cdiVersion");
	ret->kind = text_of(root, "kind");
	if (!ret->version || !ret->kind || !strchr(ret->kind, '/'))
		return -EBADMSG;
	int r = read_edits(json_object_get(root, "containerEdits"), &ret->edits);
	json_array_foreach(json_object_get(root, "devices"), i, one) {
		struct cdi_device *device = r ? NULL : VEC_PUSH(&ret->devices);
		if (!device || !(device->name = text_of(one, "name")))
			return r ? r : -EBADMSG;
		r = read_edits(json_object_get(one, "containerEdits"), &device->edits);
	}
	return r;
}

int cdi_parse(const char *text, size_t size, bool json, struct cdi_spec *ret, struct error *e)
{
	json_error_t where = {};

	*ret = (struct cdi_spec){};
	e->text[0] = '\0';
	json_t *root = json ? json_loadb(text, size, 0, &where) : load_yaml(text, size, e);
	if (json && !root)
		return error_set(e, -EBADMSG, "line %d: %s", where.line, where.text);
	int r = json_is_object(root) ? read_spec(root, ret) : -EBADMSG;
	json_decref(root);
	return r && !e->text[0] ? error_set(e, r, r == -ENOMEM ? "out of memory" : "it is no CDI specification") : r;
}

static void release_strings(char **data, size_t count)
{
	for (size_t i = 0; i < count; i++)
		free(data[i]);
	free(data);
}

static void release_edits(struct cdi_edits *edits)
{
	VEC_FOREACH(&edits->nodes, node) {
		free(node->path);
		free(node->host_path);
	}
	VEC_FOREACH(&edits->mounts, mount) {
		free(mount->path);
		free(mount->host_path);
	}
	VEC_FOREACH(&edits->hooks, hook) {
		free(hook->name);
		free(hook->path);
		release_strings(hook->arguments.data, hook->arguments.count);
	}
	release_strings(edits->environment.data, edits->environment.count);
	VEC_FREE(&edits->nodes);
	VEC_FREE(&edits->mounts);
	VEC_FREE(&edits->hooks);
}

void cdi_spec_release(struct cdi_spec *spec)
{
	VEC_FOREACH(&spec->devices, device) {
		free(device->name);
		release_edits(&device->edits);
	}
	VEC_FREE(&spec->devices);
	release_edits(&spec->edits);
	free(spec->file);
	free(spec->version);
	free(spec->kind);
	*spec = (struct cdi_spec){};
}

/* ---- the directories ---- */

static bool ends_in(const char *text, const char *end)
{
	const size_t size = strlen(text), tail = strlen(end);

	return size >= tail && !strcmp(text + size - tail, end);
}

static int read_file(const char *path, struct cdi *ret)
{
	_cleanup_free_ char *text = NULL;
	struct cdi_spec spec = {};
	struct error e = {};
	size_t size = 0;
	int r = read_file_at(AT_FDCWD, path, FILE_MAX, &text, &size);

	r = r ? error_errno(&e, r, "it can't be read") : cdi_parse(text, size, ends_in(path, ".json"), &spec, &e);
	if (r) {
		struct cdi_damage *damage = VEC_PUSH(&ret->damaged);
		cdi_spec_release(&spec);
		if (!damage || !(damage->file = strdup(path)))
			return -ENOMEM;
		damage->why = e;
		return 0;
	}
	struct cdi_spec *slot = ends_in(spec.kind, KIND) && (spec.file = strdup(path)) ? VEC_PUSH(&ret->specs) : NULL;
	if (slot)
		*slot = spec;
	else
		cdi_spec_release(&spec);
	return 0;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int read_dir(const char *path, struct cdi *ret)
{
	struct dirent **entries;
	int count = scandir(path, &entries, NULL, by_name), r = 0;

	for (int i = 0; i < count; i++) {
		char file[4096];
		const char *name = entries[i]->d_name;
		if (!r && (ends_in(name, ".yaml") || ends_in(name, ".yml") || ends_in(name, ".json")) &&
		    snprintf(file, sizeof(file), "%s/%s", path, name) < (int)sizeof(file))
			r = read_file(file, ret);
		free(entries[i]);
	}
	if (count >= 0)
		free(entries);
	return r;
}

int cdi_read(const char *const *dirs, struct cdi *ret, struct error *e)
{
	const char *asked = dirs ? NULL : getenv("FERMATA_CDI_DIRS");
	_cleanup_free_ char *list = asked ? strdup(asked) : NULL;
	char *rest = list;
	int r = 0;

	*ret = (struct cdi){};
	for (char *dir; !r && rest && (dir = strsep(&rest, ":"));)
		r = *dir ? read_dir(dir, ret) : 0;
	for (const char *const *dir = dirs ? dirs : usual_dirs; !r && !asked && *dir; dir++)
		r = read_dir(*dir, ret);
	if (!r)
		return 0;
	cdi_release(ret);
	return error_set(e, r, "out of memory");
}

void cdi_release(struct cdi *cdi)
{
	VEC_FOREACH(&cdi->specs, spec)
		cdi_spec_release(spec);
	VEC_FOREACH(&cdi->damaged, damage)
		free(damage->file);
	VEC_FREE(&cdi->specs);
	VEC_FREE(&cdi->damaged);
}

/* ---- what it means ---- */

/* "…/libcuda.so.580.65.06": more than the "1" of the name that programs ask for. */
static const char *version_in(const char *path)
{
	const char *name = strrchr(path, '/');

	name = name ? name + 1 : path;
	if (strncmp(name, "libcuda.so.", 11) && strncmp(name, "libnvidia-ml.so.", 16))
		return NULL;
	name = strstr(name, ".so.") + 4;
	return strchr(name, '.') && name[strspn(name, "0123456789.")] == '\0' ? name : NULL;
}

const char *cdi_driver(const struct cdi_spec *spec, char room[32])
{
	const char *found = NULL;

	VEC_FOREACH(&spec->edits.mounts, mount)
		found = found ? found : version_in(mount->host_path);
	VEC_FOREACH(&spec->edits.hooks, hook)
		VEC_FOREACH(&hook->arguments, argument)
			if (!found && !strncmp(*argument, "--host-driver-version=", 22))
				found = *argument + 22;
	if (!found)
		return NULL;
	snprintf(room, 32, "%s", found);
	return room;
}

static const struct cdi_device *find_device(const struct cdi_spec *spec, const char *name)
{
	VEC_FOREACH(&spec->devices, device)
		if (!strcmp(device->name, name))
			return device;
	return NULL;
}

static bool names_uuids(const struct cdi_spec *spec)
{
	VEC_FOREACH(&spec->devices, device)
		if (!strncmp(device->name, "GPU-", 4))
			return true;
	return false;
}

static bool has_gpu(const struct gpu_machine *machine, const char *uuid)
{
	for (uint32_t i = 0; i < machine->n_devices; i++)
		if (!strcmp(machine->devices[i].uuid, uuid))
			return true;
	return false;
}

static const char *missing_file(const struct cdi_edits *edits)
{
	VEC_FOREACH(&edits->mounts, mount)
		if (access(mount->host_path, F_OK))
			return mount->host_path;
	VEC_FOREACH(&edits->nodes, node)
		if (access(node->host_path, F_OK))
			return node->host_path;
	return NULL;
}

int cdi_compare(const struct cdi_spec *spec, const struct gpu_machine *machine, char *why, size_t room)
{
	const char *again = "; write it again: nvidia-ctk cdi generate --output=";
	char version[32];
	const char *driver = cdi_driver(spec, version);

	why[0] = '\0';
	if (driver && machine->driver[0] && strcmp(driver, machine->driver))
		return snprintf(why, room, "it is of driver %s, and %s is loaded%s%s", driver, machine->driver, again, spec->file ? spec->file : ""), 1;
	VEC_FOREACH(&spec->devices, device)
		if (!strncmp(device->name, "GPU-", 4) && !has_gpu(machine, device->name))
			return snprintf(why, room, "it has %s, which is not in this machine%s%s", device->name, again, spec->file ? spec->file : ""), 1;
	for (uint32_t i = 0; names_uuids(spec) && i < machine->n_devices; i++)
		if (!find_device(spec, machine->devices[i].uuid))
			return snprintf(why, room, "it lacks %s (%s)%s%s", machine->devices[i].uuid, machine->devices[i].name, again, spec->file ? spec->file : ""), 1;
	const char *missing = missing_file(&spec->edits);
	VEC_FOREACH(&spec->devices, device)
		missing = missing ? missing : missing_file(&device->edits);
	if (missing)
		return snprintf(why, room, "%s is not there%s%s", missing, again, spec->file ? spec->file : ""), 1;
	return 0;
}

static const char *host_path_in(const struct cdi_edits *edits, const char *path)
{
	VEC_FOREACH(&edits->mounts, mount)
		if (!strcmp(mount->path, path))
			return mount->host_path;
	VEC_FOREACH(&edits->nodes, node)
		if (!strcmp(node->path, path))
			return node->host_path;
	return NULL;
}

const char *cdi_host_path(const struct cdi *cdi, const char *path)
{
	VEC_FOREACH(&cdi->specs, spec) {
		const char *found = host_path_in(&spec->edits, path);
		VEC_FOREACH(&spec->devices, device)
			found = found ? found : host_path_in(&device->edits, path);
		if (found)
			return found;
	}
	return NULL;
}
