/* What can and can't be saved, as tables for those who ask: `fermata features` and the README. Kinds of descriptors: kinds/kind.h. */
#pragma once

#include "base/base.h"

/* What is saved of processes beside their descriptors. */
struct feature {
	const char *name, *summary;
};
extern const struct feature features[];
extern const size_t features_count;

/*
 * What a dump ends at. `text` is a part of what it says then: scripts/docs.py sees to it that each row has its message in the engine and
 * each message its row. Rows of one name stand together.
 */
struct refusal {
	const char *name, *text;
	const char *remedy; /* NULL: there is none */
};
extern const struct refusal refusals[];
extern const size_t refusals_count;

/* Why a row of refusals, or a kind that is refused, has that name; reasons.c. NULL: nobody has written it down, which a test finds. */
const char *reason_of(const char *name);

/* Kinds of descriptors that are known and refused, by name. NULL after the last; a name may come more than once. */
const char *unknown_kind_at(size_t i); /* kinds/unknown.c */
