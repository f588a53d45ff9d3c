/*
 * CDI specifications (Container Device Interface, 0.3 to 1.1): what a container is given for a GPU, as `nvidia-ctk cdi generate` writes it to /etc/cdi or
 * /var/run/cdi, in YAML or JSON. Read here to tell whether they fit the driver and the GPUs, and where a container of this machine finds what one of another had.
 *
 * Nothing is done with them: the container's runtime does that.
 */
#pragma once

#include "base/error.h"
#include "gpu/gpu.h"

struct cdi_node {
	char *path, *host_path; /* in the container; on the host */
};
struct cdi_mount {
	char *host_path, *path;
};
struct cdi_hook {
	char *name, *path; /* createContainer … */
	VEC(char *) arguments;
};
struct cdi_edits {
	VEC(struct cdi_node) nodes;
	VEC(struct cdi_mount) mounts;
	VEC(struct cdi_hook) hooks;
	VEC(char *) environment;
};
struct cdi_device {
	char *name; /* "0", "gpu0", "GPU-…", "all" */
	struct cdi_edits edits;
};
struct cdi_spec {
	char *file, *version, *kind;
	struct cdi_edits edits; /* whatever the device */
	VEC(struct cdi_device) devices;
};
/* A file that can't be read, and why. */
struct cdi_damage {
	char *file;
	struct error why;
};
struct cdi {
	VEC(struct cdi_spec) specs; /* of kinds of NVIDIA's GPUs alone */
	VEC(struct cdi_damage) damaged;
};

/* One document; `json`: it is JSON, not YAML. *ret is released by cdi_spec_release also after a failure. -EBADMSG: it is none. */
int cdi_parse(const char *text, size_t size, bool json, struct cdi_spec *ret, struct error *e);
void cdi_spec_release(struct cdi_spec *spec);
/* All of the directories, NULL at the end of the list; NULL: the usual ones, or those of $FERMATA_CDI_DIRS, with colons between. */
int cdi_read(const char *const *dirs, struct cdi *ret, struct error *e);
void cdi_release(struct cdi *cdi);

/* Whether a container of this specification could run on this machine: 0, or 1 with what differs and what would help. */
int cdi_compare(const struct cdi_spec *spec, const struct gpu_machine *machine, char *why, size_t room);
/* The driver's version that it is of, from what it mounts; or NULL. */
const char *cdi_driver(const struct cdi_spec *spec, char room[32]);
/* Where the host has what the container has at `path`: a mount or a device's node; or NULL. */
const char *cdi_host_path(const struct cdi *cdi, const char *path);
