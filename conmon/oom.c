/*
 * Out of memory: keeping ourselves out of the killer's way, and knowing when it took one of the
 * container's processes. That is read from the cgroup's own counter of kills, as a difference, by
 * a descriptor opened at the start; so it still works when the event comes late or not at all, and
 * kills from before (an exec in a container that had one) are not counted again.
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

static int read_kills(const struct oom *oom, int64_t *ret_kills)
{
	char text[1024];
	ssize_t n = pread(oom->counter_fd, text, sizeof(text), 0);

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

/* Reads the counter; if the killer was there since the last time, leaves the files that say so. */
void oom_check(struct conmon *c)
{
	int64_t kills;

	if (c->oom.counter_fd < 0 || read_kills(&c->oom, &kills) < 0 || kills <= c->oom.kills)
		return;
	c->oom.kills = kills;
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
	if (read_kills(&c->oom, &kills) < 0) {
		loop_remove(c, source);
		return;
	}
	oom_check(c);
	/* v1 tells before it kills, so what it tells of may only be counted in a moment. */
	if (!c->oom.v2)
		loop_timer(c, TIMER_OOM, AGAIN_MS);
}

static void watch_cgroup(struct conmon *c, const char *cgroup, bool v2)
{
	char path[PATH_MAX];

	if (path_join(path, cgroup, v2 ? "memory.events" : "memory.oom_control") < 0)
		return;
	c->oom.v2 = v2;
	c->oom.counter_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (c->oom.counter_fd < 0 || read_kills(&c->oom, &c->oom.kills) < 0) {
		note(LEVEL_DEBUG, "no OOM counter at %s", path);
		close_fd(&c->oom.counter_fd);
		return;
	}
	if (!v2)
		register_event(c, cgroup);
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
	if (read_small(proc, text, sizeof(text)) < 0 || !find_cgroup(text, cgroup, &v2))
		note(LEVEL_INFO, "cannot find the memory cgroup of the container, which may have ended");
	else
		watch_cgroup(c, cgroup, v2);
}
