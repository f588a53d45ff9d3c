/*
 * A program's verbs and options as const tables, and the parser over them. Help, shell completion and the manual page are
 * made from the same tables; see help.c and completion.c.
 *
 * Forms: --name VALUE, --name=VALUE, the same with one dash, unambiguous beginnings of a name, --no-NAME for what is on or
 * off, letters together (-jR), a letter's value behind it (-t12), `--` before words that are no options. Options may stand
 * before and behind the verb. Parsing only notes what was given, so that configuration files can be stored first; values are
 * checked when they are stored. Nothing here prints. A letter may mean different options to different verbs; the words in front of it
 * tell which.
 */
#pragma once

#include "base/error.h"

struct command_line;

enum option_kind {
	OPTION_FLAG,	 /* bool: true when given */
	OPTION_BOOL,	 /* bool: --no-NAME makes it false again */
	OPTION_INT,	 /* int, not negative */
	OPTION_SIZE,	 /* uint64_t bytes, with K, M, G */
	OPTION_STRING,	 /* const char * */
	OPTION_LIST,	 /* struct option_list; may be given several times */
	OPTION_OPTIONAL, /* const char *, "" without a value; the value is behind `=` */
	OPTION_LEVEL,	 /* int: each -v adds one, -v3 and --name=3 set it */
};

struct option_list {
	const char **data;
	size_t count, capacity;
};

#define OPTION_NOWHERE ((size_t)-1) /* for `offset`: the value is not kept */
#define ALL_VERBS UINT64_MAX

struct option_row {
	const char *name;
	char letter; /* or 0 */
	enum option_kind kind;
	const char *argument; /* how help calls the value */
	uint64_t verbs;	      /* bit n: it belongs to verb n of the program */
	size_t offset;	      /* in struct command_line */
	const char *help;     /* one line */
	const char *missing;  /* what is not there yet: given, the option is refused with this */
	const char *values;   /* what completion offers, separated by blanks, where others are taken too */
	const char *accepted; /* the values that there are, separated by blanks; of a missing option those that ask for nothing and are taken */
};

/* Rows of a table. `field`: of struct command_line. */
#define OPTION_ROW(n, l, k, a, v, h, ...) \
	{ .name = n, .letter = l, .kind = OPTION_##k, .argument = a, .verbs = v, .help = h, ##__VA_ARGS__ }
#define OPTION(n, l, k, a, v, field, h) OPTION_ROW(n, l, k, a, v, h, .offset = offsetof(struct command_line, field))
#define OPTION_SUCH_AS(n, l, a, v, field, h, some) \
	OPTION_ROW(n, l, STRING, a, v, h, .offset = offsetof(struct command_line, field), .values = some)
#define OPTION_ONE_OF(n, l, a, v, field, h, values) \
	OPTION_ROW(n, l, STRING, a, v, h, .offset = offsetof(struct command_line, field), .accepted = values)
#define OPTION_IDLE(n, l, k, a, v, h) OPTION_ROW(n, l, k, a, v, h, .offset = OPTION_NOWHERE)
#define OPTION_MISSING(n, l, k, a, v, h, m) OPTION_ROW(n, l, k, a, v, h, .offset = OPTION_NOWHERE, .missing = m)

struct verb {
	const char *name;      /* one word, two or three */
	const char *arguments; /* "PID", or "" */
	size_t min_words, max_words;
	const char *summary;
	int (*run)(struct command_line *c); /* gives the exit status */
	const char *missing; /* instead of run: what is not there yet */
};

#define VERB(n, a, min, max, s, f) { .name = n, .arguments = a, .min_words = min, .max_words = max, .summary = s, .run = f }
#define VERB_MISSING(n, a, min, max, s, m) { .name = n, .arguments = a, .min_words = min, .max_words = max, .summary = s, .missing = m }

struct words;

struct program {
	const char *name, *summary;
	const struct verb *verbs;
	size_t n_verbs;
	const struct option_row *rows;
	size_t n_rows;
	bool configured;  /* by criu's configuration files */
	bool strict;	  /* an option that is not the verb's is an error, not ignored */
	int usage_status; /* the exit status after wrong usage */
	const char *description; /* for the manual page; troff */
	const char *examples;	 /* lines of commands, for who is new to it; or NULL */
	/* Of words that name no command, but one that who comes from elsewhere looks for: what is missing, and what helps. NULL otherwise. */
	const char *(*absent)(const struct words *words);
};

/* An option as it was given. */
struct given {
	const struct option_row *row;
	const char *value; /* NULL: none */
	bool negated;
	const char *file; /* the configuration file it comes from, which owns the strings; NULL: the command line */
};

struct given_options {
	struct given *data;
	size_t count, capacity;
};

struct words {
	char **data;
	size_t count, capacity;
};

/* Notes the options of argv[1…] in `given`, the other words in `words`; *ret_rest: what follows `--`, NULL-terminated, or NULL. */
int options_parse(const struct program *p, char **argv, struct given_options *given, struct words *words, char ***ret_rest,
		  struct error *e);
/* One option of a configuration file; `name` is without dashes, `value` may be NULL. */
int options_parse_line(const struct program *p, const char *name, const char *value, const char *file, struct given_options *given,
		       struct error *e);
/* The verb that the words begin with, or NULL. */
const struct verb *verb_find(const struct program *p, const struct words *words);
/* The same, with the number of words behind it checked; *ret_words: how many words name it. -ENOENT: there are no words; -EINVAL with the text set. */
int options_find_verb(const struct program *p, const struct words *words, const struct verb **ret, size_t *ret_words, struct error *e);
/* Checks what was given against the verb and writes it into `to`. */
int options_store(const struct program *p, const struct verb *verb, const struct given_options *given, void *to, struct error *e);

bool option_belongs(const struct program *p, const struct verb *verb, const struct option_row *row);
bool option_takes_value(const struct option_row *row);
const struct option_row *option_find(const struct program *p, const char *name);
/* What the letter stands for with this verb (or NULL: none yet), its own before those of all. NULL: nothing. */
const struct option_row *option_find_letter(const struct program *p, const struct verb *verb, char letter);
const struct given *given_find(const struct given_options *given, const char *name);

/* help.c, completion.c. `verb` NULL: the program as a whole. */
void help_print(FILE *f, const struct program *p, const struct verb *verb);
/* The verbs that begin with these words, which are none by themselves; false: there are none. */
bool help_group(FILE *f, const struct program *p, const struct words *words);
/* For "bash", "zsh" or "fish"; false: there is none for that shell. */
bool help_completion(FILE *f, const struct program *p, const char *shell);
void help_manual(FILE *f, const struct program *p);
/* The page of one verb. */
void help_manual_verb(FILE *f, const struct program *p, const struct verb *v);
