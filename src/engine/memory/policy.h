/* Memory policies of areas: mbind(2). Those of threads are with their scheduling. */
#pragma once

#include "base/pool.h"
#include "engine/dump.h"
#include "vma.pb-c.h"

/* Fills the policy of each area that has one of its own. `task_mode`: the policy of the task, 0 for the default. */
int policy_capture(struct dump *d, pid_t pid, VmaEntry **vmas, size_t count, uint32_t task_mode, struct pool *pool);
