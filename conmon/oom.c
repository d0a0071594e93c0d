/*
 * Out of memory: keeping ourselves out of the killer's way, and knowing when it took one of the
 * container's processes. That is read from the cgroup's own counter of kills, as a difference, by
 * a descriptor opened at the start; so it still works when the event comes late or not at all, and
 * kills from before (an exec in a container that had one) are not counted again.
 *
 * systemd removes a scope as soon as its last process is gone, often before we come to look, and
 * with the cgroup goes its counter (ENODEV). Kills are counted in every cgroup above as well, and
 * the slice stays: what it counted since both counters could last be read was ours, or another
 * container's of the same pod within these milliseconds. Whoever ends with success is not blamed.
 */
#include "conmon.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define CGROUP_ROOT "/sys/fs/cgroup"
#define CGROUP2_MAGIC 0x63677270
enum { AGAIN_MS = 100 };

/* --- our own score ---------------------------------------------------------------------------- */

static int write_score(int score)
{
	char text[16];
	int n = snprintf(text, sizeof(text), "%d", score);
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	int r = fd < 0 ? -errno : write_all(fd, text, (size_t)n);

	close_fd(&fd);
	return r;
}

/* The monitor should die last. Not every node lets us say so. */
void oom_protect(struct conmon *c)
{
	char text[16];
	int64_t score;
	int r = read_small("/proc/self/oom_score_adj", text, sizeof(text));

	if (r < 0)
		return;
	text[strcspn(text, "\n")] = '\0';
	if (parse_int(text, -1000, 1000, &score) < 0)
		return;
	c->oom_score_adj = (int)score;
	r = write_score(-1000);
	c->oom_score_lowered = r == 0;
	if (r < 0)
		note(LEVEL_INFO, "cannot lower oom_score_adj: %s, ignoring", strerror(-r));
}

/* For a child: the score we started with. */
void oom_unprotect(struct conmon *c)
{
	if (c->oom_score_lowered)
		(void)write_score(c->oom_score_adj);
}

/* --- the container's counter ------------------------------------------------------------------ */

/* Finds `oom_kill N` in memory.events (v2) or memory.oom_control (v1). Returns 0 or -ENODATA. */
int oom_parse(const char *text, size_t len, int64_t *ret_kills)
{
	static const char key[] = "oom_kill ";
	const char *end = text + len;

	while (text < end) {
		const char *newline = memchr(text, '\n', (size_t)(end - text));
		const char *stop = newline ? newline : end;
		size_t line = (size_t)(stop - text);
		char digits[24];

		if (line > sizeof(key) - 1 && memcmp(text, key, sizeof(key) - 1) == 0 &&
		    line - (sizeof(key) - 1) < sizeof(digits)) {
			size_t n = line - (sizeof(key) - 1);
			memcpy(digits, text + sizeof(key) - 1, n);
			digits[n] = '\0';
			return parse_int(digits, 0, INT64_MAX, ret_kills) < 0 ? -ENODATA : 0;
		}
		text = newline ? newline + 1 : end;
	}
	return -ENODATA;
}

static int read_kills(int fd, int64_t *ret_kills)
{
	char text[1024];
	ssize_t n = pread(fd, text, sizeof(text), 0);

	return n < 0 ? -errno : oom_parse(text, (size_t)n, ret_kills);
}

static bool has_controller(const char *list, const char *end, const char *name)
{
	size_t len = strlen(name);

	while (list < end) {
		const char *comma = memchr(list, ',', (size_t)(end - list));
		const char *stop = comma ? comma : end;

		if ((size_t)(stop - list) == len && memcmp(list, name, len) == 0)
			return true;
		list = stop + 1;
	}
	return false;
}

/*
 * Looks through /proc/<pid>/cgroup (`id:controllers:path` lines) for where memory is counted: in a
 * v1 hierarchy if memory is in one, else in the unified one. Returns whether there is one.
 */
static bool find_cgroup(char *text, char ret_path[static PATH_MAX], bool *ret_v2)
{
	struct statfs fs;
	bool pure_v2 = statfs(CGROUP_ROOT, &fs) == 0 && fs.f_type == CGROUP2_MAGIC;
	bool found = false;

	for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *controllers = strchr(line, ':');
		char *path = controllers ? strchr(controllers + 1, ':') : NULL;
		bool v2, v1;

		if (!path)
			continue;
		v2 = path == controllers + 1 && !found;
		v1 = !pure_v2 && has_controller(controllers + 1, path, "memory");
		if (!v1 && !v2)
			continue;
		int n = snprintf(ret_path, PATH_MAX, "%s%s", v1 ? CGROUP_ROOT "/memory" : pure_v2 ? CGROUP_ROOT :
				 CGROUP_ROOT "/unified", path + 1);
		found = n > 0 && n < PATH_MAX;
		*ret_v2 = v2;
		if (v1)
			break;
	}
	return found;
}

/* v1 tells of an OOM by an eventfd, registered by writing both descriptors' numbers. */
static void register_event(struct conmon *c, const char *cgroup)
{
	char path[PATH_MAX], text[32];
	int fd;

	if (path_join(path, cgroup, "cgroup.event_control") < 0)
		return;
	fd = open(path, O_WRONLY | O_CLOEXEC);
	c->oom.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int n = snprintf(text, sizeof(text), "%d %d", c->oom.event_fd, c->oom.counter_fd);
	if (fd < 0 || c->oom.event_fd < 0 || write_all(fd, text, (size_t)n) < 0) {
		note(LEVEL_INFO, "no OOM events from %s, looking at the end only", cgroup);
		close_fd(&c->oom.event_fd);
	}
	close_fd(&fd);
}

static void create_note(const char *dir)
{
	char path[PATH_MAX];
	int fd;

	if (!dir || !*dir || path_join(path, dir, "oom") < 0)
		return;
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
	if (fd < 0)
		note(LEVEL_WARN, "cannot write %s: %s", path, strerror(errno));
	close_fd(&fd);
}

static bool ended_badly(const struct conmon *c)
{
	return c->state == STATE_ENDED && !c->lost &&
	       !(WIFEXITED(c->container_status) && WEXITSTATUS(c->container_status) == 0);
}

/*
 * Whether the killer was there since the last time. The kernel counts in a cgroup before it counts
 * in the one above: so what the slice had counted before the container's own counter was read and
 * said no was somebody else's.
 */
static bool was_killed(struct conmon *c)
{
	struct oom *oom = &c->oom;
	int64_t slice_kills, kills;
	bool has_slice = oom->slice.fd >= 0 && read_kills(oom->slice.fd, &slice_kills) == 0;

	if (read_kills(oom->counter_fd, &kills) < 0)
		return has_slice && ended_badly(c) && slice_kills > oom->slice_kills;
	if (has_slice)
		oom->slice_kills = slice_kills;
	if (kills <= oom->kills)
		return false;
	oom->kills = kills;
	return true;
}

/* Reads the counters; if the killer was there since the last time, leaves the files that say so. */
void oom_check(struct conmon *c)
{
	if (c->oom.counter_fd < 0 || !was_killed(c))
		return;
	note(LEVEL_INFO, "the OOM killer took a process of the container");
	create_note(c->opt.persist_dir);
	create_note(c->opt.bundle);
}

static void on_event(struct conmon *c, struct source *source, uint32_t events)
{
	uint64_t count;
	int64_t kills;

	(void)events;
	if (!c->oom.v2)
		(void)!read(source->fd, &count, sizeof(count));
	/* A cgroup that is gone signals too, and then for ever. */
	if (read_kills(c->oom.counter_fd, &kills) < 0) {
		loop_remove(c, source);
		return;
	}
	oom_check(c);
	/* v1 tells before it kills, so what it tells of may only be counted in a moment. */
	if (!c->oom.v2)
		loop_timer(c, TIMER_OOM, AGAIN_MS);
}

/*
 * Another container of the pod may have been killed: what the slice counts of that is not ours. Once
 * the scope is gone, what it counted until then has to wait for the end.
 */
static void on_slice_event(struct conmon *c, struct source *source, uint32_t events)
{
	int64_t kills;

	(void)events;
	if (read_kills(c->oom.counter_fd, &kills) < 0)
		loop_remove(c, source);
	else
		oom_check(c);
}

/* `/a.slice/b.scope/c` is cut to `/a.slice`. Returns whether there is a scope. */
static bool slice_of(char *cgroup)
{
	static const char suffix[] = ".scope";
	size_t end = strlen(cgroup);

	for (char *slash = strrchr(cgroup, '/'); slash; slash = strrchr(cgroup, '/')) {
		size_t len = end - (size_t)(slash - cgroup);
		bool scope = len > sizeof(suffix) && memcmp(cgroup + end - (sizeof(suffix) - 1), suffix,
							     sizeof(suffix) - 1) == 0;
		*slash = '\0';
		end = (size_t)(slash - cgroup);
		if (scope)
			return true;
	}
	return false;
}

static void watch_slice(struct conmon *c, char *cgroup)
{
	char path[PATH_MAX];

	if (!c->opt.systemd_cgroup || !slice_of(cgroup) || path_join(path, cgroup, "memory.events") < 0)
		return;
	c->oom.slice = (struct source){ open(path, O_RDONLY | O_CLOEXEC), on_slice_event };
	if (c->oom.slice.fd < 0 || read_kills(c->oom.slice.fd, &c->oom.slice_kills) < 0) {
		note(LEVEL_DEBUG, "no OOM counter at %s", path);
		close_fd(&c->oom.slice.fd);
		return;
	}
	(void)loop_want(c, &c->oom.slice, EPOLLPRI);
}

static void watch_cgroup(struct conmon *c, char *cgroup, bool v2)
{
	char path[PATH_MAX];

	if (path_join(path, cgroup, v2 ? "memory.events" : "memory.oom_control") < 0)
		return;
	c->oom.v2 = v2;
	c->oom.counter_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (c->oom.counter_fd < 0 || read_kills(c->oom.counter_fd, &c->oom.kills) < 0) {
		note(LEVEL_DEBUG, "no OOM counter at %s", path);
		close_fd(&c->oom.counter_fd);
		return;
	}
	if (!v2)
		register_event(c, cgroup);
	else
		watch_slice(c, cgroup);
	c->oom.source = (struct source){ v2 ? c->oom.counter_fd : c->oom.event_fd, on_event };
	if (c->oom.source.fd >= 0)
		(void)loop_want(c, &c->oom.source, v2 ? EPOLLPRI : EPOLLIN);
}

/* Starts counting for the container's cgroup. Without one, or without memory, there is nothing to count. */
void oom_watch(struct conmon *c)
{
	char proc[32], text[4096], cgroup[PATH_MAX];
	bool v2 = false;

	if (!c->opt.bundle && !c->opt.persist_dir)
		return;
	(void)snprintf(proc, sizeof(proc), "/proc/%d/cgroup", c->container_pid);
	if (read_small(proc, text, sizeof(text)) < 0 || !child_is_known(c) || !find_cgroup(text, cgroup, &v2))
		note(LEVEL_INFO, "cannot find the memory cgroup of the container, which may have ended");
	else
		watch_cgroup(c, cgroup, v2);
}
