/*
 * pinns: makes namespaces and pins them by bind mounts, so that a pod needs no process to hold them. A program of its own, because
 * namespaces belong to threads and the daemon has many.
 *
 *   pinns --net PATH --ipc PATH --uts PATH --user PATH     pin that namespace at PATH (a file, made if missing)
 *         --hostname NAME                                  in the new UTS namespace
 *         --sysctl KEY VALUE                               two words: nothing to split (CVE-2022-0811). May be repeated
 *         --uid-map INSIDE OUTSIDE COUNT                   three words; --gid-map likewise. May be repeated
 *
 * CRI-O's own flags work too: -d DIR -f NAME with any of -u (uts) -n (net) -i (ipc) -U (user) -c (cgroup), which pin at
 * DIR/<kind>ns/NAME; -s/--sysctl=KEY=VALUE (one pair per flag); --uid-mapping=INSIDE-OUTSIDE-COUNT,… and --gid-mapping;
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

#ifndef BERTH_VERSION
#define BERTH_VERSION "unknown"
#endif

#define SYSCTLS_MAX 256
#define MAP_BYTES 4096

enum kind { KIND_USER, KIND_NET, KIND_IPC, KIND_UTS, KIND_CGROUP, KINDS };

static const struct {
	const char *name; /* in /proc/<pid>/ns, and long option */
	char letter;      /* CRI-O's flag */
	int flag;
} kinds[KINDS] = {
	[KIND_USER] = { "user", 'U', CLONE_NEWUSER },
	[KIND_NET] = { "net", 'n', CLONE_NEWNET },
	[KIND_IPC] = { "ipc", 'i', CLONE_NEWIPC },
	[KIND_UTS] = { "uts", 'u', CLONE_NEWUTS },
	[KIND_CGROUP] = { "cgroup", 'c', CLONE_NEWCGROUP },
};

struct sysctl {
	char *key;
	const char *value;
};

struct request {
	const char *path[KINDS];
	bool wanted[KINDS];
	const char *dir, *file, *hostname;
	struct sysctl sysctls[SYSCTLS_MAX];
	size_t sysctls_count;
	char uid_map[MAP_BYTES], gid_map[MAP_BYTES];
};

enum { EXIT_REFUSED = 1, EXIT_USAGE = 2 };

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

/* The key becomes a path below /proc/sys: its dots are separators, or its slashes, as sysctl(8) has it. */
static int sysctl_add(struct request *q, char *key, const char *value)
{
	if (q->sysctls_count == SYSCTLS_MAX)
		return usage("too many sysctls", key);
	if (key[0] == '\0' || key[0] == '/' || key[0] == '.' || strstr(key, "..") != NULL || strstr(key, "//") != NULL)
		return usage("not a sysctl name", key);
	if (strchr(value, '\n') != NULL)
		return usage("a sysctl value has a line break", key);
	bool slashes = strchr(key, '/') != NULL && strcspn(key, "/") < strcspn(key, ".");
	for (char *at = key; *at != '\0'; at++) {
		if (slashes)
			break;
		/* net.ipv4.conf.eth0/1.forwarding: a slash stands for a dot inside a name. */
		*at = *at == '.' ? '/' : *at == '/' ? '.' : *at;
	}
	if (strstr(key, "..") != NULL)
		return usage("not a sysctl name", key);
	q->sysctls[q->sysctls_count++] = (struct sysctl){ key, value };
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

/* -u, -n, … each of which CRI-O also writes as --uts, --net, … without a path, or with =PATH. True if the word was one. */
static bool parse_kind(struct request *q, char *argv[], int argc, int *index)
{
	const char *word = argv[*index];
	for (int k = 0; k < KINDS; k++) {
		if (word[0] == '-' && word[1] == kinds[k].letter && word[2] == '\0') {
			q->wanted[k] = true;
			return true;
		}
		if (strncmp(word, "--", 2) != 0 || strncmp(word + 2, kinds[k].name, strlen(kinds[k].name)) != 0)
			continue;
		const char *after = word + 2 + strlen(kinds[k].name);
		if (*after != '\0' && *after != '=')
			continue;
		q->wanted[k] = true;
		if (*after == '=')
			q->path[k] = after + 1;
		else if (*index + 1 < argc && argv[*index + 1][0] == '/')
			q->path[k] = argv[++*index];
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
		return q->hostname = value, 0;
	if ((value = value_of(argv, argc, index, "--dir")) != NULL || (value = value_of(argv, argc, index, "-d")) != NULL)
		return q->dir = value, 0;
	if ((value = value_of(argv, argc, index, "--filename")) != NULL || (value = value_of(argv, argc, index, "-f")) != NULL)
		return q->file = value, 0;
	if (value_of(argv, argc, index, "--log-level") != NULL)
		return 0;
	return usage("unknown option, or one without its value", word);
}

/* The namespace that a sysctl (as a path below /proc/sys) belongs to; KINDS if it is the whole machine's. */
static enum kind kind_of_sysctl(const char *key)
{
	static const struct {
		const char *prefix;
		enum kind kind;
	} owners[] = {
		{ "net/", KIND_NET }, { "kernel/shm", KIND_IPC }, { "kernel/msg", KIND_IPC }, { "kernel/sem", KIND_IPC },
		{ "fs/mqueue/", KIND_IPC }, { "kernel/hostname", KIND_UTS }, { "kernel/domainname", KIND_UTS },
	};
	for (size_t i = 0; i < sizeof owners / sizeof *owners; i++)
		if (strncmp(key, owners[i].prefix, strlen(owners[i].prefix)) == 0)
			return owners[i].kind;
	return KINDS;
}

static int check_sysctls(const struct request *q)
{
	for (size_t i = 0; i < q->sysctls_count; i++) {
		enum kind kind = kind_of_sysctl(q->sysctls[i].key);
		if (kind == KINDS)
			return usage("this sysctl belongs to no namespace, it would change the host", q->sysctls[i].key);
		if (!q->wanted[kind])
			return usage("this sysctl would change a namespace that is not made here", q->sysctls[i].key);
	}
	return 0;
}

/* Where each wanted namespace goes: the path given with it, or CRI-O's place. */
static int settle_paths(struct request *q)
{
	static char made[KINDS][PATH_MAX];
	bool any = false;
	for (int k = 0; k < KINDS; k++) {
		if (!q->wanted[k])
			continue;
		any = true;
		if (q->path[k] != NULL)
			continue;
		if (q->dir == NULL || q->file == NULL || q->file[0] == '\0' || strchr(q->file, '/') != NULL || strcmp(q->file, "..") == 0)
			return usage("no path, and no usable --dir and --filename, for the namespace", kinds[k].name);
		snprintf(made[k], sizeof made[k], "%s/%sns", q->dir, kinds[k].name);
		if (mkdir(made[k], 0755) < 0 && errno != EEXIST)
			return usage("cannot make directory", made[k]);
		int n = snprintf(made[k], sizeof made[k], "%s/%sns/%s", q->dir, kinds[k].name, q->file);
		if (n < 0 || (size_t)n >= sizeof made[k])
			return usage("path is too long", q->dir);
		q->path[k] = made[k];
	}
	if (!any)
		return usage("nothing to pin", "want --net, --ipc, --uts, --user or --cgroup");
	if (q->wanted[KIND_USER] != (q->uid_map[0] != '\0') || q->wanted[KIND_USER] != (q->gid_map[0] != '\0'))
		return usage("a user namespace wants uid and gid maps, and they want it", "--user");
	if (q->hostname != NULL && !q->wanted[KIND_UTS])
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
	return r != 0 ? r : check_sysctls(q);
}

/* --- making */

static int write_once(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return -errno;
	size_t len = strlen(text);
	ssize_t n = write(fd, text, len);
	int r = n < 0 ? -errno : (size_t)n == len ? 0 : -EIO;
	close(fd);
	return r;
}

/*
 * Maps can only be written from outside once somebody is in the namespace: a child waits in it until its parent has written them, and
 * then goes on as the one who makes the rest. So whoever makes the network namespace is root of its user namespace, which then owns it.
 */
static int write_maps(pid_t pid, const struct request *q)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/uid_map", pid);
	int r = write_once(path, q->uid_map);
	if (r == 0) {
		snprintf(path, sizeof path, "/proc/%d/gid_map", pid);
		r = write_once(path, q->gid_map);
	}
	return r;
}

static int set_sysctls(const struct request *q)
{
	for (size_t i = 0; i < q->sysctls_count; i++) {
		char path[PATH_MAX];
		int n = snprintf(path, sizeof path, "/proc/sys/%s", q->sysctls[i].key);
		int r = n < 0 || (size_t)n >= sizeof path ? -ENAMETOOLONG : write_once(path, q->sysctls[i].value);
		if (r < 0) {
			complain("sysctl %s = %.200s: %s", q->sysctls[i].key, q->sysctls[i].value, strerror(-r));
			return EXIT_REFUSED;
		}
	}
	return 0;
}

static int become_root_inside(void)
{
	return setgid(0) < 0 || setuid(0) < 0 ? -errno : 0;
}

/* In the child: unshare what is wanted, then say so. The user namespace has been entered by clone. */
static int make_namespaces(const struct request *q)
{
	int flags = 0;
	for (int k = 0; k < KINDS; k++)
		if (q->wanted[k] && k != KIND_USER)
			flags |= kinds[k].flag;
	if (q->wanted[KIND_USER] && become_root_inside() < 0) {
		complain("become root of the user namespace: %s", strerror(errno));
		return EXIT_REFUSED;
	}
	if (unshare(flags) < 0) {
		complain("unshare: %s", strerror(errno));
		return EXIT_REFUSED;
	}
	if (q->hostname != NULL && q->hostname[0] != '\0' && sethostname(q->hostname, strlen(q->hostname)) < 0) {
		complain("set hostname %s: %s", q->hostname, strerror(errno));
		return EXIT_REFUSED;
	}
	return set_sysctls(q);
}

/* --- pinning */

static int pin(pid_t pid, const char *name, const char *path)
{
	char source[64];
	int fd = open(path, O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	close(fd);
	snprintf(source, sizeof source, "/proc/%d/ns/%s", pid, name);
	return mount(source, path, NULL, MS_BIND, NULL) < 0 ? -errno : 0;
}

static void unpin(const char *path)
{
	(void)umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW);
	(void)unlink(path);
}

/* All or none. */
static int pin_all(pid_t pid, const struct request *q)
{
	for (int k = 0; k < KINDS; k++) {
		if (!q->wanted[k])
			continue;
		int r = pin(pid, kinds[k].name, q->path[k]);
		if (r == 0)
			continue;
		complain("pin %s namespace at %s: %s", kinds[k].name, q->path[k], strerror(-r));
		if (r != -EEXIST)
			unpin(q->path[k]);
		while (--k >= 0)
			if (q->wanted[k])
				unpin(q->path[k]);
		return EXIT_REFUSED;
	}
	return 0;
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
static _Noreturn void inside(const struct request *q, int channel)
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

static int outside(const struct request *q, pid_t pid, int channel)
{
	if (q->wanted[KIND_USER]) {
		int r = write_maps(pid, q);
		if (r < 0) {
			complain("write id maps: %s", strerror(-r));
			return EXIT_REFUSED;
		}
	}
	if (!tell(channel) || !told(channel))
		return EXIT_REFUSED; /* It has said why. */
	return pin_all(pid, q);
}

static pid_t fork_with(int flags)
{
	return (pid_t)syscall(SYS_clone, (unsigned long)(flags | SIGCHLD), 0UL, 0UL, 0UL, 0UL);
}

int main(int argc, char *argv[])
{
	static struct request q;
	int channel[2];
	if (argc == 2 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-v") == 0)) {
		puts("pinns (berth) version " BERTH_VERSION);
		return 0;
	}
	int r = parse(&q, argc, argv);
	if (r != 0)
		return r;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel) < 0) {
		complain("socketpair: %s", strerror(errno));
		return EXIT_REFUSED;
	}
	pid_t pid = fork_with(q.wanted[KIND_USER] ? CLONE_NEWUSER : 0);
	if (pid < 0) {
		complain("clone: %s", strerror(errno));
		return EXIT_REFUSED;
	}
	if (pid == 0) {
		close(channel[0]);
		inside(&q, channel[1]);
	}
	close(channel[1]);
	r = outside(&q, pid, channel[0]);
	close(channel[0]);
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return r;
}
