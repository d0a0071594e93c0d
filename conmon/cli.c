/*
 * The command line. Its options, and how they are spelled, are upstream's (2.2), because podman
 * and CRI-O write it: long options as `--name value` or `--name=value`, short flags may be
 * clustered (`-it`), a repeated option replaces the earlier value, words that are no option are
 * passed over. The last matters: `--api-version` is a flag, yet podman writes `--api-version 1`.
 */
#include "conmon.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum kind { FLAG, STRING, INT, INT64, LIST, REFUSED };

struct entry {
	const char *name;
	char letter;
	enum kind kind;
	size_t offset;
	const char *help;
};

#define FIELD(field) offsetof(struct options, field)

static const struct entry entries[] = {
	{ "api-version", 0, FLAG, FIELD(api_version), "Speak version 1 of the sync pipe protocol" },
	{ "bundle", 'b', STRING, FIELD(bundle), "OCI bundle directory (default: the working directory)" },
	{ "cid", 'c', STRING, FIELD(cid), "Id of the container" },
	{ "conmon-pidfile", 'P', STRING, FIELD(conmon_pidfile), "Where to write the monitor's pid" },
	{ "container-pidfile", 'p', STRING, FIELD(container_pidfile), "Where the runtime writes the container's pid" },
	{ "cuuid", 'u', STRING, FIELD(cuuid), "Unique id: names the attach directory" },
	{ "exec", 'e', FLAG, FIELD(exec), "Run a command in a container that is running" },
	{ "exec-attach", 0, FLAG, FIELD(exec_attach), "Let the caller attach before the command starts" },
	{ "exec-process-spec", 0, STRING, FIELD(exec_process_spec), "OCI process document of the command" },
	{ "exit-command", 0, STRING, FIELD(exit_command), "Program to run when the container has ended" },
	{ "exit-command-arg", 0, LIST, FIELD(exit_args), "Argument for it (repeatable)" },
	{ "exit-delay", 0, INT, FIELD(exit_delay_s), "Seconds to wait before it runs" },
	{ "exit-dir", 0, STRING, FIELD(exit_dir), "Directory of the exit files" },
	{ "full-attach", 0, FLAG, FIELD(full_attach), "Attach socket in the bundle only, no link to it" },
	{ "leave-stdin-open", 0, FLAG, FIELD(leave_stdin_open), "Keep stdin open when an attached client leaves" },
	{ "log-allowlist-dir", 0, LIST, FIELD(log_allow_dirs), "Directory logs may be written under (repeatable)" },
	{ "log-global-size-max", 0, INT64, FIELD(log_global_size_max), "Bytes of log in all, then no more" },
	{ "log-label", 0, LIST, FIELD(log_labels), "LABEL=VALUE for journal entries (repeatable)" },
	{ "log-level", 0, STRING, FIELD(log_level), "error, warn, info, debug or trace" },
	{ "log-max-files", 0, INT, FIELD(log_max_files), "Rotated logs to keep (default 1)" },
	{ "log-path", 'l', LIST, FIELD(log_paths), "[driver:]path; drivers: k8s-file, journald, passthrough, none" },
	{ "log-rotate", 0, FLAG, FIELD(log_rotate), "Rotate a full log instead of starting it anew" },
	{ "log-size-max", 0, INT64, FIELD(log_size_max), "Bytes of one log file" },
	{ "log-tag", 0, STRING, FIELD(log_tag), "Tag for journal entries" },
	{ "name", 'n', STRING, FIELD(name), "Name of the container" },
	{ "no-container-partial-message", 0, FLAG, FIELD(no_partial_message), "Do not mark partial journal entries" },
	{ "no-new-keyring", 0, FLAG, FIELD(no_new_keyring), "Runtime: no new session keyring" },
	{ "no-pivot", 0, FLAG, FIELD(no_pivot), "Runtime: no pivot_root" },
	{ "no-sync-log", 0, FLAG, FIELD(no_sync_log), "Do not fsync the log at the end" },
	{ "persist-dir", '0', STRING, FIELD(persist_dir), "Second place for the exit file" },
	{ "pidfile", 0, STRING, FIELD(container_pidfile), NULL },
	{ "replace-listen-pid", 0, FLAG, FIELD(replace_listen_pid), "Set LISTEN_PID to the runtime's pid" },
	{ "restore", 0, STRING, FIELD(restore), "Restore the container from this checkpoint" },
	{ "restore-arg", 0, LIST, FIELD(runtime_opts), NULL },
	{ "runtime", 'r', STRING, FIELD(runtime), "Path of the OCI runtime" },
	{ "runtime-arg", 0, LIST, FIELD(runtime_args), "Argument for the runtime (repeatable)" },
	{ "runtime-opt", 0, LIST, FIELD(runtime_opts), "Option for its create, restore or exec (repeatable)" },
	{ "sdnotify-socket", 0, STRING, FIELD(sdnotify_socket), "Host's notify socket to relay to" },
	{ "seccomp-notify-plugins", 0, REFUSED, 0, NULL },
	{ "seccomp-notify-socket", 0, REFUSED, 0, NULL },
	{ "socket-dir-path", 0, STRING, FIELD(socket_dir), "Directory of the attach links" },
	{ "stdin", 'i', FLAG, FIELD(open_stdin), "Give the container a pipe as stdin" },
	{ "sync", 0, FLAG, FIELD(sync), "Stay a child of the caller" },
	{ "syslog", 0, FLAG, FIELD(syslog), "Messages to syslog too" },
	{ "systemd-cgroup", 's', FLAG, FIELD(systemd_cgroup), "Runtime: systemd manages the cgroups" },
	{ "terminal", 't', FLAG, FIELD(terminal), "Give the container a terminal" },
	{ "timeout", 'T', INT, FIELD(timeout_s), "Seconds until the container is killed" },
	{ "version", 0, FLAG, FIELD(version), "Print the version" },
	{ "help", 'h', FLAG, FIELD(help), "Print this" },
};

/* What parsing is in the midst of, so that helpers need no six arguments. */
struct parser {
	struct options *opt;
	int argc, index;
	char *const *argv;
	char *error;
	size_t error_size;
};

static int refuse(struct parser *p, const char *format, ...) __attribute__((format(printf, 2, 3)));

static int refuse(struct parser *p, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	(void)vsnprintf(p->error, p->error_size, format, args);
	va_end(args);
	return -EINVAL;
}

static int list_append(struct parser *p, struct arg_list *list, const char *value)
{
	if (p->opt->pool_used == ARGS_TOTAL)
		return refuse(p, "more than %d values for repeatable options", ARGS_TOTAL);
	struct arg *arg = &p->opt->pool[p->opt->pool_used++];
	arg->value = value;
	arg->next = NULL;
	if (list->last)
		list->last->next = arg;
	else
		list->first = arg;
	list->last = arg;
	list->count++;
	return 0;
}

static int set_value(struct parser *p, const struct entry *entry, const char *value)
{
	void *field = (char *)p->opt + entry->offset;
	int64_t number;

	switch (entry->kind) {
	case FLAG:
		*(bool *)field = true;
		return 0;
	case STRING:
		*(const char **)field = value;
		return 0;
	case LIST:
		return list_append(p, field, value);
	case INT:
		if (parse_int(value, INT_MIN, INT_MAX, &number) < 0)
			return refuse(p, "--%s: '%s' is no number or out of range", entry->name, value);
		*(int *)field = (int)number;
		return 0;
	case INT64:
		if (parse_int(value, INT64_MIN, INT64_MAX, &number) < 0)
			return refuse(p, "--%s: '%s' is no number or out of range", entry->name, value);
		*(int64_t *)field = number;
		return 0;
	case REFUSED:
		break;
	}
	return refuse(p, "--%s is not supported by this conmon", entry->name);
}

/* An option that wants a value takes the next word, whatever it looks like. */
static int take_option(struct parser *p, const struct entry *entry, const char *inline_value)
{
	if (entry->kind == FLAG)
		return set_value(p, entry, NULL);
	if (inline_value)
		return set_value(p, entry, inline_value);
	if (p->index + 1 >= p->argc)
		return refuse(p, "--%s needs a value", entry->name);
	return set_value(p, entry, p->argv[++p->index]);
}

static int parse_long(struct parser *p, const char *word)
{
	size_t len = strcspn(word, "=");
	const char *value = word[len] == '=' ? word + len + 1 : NULL;

	for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); i++)
		if (strlen(entries[i].name) == len && memcmp(entries[i].name, word, len) == 0)
			return take_option(p, &entries[i], value);
	return refuse(p, "unknown option --%.*s", (int)(len > 100 ? 100 : len), word);
}

static int parse_letters(struct parser *p, const char *word)
{
	for (; *word; word++) {
		const struct entry *found = NULL;

		for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); i++)
			if (entries[i].letter == *word)
				found = &entries[i];
		if (!found)
			return refuse(p, "unknown option -%c", *word >= ' ' && *word < 127 ? *word : '?');
		int r = take_option(p, found, NULL);
		if (r < 0)
			return r;
	}
	return 0;
}

/*
 * Parses argv into opt, which must be zeroed; strings in opt point into argv. Returns 0, or
 * -EINVAL with a sentence in error. Knows only spelling: whether the options make sense together
 * is cli_check()'s to say.
 */
int cli_parse(struct options *opt, int argc, char *const argv[], char *error, size_t error_size)
{
	struct parser p = { opt, argc, 1, argv, error, error_size };

	opt->log_size_max = opt->log_global_size_max = -1;
	opt->log_max_files = 1;
	opt->socket_dir = "/var/run/crio";
	for (; p.index < argc; p.index++) {
		const char *word = argv[p.index];
		int r = 0;

		if (strcmp(word, "--") == 0)
			break;
		if (word[0] == '-' && word[1] == '-')
			r = parse_long(&p, word + 2);
		else if (word[0] == '-' && word[1] != '\0')
			r = parse_letters(&p, word + 1);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Ids become file names (exit file, attach link): one component, nothing else. */
static bool is_file_name(const char *id)
{
	return id[0] != '\0' && strlen(id) <= NAME_MAX && !strchr(id, '/') &&
	       strcmp(id, ".") != 0 && strcmp(id, "..") != 0;
}

static int check_ids(struct conmon *c)
{
	const struct options *opt = &c->opt;

	if (!opt->cid)
		return fail(c, EINVAL, "Container ID not provided. Use --cid");
	if (!is_file_name(opt->cid))
		return fail(c, EINVAL, "--cid '%.80s' cannot name a file: no slashes, not empty, 255 bytes at most", opt->cid);
	/* The old exec protocol has no use for it. */
	if (!opt->cuuid && (!opt->exec || opt->api_version))
		return fail(c, EINVAL, "Container UUID not provided. Use --cuuid");
	if (opt->cuuid && !is_file_name(opt->cuuid))
		return fail(c, EINVAL, "--cuuid '%.80s' cannot name a file: no slashes, not empty, 255 bytes at most", opt->cuuid);
	return 0;
}

static int check_exec(struct conmon *c)
{
	const struct options *opt = &c->opt;

	if (opt->restore && opt->exec)
		return fail(c, EINVAL, "--exec and --restore exclude each other");
	if (opt->exec_attach && !opt->exec)
		return fail(c, EINVAL, "--exec-attach needs --exec");
	if (opt->exec_attach && !opt->api_version)
		return fail(c, EINVAL, "--exec-attach needs --api-version");
	if (opt->exec && !opt->exec_process_spec)
		return fail(c, EINVAL, "Exec process spec path not provided. Use --exec-process-spec");
	return 0;
}

static int check_numbers(struct conmon *c)
{
	const struct options *opt = &c->opt;

	if (opt->log_max_files < 0)
		return fail(c, EINVAL, "--log-max-files must not be negative, got %d", opt->log_max_files);
	if (opt->log_rotate && opt->log_max_files == 0)
		return fail(c, EINVAL, "--log-max-files must be at least 1 with --log-rotate");
	if (opt->exit_delay_s < 0)
		return fail(c, EINVAL, "--exit-delay must not be negative, got %d", opt->exit_delay_s);
	return 0;
}

/* The working directory is the bundle unless one is named; upstream does not default it for exec. */
static int fill_paths(struct conmon *c)
{
	static char cwd[PATH_MAX], pidfile[PATH_MAX];
	struct options *opt = &c->opt;

	if (opt->bundle && opt->container_pidfile)
		return 0;
	if (!getcwd(cwd, sizeof(cwd)))
		return fail(c, errno, "cannot tell the working directory");
	if (!opt->bundle && !opt->exec)
		opt->bundle = cwd;
	if (!opt->container_pidfile) {
		int n = snprintf(pidfile, sizeof(pidfile), "%s/pidfile-%s", cwd, opt->cid);
		if (n < 0 || (size_t)n >= sizeof(pidfile))
			return fail(c, ENAMETOOLONG, "path of the default pid file is too long");
		opt->container_pidfile = pidfile;
	}
	return 0;
}

static int check_level(struct conmon *c)
{
	static const struct { const char *name; enum level level; } levels[] = {
		{ "error", LEVEL_ERROR }, { "fatal", LEVEL_ERROR }, { "panic", LEVEL_ERROR },
		{ "warn", LEVEL_WARN }, { "warning", LEVEL_WARN }, { "info", LEVEL_INFO },
		{ "debug", LEVEL_DEBUG }, { "trace", LEVEL_TRACE },
	};
	enum level level = LEVEL_WARN;
	bool known = c->opt.log_level == NULL;

	for (size_t i = 0; !known && i < sizeof(levels) / sizeof(levels[0]); i++)
		if (strcasecmp(c->opt.log_level, levels[i].name) == 0) {
			level = levels[i].level;
			known = true;
		}
	if (!known)
		return fail(c, EINVAL, "No such log level %.80s", c->opt.log_level);
	note_open(c->opt.cid, c->opt.log_tag, level, c->opt.syslog);
	return 0;
}

/* Refuses what does not make sense together and fills in the defaults that depend on others. */
int cli_check(struct conmon *c)
{
	static int (*const checks[])(struct conmon *) = {
		check_ids, check_level, check_exec, check_numbers, fill_paths,
	};

	for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]); i++) {
		int r = checks[i](c);
		if (r < 0)
			return r;
	}
	if (!c->opt.runtime)
		return fail(c, EINVAL, "Runtime path not provided. Use --runtime");
	if (access(c->opt.runtime, X_OK) < 0)
		return fail(c, errno, "Runtime path %.300s is not valid", c->opt.runtime);
	if (!c->opt.log_paths.first)
		return fail(c, EINVAL, "Log driver not provided. Use --log-path");
	return 0;
}

/* The text of --help. */
const char *cli_help(void)
{
	static char text[8192];
	size_t len = (size_t)snprintf(text, sizeof(text), "Usage:\n  conmon [OPTION...]\n\n");

	for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); i++) {
		const struct entry *e = &entries[i];
		char letter[] = { '-', e->letter, ',', '\0' };

		if (!e->help || len >= sizeof(text))
			continue;
		len += (size_t)snprintf(text + len, sizeof(text) - len, "  %3s --%-30s %s\n",
					e->letter ? letter : "", e->name, e->help);
	}
	return text;
}
