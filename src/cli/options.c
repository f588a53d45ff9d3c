/* See options.h. */
#include "cli/options.h"

#include <ctype.h>
#include <limits.h>

#define PREFIX_MAX 100
#define MOST_NAMED 3 /* of the verbs that have an option */

bool option_takes_value(const struct option_row *row)
{
	return row->kind == OPTION_INT || row->kind == OPTION_SIZE || row->kind == OPTION_STRING || row->kind == OPTION_LIST;
}

static bool may_have_value(const struct option_row *row)
{
	return option_takes_value(row) || row->kind == OPTION_OPTIONAL || row->kind == OPTION_LEVEL;
}

bool option_belongs(const struct program *p, const struct verb *verb, const struct option_row *row)
{
	return row->verbs == ALL_VERBS || (verb && row->verbs >> (verb - p->verbs) & 1);
}

const struct option_row *option_find(const struct program *p, const char *name)
{
	for (size_t i = 0; i < p->n_rows; i++)
		if (!strcmp(p->rows[i].name, name))
			return &p->rows[i];
	return NULL;
}

const struct given *given_find(const struct given_options *given, const char *name)
{
	for (size_t i = given->count; i-- > 0;)
		if (!strcmp(given->data[i].row->name, name))
			return &given->data[i];
	return NULL;
}

/* The verb's own before one of all verbs, before another's. */
const struct option_row *option_find_letter(const struct program *p, const struct verb *verb, char letter)
{
	const struct option_row *found = NULL;

	for (size_t i = 0; i < p->n_rows; i++) {
		const struct option_row *row = &p->rows[i];
		if (row->letter != letter)
			continue;
		if (row->verbs != ALL_VERBS && option_belongs(p, verb, row))
			return row;
		if (!found || (found->verbs != ALL_VERBS && row->verbs == ALL_VERBS))
			found = row;
	}
	return found;
}

enum match { MATCH_NONE, MATCH_ONE, MATCH_SEVERAL };

/* The row with this name, or the only one that begins so; `no-` in front of what is on or off. */
static enum match find_long(const struct program *p, const char *name, size_t length, bool whole, const struct option_row **ret,
			    bool *ret_negated)
{
	enum match match = MATCH_NONE;

	*ret_negated = false;
	for (size_t i = 0; i < p->n_rows; i++) {
		const struct option_row *row = &p->rows[i];
		if (strncmp(row->name, name, length))
			continue;
		*ret = row;
		if (!row->name[length])
			return MATCH_ONE;
		match = match ? MATCH_SEVERAL : MATCH_ONE;
	}
	for (size_t i = 0; i < p->n_rows && length > 3 && !strncmp(name, "no-", 3); i++) {
		const struct option_row *row = &p->rows[i];
		if (row->kind == OPTION_BOOL && strlen(row->name) == length - 3 && !strncmp(row->name, name + 3, length - 3)) {
			*ret = row;
			*ret_negated = true;
			return MATCH_ONE;
		}
	}
	return whole ? MATCH_NONE : match;
}

static int note(struct given_options *given, struct given one, struct error *e)
{
	struct given *slot = VEC_PUSH(given);

	if (!slot)
		return error_set(e, -ENOMEM, "out of memory");
	*slot = one;
	return 0;
}

static int needs_value(const struct option_row *row, struct error *e)
{
	return error_set(e, -EINVAL, "option --%s needs a value: --%s %s", row->name, row->name, row->argument);
}

/* `name` may have `=VALUE` behind it. */
static int parse_long(const struct program *p, const char *name, bool whole, char ***args, struct given_options *given, struct error *e)
{
	size_t length = strcspn(name, "=");
	struct given one = {};

	switch (find_long(p, name, length, whole, &one.row, &one.negated)) {
	case MATCH_NONE:
		return error_set(e, -EINVAL, "there is no option --%.*s; see %s --help", (int)length, name, p->name);
	case MATCH_SEVERAL:
		return error_set(e, -EINVAL, "option --%.*s can mean several; write it in full, see %s --help", (int)length, name, p->name);
	default:
		break;
	}
	if (name[length])
		one.value = name + length + 1;
	if (one.value && (one.negated || !may_have_value(one.row)))
		return error_set(e, -EINVAL, "option --%.*s takes no value, %s was given", (int)length, name, one.value);
	if (!one.value && !one.negated && option_takes_value(one.row)) {
		if (!*++*args)
			return needs_value(one.row, e);
		one.value = **args;
	}
	return note(given, one, e);
}

static int parse_letters(const struct program *p, const struct verb *verb, const char *letters, char ***args, struct given_options *given, struct error *e)
{
	for (const char *c = letters; *c; c++) {
		struct given one = { .row = option_find_letter(p, verb, *c) };
		bool has_value;
		if (!one.row && c == letters)
			return error_set(e, -EINVAL, "there is no option -%s; see %s --help", letters, p->name);
		if (!one.row)
			return error_set(e, -EINVAL, "there is no option -%c in -%s; see %s --help", *c, letters, p->name);
		if (one.row->kind == OPTION_LEVEL)
			has_value = isdigit((unsigned char)c[1]) || c[1] == '=';
		else
			has_value = c[1] && may_have_value(one.row);
		if (has_value)
			one.value = c[1] == '=' ? c + 2 : c + 1;
		else if (option_takes_value(one.row)) {
			if (!*++*args)
				return needs_value(one.row, e);
			one.value = **args;
		}
		int r = note(given, one, e);
		if (r || has_value)
			return r;
	}
	return 0;
}

/* An option with one dash is a name when it is one in full, else letters, else the beginning of a name. */
static int parse_one_dash(const struct program *p, const struct verb *verb, const char *text, char ***args, struct given_options *given,
			  struct error *e)
{
	const struct option_row *row;
	bool negated;
	size_t length = strcspn(text, "=");
	bool is_name = text[1] && find_long(p, text, length, true, &row, &negated) == MATCH_ONE && strlen(row->name) + 3 * negated == length;

	if (is_name)
		return parse_long(p, text, true, args, given, e);
	if (!option_find_letter(p, verb, text[0]) && text[1] && find_long(p, text, length, false, &row, &negated) != MATCH_NONE)
		return parse_long(p, text, false, args, given, e);
	return parse_letters(p, verb, text, args, given, e);
}

int options_parse(const struct program *p, char **argv, struct given_options *given, struct words *words, char ***ret_rest,
		  struct error *e)
{
	int r = 0;

	*ret_rest = NULL;
	for (char **args = argv + 1; !r && *args; args += *args != NULL) {
		const char *a = *args;
		if (!strcmp(a, "--")) {
			*ret_rest = args + 1;
			break;
		}
		if (a[0] == '-' && a[1] == '-') {
			r = parse_long(p, a + 2, false, &args, given, e);
		} else if (a[0] == '-' && a[1]) {
			r = parse_one_dash(p, verb_find(p, words), a + 1, &args, given, e);
		} else {
			char **slot = VEC_PUSH(words);
			if (!slot)
				return error_set(e, -ENOMEM, "out of memory");
			*slot = *args;
		}
	}
	return r;
}

int options_parse_line(const struct program *p, const char *name, const char *value, const char *file, struct given_options *given,
		       struct error *e)
{
	struct given one = { .value = value, .file = file };

	if (find_long(p, name, strlen(name), true, &one.row, &one.negated) != MATCH_ONE)
		return error_set(e, -EINVAL, "there is no option %s; see %s --help", name, p->name);
	if (value && (one.negated || !may_have_value(one.row)))
		return error_set(e, -EINVAL, "option %s takes no value, %s was given", name, value);
	if (!value && option_takes_value(one.row))
		return error_set(e, -EINVAL, "option %s needs a value: %s %s", name, name, one.row->argument);
	return note(given, one, e);
}

/* How many words of `name` the given ones begin with; all of them, or 0. */
static size_t match_words(const char *name, const struct words *words)
{
	size_t n = 0;

	for (;; n++) {
		size_t length = strcspn(name, " ");
		if (n == words->count || strlen(words->data[n]) != length || strncmp(words->data[n], name, length))
			return 0;
		if (!name[length])
			return n + 1;
		name += length + 1;
	}
}

const struct verb *verb_find(const struct program *p, const struct words *words)
{
	const struct verb *found = NULL;
	size_t most = 0;

	for (size_t i = 0; i < p->n_verbs; i++) {
		size_t n = match_words(p->verbs[i].name, words);
		if (n > most) {
			most = n;
			found = &p->verbs[i];
		}
	}
	return found;
}

/* How long the first `n` words are with a blank behind each, where verbs begin so; or 0. */
static size_t begins(const struct program *p, const struct words *words, size_t n, char prefix[PREFIX_MAX])
{
	prefix[0] = '\0';
	for (size_t i = 0; i < n; i++)
		snprintf(prefix + strlen(prefix), PREFIX_MAX - strlen(prefix), "%.40s ", words->data[i]);
	for (size_t i = 0; i < p->n_verbs; i++)
		if (!strncmp(p->verbs[i].name, prefix, strlen(prefix)))
			return strlen(prefix);
	return 0;
}

/* What may follow the words that some verbs begin with. 0: none does. */
static int not_complete(const struct program *p, const struct words *words, struct error *e)
{
	char prefix[PREFIX_MAX], names[300] = "", last[40] = "";
	size_t n = MIN(words->count, 2UL), length = begins(p, words, n, prefix);

	if (!length && --n)
		length = begins(p, words, n, prefix);
	for (size_t i = 0; length && i < p->n_verbs; i++) {
		const char *next = p->verbs[i].name + length;
		char word[sizeof(last)];
		if (strncmp(p->verbs[i].name, prefix, length))
			continue;
		snprintf(word, sizeof(word), "%.*s", (int)strcspn(next, " "), next);
		if (strcmp(word, last))
			snprintf(names + strlen(names), sizeof(names) - strlen(names), "%s%s", names[0] ? ", " : "", word);
		memcpy(last, word, sizeof(last));
	}
	if (!length)
		return 0;
	if (words->count > n)
		return error_set(e, -EINVAL, "there is no %s %s%.60s, but one of: %s; see %s help %.*s", p->name, prefix, words->data[n], names, p->name,
				 (int)length - 1, prefix);
	return error_set(e, -EINVAL, "%s %.*s is not complete; behind it comes one of: %s", p->name, (int)length - 1, prefix, names);
}

int options_find_verb(const struct program *p, const struct words *words, const struct verb **ret, size_t *ret_words, struct error *e)
{
	const struct verb *found = verb_find(p, words);

	if (!words->count)
		return -ENOENT;
	int r = found ? 0 : not_complete(p, words, e);
	if (r)
		return r;
	if (!found)
		return error_set(e, -EINVAL, "%s has no command %s; see %s --help", p->name, words->data[0], p->name);
	size_t own = match_words(found->name, words), behind = words->count - own;
	if (behind < found->min_words)
		return error_set(e, -EINVAL, "%s %s needs %s; see %s %s --help", p->name, found->name, found->arguments, p->name, found->name);
	if (behind > found->max_words)
		return error_set(e, -EINVAL, "%s %s: %s is one word too many; see %s %s --help", p->name, found->name,
				 words->data[own + found->max_words], p->name, found->name);
	*ret = found;
	*ret_words = own;
	return 0;
}

static int store_int(const struct given *g, int *to, struct error *e)
{
	char *end;

	errno = 0;
	long value = strtol(g->value, &end, 10);
	if (errno || end == g->value || *end || value < 0 || value > INT_MAX)
		return error_set(e, -EINVAL, "option --%s: %s is no number from 0 to %d", g->row->name, g->value, INT_MAX);
	*to = (int)value;
	return 0;
}

static int store_size(const struct given *g, uint64_t *to, struct error *e)
{
	static const char units[] = "KMG";
	char *end;

	errno = 0;
	uint64_t value = strtoull(g->value, &end, 10);
	const char *unit = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
	unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;
	if (errno || !isdigit((unsigned char)g->value[0]) || (*end && (!unit || end[1])) || value > UINT64_MAX >> shift)
		return error_set(e, -EINVAL, "option --%s: %s is no size; write bytes, or a number with K, M or G behind it", g->row->name,
				 g->value);
	*to = value << shift;
	return 0;
}

static int store_one(const struct given *g, char *base, struct error *e)
{
	uint64_t unused_size;
	int unused;
	bool nowhere = g->row->offset == OPTION_NOWHERE;
	void *to = nowhere ? NULL : base + g->row->offset;

	switch (g->row->kind) {
	case OPTION_INT:
		return store_int(g, nowhere ? &unused : to, e);
	case OPTION_SIZE:
		return store_size(g, nowhere ? &unused_size : to, e);
	case OPTION_LEVEL:
		if (g->value)
			return store_int(g, to, e);
		++*(int *)to;
		return 0;
	default:
		break;
	}
	if (nowhere)
		return 0;
	if (g->row->kind == OPTION_FLAG || g->row->kind == OPTION_BOOL) {
		*(bool *)to = !g->negated;
	} else if (g->row->kind == OPTION_LIST) {
		const char **slot = VEC_PUSH((struct option_list *)to);
		if (!slot)
			return error_set(e, -ENOMEM, "out of memory");
		*slot = g->value;
	} else {
		*(const char **)to = g->value ? g->value : "";
	}
	return 0;
}

static bool is_accepted(const struct given *g)
{
	const char *list = g->row->accepted;
	size_t length = g->value ? strlen(g->value) : 0;

	if (g->negated)
		return true;
	for (const char *at = list; at && length && (at = strstr(at, g->value)); at++)
		if ((at == list || at[-1] == ' ') && (!at[length] || at[length] == ' '))
			return true;
	return false;
}

/* A name may stand in several rows, for different verbs. */
static const struct option_row *row_of(const struct program *p, const struct verb *verb, const struct option_row *given)
{
	for (size_t i = 0; i < p->n_rows; i++)
		if (!strcmp(p->rows[i].name, given->name) && option_belongs(p, verb, &p->rows[i]))
			return &p->rows[i];
	return given;
}

/* Which verbs have it. */
static int not_its_own(const struct program *p, const struct verb *verb, const struct option_row *row, struct error *e)
{
	char names[120] = "";
	size_t n = 0;

	for (size_t i = 0; i < p->n_verbs; i++) {
		const size_t used = strlen(names);
		if (!option_belongs(p, &p->verbs[i], row_of(p, &p->verbs[i], row)))
			continue;
		if (++n <= MOST_NAMED)
			snprintf(names + used, sizeof(names) - used, "%s%s", used ? ", " : "", p->verbs[i].name);
	}
	return error_set(e, -EINVAL, "option --%s is not one of %s %s, but of %s%s; see %s %s --help", row->name, p->name, verb->name, names,
			 n > MOST_NAMED ? " and others" : "", p->name, verb->name);
}

int options_store(const struct program *p, const struct verb *verb, const struct given_options *given, void *to, struct error *e)
{
	for (size_t i = 0; i < given->count; i++) {
		struct given one = given->data[i], *g = &one;
		int r = 0;
		g->row = row_of(p, verb, g->row);
		if (!option_belongs(p, verb, g->row)) {
			if (p->strict && verb && !g->file && !g->row->anywhere)
				r = not_its_own(p, verb, g->row, e);
			else
				continue;
		}
		if (!r && g->row->missing && !is_accepted(g))
			r = error_set(e, -ENOTSUP, "option --%s is not there yet: %s", g->row->name, g->row->missing);
		if (!r && !g->row->missing && g->row->accepted && !is_accepted(g))
			r = error_set(e, -EINVAL, "option --%s: there is no %s; choose one of: %s", g->row->name, g->value ? g->value : "", g->row->accepted);
		if (!r)
			r = store_one(g, to, e);
		if (r && g->file)
			return error_prefix(e, r, "%s", g->file);
		if (r)
			return r;
	}
	return 0;
}
