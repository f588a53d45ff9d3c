/* Routes about checkpoints and stores that are there: upkeep.c. Each handles a call, see api.h. */
#pragma once

#include "daemon/api.h"

/* The one that the path names, when it is the caller's. */
int call_get_checkpoint(struct call *c, struct checkpoint *ret, struct error *e);

int call_delete_checkpoint(struct call *c, struct error *e);
int call_flatten_checkpoint(struct call *c, struct error *e);
int call_flatten_path(struct call *c, struct error *e); /* body: path */
int call_verify_checkpoint(struct call *c, struct error *e);
/* By paths behind `?`: path, other, key. Root's. */
int call_inspect_path(struct call *c, struct error *e);
int call_verify_path(struct call *c, struct error *e);
int call_diff_paths(struct call *c, struct error *e);
/* body: store, key */
int call_store_ls(struct call *c, struct error *e);
int call_store_stats(struct call *c, struct error *e);
int call_store_verify(struct call *c, struct error *e);
int call_store_prune(struct call *c, struct error *e);
int call_store_rm(struct call *c, struct error *e); /* checkpoint, key */
