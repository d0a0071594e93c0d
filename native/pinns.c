/*
 * pinns: makes namespaces and pins them by bind mounts, so that a pod needs no process to hold them. A
 * program of its own, because namespaces belong to threads and the daemon has many.
 *
 *   pinns --net PATH --ipc PATH --uts PATH --user PATH … pin that namespace at PATH (a file, made if missing)
 *         --hostname NAME                                  in the new UTS namespace
 *         --loopback                                       lo is up in the new network namespace
 *         --sysctl KEY VALUE                               two words: nothing to split (CVE-2022-0811). May be repeated
 *         --uid-map INSIDE OUTSIDE COUNT                   three words; --gid-map likewise. May be repeated
 *
 * CRI-O's own flags work too: -d DIR -f NAME with any of -u (uts) -n (net) -i (ipc) -U (user) -c (cgroup) -m (mnt),
 * which pin at DIR/<kind>ns/NAME; -s/--sysctl=KEY=VALUE (one pair per flag);
 * --uid-mapping=INSIDE-OUTSIDE-COUNT,… and --gid-mapping;
 * --hostname=NAME; --log-level is accepted.
 *
 * Only sysctls that belong to a namespace made here are written; any other would be the host's (CVE-2022-0532).
 *
 * Exit codes: 0 pinned; 1 the kernel refused (what and why on stderr; nothing stays pinned); 2 wrong usage.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pin.h"

#ifndef BERTH_VERSION
#define BERTH_VERSION "unknown"
#endif

#define SYSCTLS_MAX 256
#define MAP_BYTES 4096

struct request {
	struct pin pin;
	const char *dir, *file;
	struct sysctl sysctls[SYSCTLS_MAX];
	char uid_map[MAP_BYTES], gid_map[MAP_BYTES];
};

enum { EXIT_REFUSED = 1, EXIT_USAGE = 2 };
/* No exit code: a mount namespace that the kernel takes for older than ours. */
enum { LOOKS_OLDER = -1 };

__attribute__((format(printf, 1, 2))) static void complain(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	fputs("pinns: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
}

/* --- command line */

static int usage(const char *what, const char *word)
{
	complain("%s: %s", what, word);
	return EXIT_USAGE;
}

static int map_add(char map[MAP_BYTES], const char *inside, const char *outside, const char *count)
{
	const char *const words[] = { inside, outside, count };
	for (size_t i = 0; i < 3; i++)
		if (words[i][0] == '\0' || strlen(words[i]) > 10 || words[i][strspn(words[i], "0123456789")] != '\0')
			return usage("not a number in an id map", words[i]);
	size_t len = strlen(map);
	int n = snprintf(map + len, MAP_BYTES - len, "%s %s %s\n", inside, outside, count);
	return n < 0 || (size_t)n >= MAP_BYTES - len ? usage("too many id maps", outside) : 0;
}

/* CRI-O's form: inside-outside-count, joined by commas. */
static int map_add_list(char map[MAP_BYTES], char *list)
{
	char *rest = list;
	for (char *each; (each = strsep(&rest, ",")) != NULL;) {
		char *inside = strsep(&each, "-"), *outside = strsep(&each, "-"), *count = each;
		if (outside == NULL || count == NULL)
			return usage("not an id map (inside-outside-count)", list);
		int r = map_add(map, inside, outside, count);
		if (r != 0)
			return r;
	}
	return 0;
}

static int sysctl_add(struct request *q, char *key, const char *value)
{
	if (q->pin.sysctls_count == SYSCTLS_MAX)
		return usage("too many sysctls", key);
	const char *bad = pin_bad_sysctl(key, value);
	if (bad != NULL)
		return usage(bad, key);
	q->sysctls[q->pin.sysctls_count++] = (struct sysctl){ key, value };
	return 0;
}

static int sysctl_add_pair(struct request *q, char *pair)
{
	char *equals = strchr(pair, '=');
	if (equals == NULL)
		return usage("not key=value", pair);
	*equals = '\0';
	return sysctl_add(q, pair, equals + 1);
}

/* The value of `--name=value` or `--name value`; NULL if the word is another option. *index moves past what is used. */
static char *value_of(char *argv[], int argc, int *index, const char *name)
{
	char *word = argv[*index];
	size_t len = strlen(name);
	if (strncmp(word, name, len) != 0)
		return NULL;
	if (word[len] == '=' && len > 2)
		return word + len + 1;
	if (word[len] == '\0' && *index + 1 < argc)
		return argv[++*index];
	return len == 2 && word[len] != '\0' ? word + len : NULL;
}

static int parse_map(char *argv[], int argc, int *index, char map[MAP_BYTES])
{
	if (*index + 3 >= argc)
		return usage("wants three words", argv[*index]);
	char **words = argv + *index + 1;
	*index += 3;
	return map_add(map, words[0], words[1], words[2]);
}

/*
 * -u, -n, … each of which CRI-O also writes as --uts, --net, … without a path, or with =PATH. True if the
 * word was one.
 */
static bool parse_kind(struct request *q, char *argv[], int argc, int *index)
{
	const char *word = argv[*index];
	for (int k = 0; k < KINDS; k++) {
		if (word[0] == '-' && word[1] == kinds[k].letter && word[2] == '\0') {
			q->pin.wanted[k] = true;
			return true;
		}
		if (strncmp(word, "--", 2) != 0 || strncmp(word + 2, kinds[k].name, strlen(kinds[k].name)) != 0)
			continue;
		const char *after = word + 2 + strlen(kinds[k].name);
		if (*after != '\0' && *after != '=')
			continue;
		q->pin.wanted[k] = true;
		if (*after == '=')
			q->pin.path[k] = after + 1;
		else if (*index + 1 < argc && argv[*index + 1][0] == '/')
			q->pin.path[k] = argv[++*index];
		return true;
	}
	return false;
}

static int parse_word(struct request *q, char *argv[], int argc, int *index)
{
	char *word = argv[*index], *value;
	if (parse_kind(q, argv, argc, index))
		return 0;
	if (strcmp(word, "--uid-map") == 0)
		return parse_map(argv, argc, index, q->uid_map);
	if (strcmp(word, "--gid-map") == 0)
		return parse_map(argv, argc, index, q->gid_map);
	if (strcmp(word, "--sysctl") == 0 && *index + 1 < argc && strchr(argv[*index + 1], '=') == NULL) {
		if (*index + 2 >= argc)
			return usage("wants key and value", word);
		*index += 2;
		return sysctl_add(q, argv[*index - 1], argv[*index]);
	}
	if ((value = value_of(argv, argc, index, "--sysctl")) != NULL || (value = value_of(argv, argc, index, "-s")) != NULL)
		return sysctl_add_pair(q, value);
	if ((value = value_of(argv, argc, index, "--uid-mapping")) != NULL)
		return map_add_list(q->uid_map, value);
	if ((value = value_of(argv, argc, index, "--gid-mapping")) != NULL)
		return map_add_list(q->gid_map, value);
	if ((value = value_of(argv, argc, index, "--hostname")) != NULL)
		return q->pin.hostname = value, 0;
	if ((value = value_of(argv, argc, index, "--dir")) != NULL || (value = value_of(argv, argc, index, "-d")) != NULL)
		return q->dir = value, 0;
	if ((value = value_of(argv, argc, index, "--filename")) != NULL || (value = value_of(argv, argc, index, "-f")) != NULL)
		return q->file = value, 0;
	if (value_of(argv, argc, index, "--log-level") != NULL)
		return 0;
	if (strcmp(word, "--loopback") == 0)
		return q->pin.loopback = true, 0;
	return usage("unknown option, or one without its value", word);
}

/* Where each wanted namespace goes: the path given with it, or CRI-O's place. */
static int settle_paths(struct request *q)
{
	static char made[KINDS][PATH_MAX];
	bool any = false;
	for (int k = 0; k < KINDS; k++) {
		if (!q->pin.wanted[k])
			continue;
		any = true;
		if (q->pin.path[k] != NULL)
			continue;
		if (q->dir == NULL || q->file == NULL || q->file[0] == '\0' ||
		    strchr(q->file, '/') != NULL || strcmp(q->file, "..") == 0)
			return usage("no path, and no usable --dir and --filename, for the namespace", kinds[k].name);
		snprintf(made[k], sizeof made[k], "%s/%sns", q->dir, kinds[k].name);
		if (mkdir(made[k], 0755) < 0 && errno != EEXIST)
			return usage("cannot make directory", made[k]);
		int n = snprintf(made[k], sizeof made[k], "%s/%sns/%s", q->dir, kinds[k].name, q->file);
		if (n < 0 || (size_t)n >= sizeof made[k])
			return usage("path is too long", q->dir);
		q->pin.path[k] = made[k];
	}
	if (!any)
		return usage("nothing to pin", "want --net, --ipc, --uts, --user, --cgroup or --mnt");
	if (q->pin.wanted[KIND_USER] != (q->uid_map[0] != '\0') || q->pin.wanted[KIND_USER] != (q->gid_map[0] != '\0'))
		return usage("a user namespace wants uid and gid maps, and they want it", "--user");
	if (q->pin.hostname != NULL && !q->pin.wanted[KIND_UTS])
		return usage("a hostname wants a namespace of its own", "--uts");
	return 0;
}

static int parse(struct request *q, int argc, char *argv[])
{
	for (int i = 1; i < argc; i++) {
		int r = parse_word(q, argv, argc, &i);
		if (r != 0)
			return r;
	}
	int r = settle_paths(q);
	q->pin.sysctls = q->sysctls;
	const struct sysctl *foreign = r == 0 ? pin_foreign_sysctl(&q->pin) : NULL;
	if (foreign == NULL)
		return r;
	return usage("this sysctl would change the host, or a namespace that is not made here", foreign->key);
}

/* --- making */

static int write_map(pid_t pid, const char *name, const char *map)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
	int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return -errno;
	int r = write(fd, map, strlen(map)) < 0 ? -errno : 0;
	close(fd);
	return r;
}

/*
 * Maps can only be written from outside once somebody is in the namespace: a child waits in it until its
 * parent has written them, and then goes on as the one who makes the rest. So whoever makes the network
 * namespace is root of its user namespace, which then owns it.
 */
static int write_maps(pid_t pid, const struct request *q)
{
	int r = write_map(pid, "uid_map", q->uid_map);
	return r < 0 ? r : write_map(pid, "gid_map", q->gid_map);
}

static int refused(const struct pin *p, int error)
{
	complain("%s%s%s: %s", p->failed, p->detail[0] == '\0' ? "" : " ", p->detail, strerror(-error));
	return EXIT_REFUSED;
}

/* In the child, which clone has put into the user namespace if there is one. */
static int make_namespaces(struct request *q)
{
	if (q->pin.wanted[KIND_USER] && (setgid(0) < 0 || setuid(0) < 0)) {
		complain("become root of the user namespace: %s", strerror(errno));
		return EXIT_REFUSED;
	}
	int r = pin_make(&q->pin);
	return r < 0 ? refused(&q->pin, r) : 0;
}

/* --- the two processes: ours stays outside and writes maps and mounts; the child is inside */

static bool tell(int fd)
{
	return write(fd, "+", 1) == 1;
}
static bool told(int fd)
{
	char byte;
	return read(fd, &byte, 1) == 1;
}

/* Waits for the maps, makes the rest, tells, and holds everything until its parent has pinned it. */
static _Noreturn void inside(struct request *q, int channel)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (!told(channel))
		_exit(EXIT_REFUSED);
	int r = make_namespaces(q);
	if (r != 0)
		_exit(r);
	if (tell(channel))
		(void)told(channel);
	_exit(0);
}

/*
 * A mount namespace cannot be pinned where the mount would reach that very namespace (a loop, EINVAL): its
 * place becomes a mount of its own that is passed on to nobody, as CRI-O's pinns has it.
 */
static int keep_to_ourselves(const char *path)
{
	char directory[PATH_MAX];
	const char *slash = strrchr(path, '/');
	int n = snprintf(directory, sizeof directory, "%.*s", slash == NULL ? 0 : (int)(slash - path), path);
	if (n <= 0 || (size_t)n >= sizeof directory)
		return -EINVAL;
	/* It may be one already; if not, the second call fails, too. */
	(void)mount(directory, directory, NULL, MS_BIND, NULL);
	return mount(NULL, directory, NULL, MS_UNBINDABLE, NULL) < 0 ? -errno : 0;
}

static int outside(struct request *q, pid_t pid, int channel)
{
	if (q->pin.wanted[KIND_USER]) {
		int r = write_maps(pid, q);
		if (r < 0) {
			complain("write id maps: %s", strerror(-r));
			return EXIT_REFUSED;
		}
	}
	if (q->pin.wanted[KIND_MOUNT]) {
		int r = keep_to_ourselves(q->pin.path[KIND_MOUNT]);
		if (r < 0) {
			complain("make a private mount of the directory of %s: %s", q->pin.path[KIND_MOUNT], strerror(-r));
			return EXIT_REFUSED;
		}
	}
	if (!tell(channel) || !told(channel))
		return EXIT_REFUSED; /* It has said why. */
	char ns_dir[32];
	snprintf(ns_dir, sizeof ns_dir, "/proc/%d/ns", pid);
	int r = pin_all(&q->pin, ns_dir);
	if (r == -EINVAL && q->pin.wanted[KIND_MOUNT])
		return LOOKS_OLDER;
	return r < 0 ? refused(&q->pin, r) : 0;
}

static pid_t fork_with(int flags)
{
	return (pid_t)syscall(SYS_clone, (unsigned long)(flags | SIGCHLD), 0UL, 0UL, 0UL, 0UL);
}

/* Makes the namespaces and pins them; the exit code, or LOOKS_OLDER. */
static int make_and_pin(struct request *q)
{
	int channel[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel) < 0) {
		complain("socketpair: %s", strerror(errno));
		return EXIT_REFUSED;
	}
	pid_t pid = fork_with(q->pin.wanted[KIND_USER] ? CLONE_NEWUSER : 0);
	if (pid < 0) {
		complain("clone: %s", strerror(errno));
		return EXIT_REFUSED;
	}
	if (pid == 0) {
		close(channel[0]);
		inside(q, channel[1]);
	}
	close(channel[1]);
	int r = outside(q, pid, channel[0]);
	close(channel[0]);
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return r;
}

/*
 * A mount namespace may be pinned only in an older one, and the kernel tells which is older by numbers that each
 * processor gives out of a stock of its own (Linux 6.18, fs/namespace.c: mnt_ns_loop): a child of another processor
 * than made ours may look like our elder. One that is made where ours was does not.
 */
static int on_each_processor(struct request *q)
{
	int r = LOOKS_OLDER;
	for (size_t cpu = 0; r == LOOKS_OLDER && cpu < CPU_SETSIZE; cpu++) {
		cpu_set_t one;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		if (sched_setaffinity(0, sizeof one, &one) == 0)
			r = make_and_pin(q);
	}
	return r == LOOKS_OLDER ? refused(&q->pin, -EINVAL) : r;
}

int main(int argc, char *argv[])
{
	static struct request q;
	if (argc == 2 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-v") == 0)) {
		puts("pinns (berth) version " BERTH_VERSION);
		return 0;
	}
	int r = parse(&q, argc, argv);
	if (r != 0)
		return r;
	r = make_and_pin(&q);
	return r == LOOKS_OLDER ? on_each_processor(&q) : r;
}
