/*
 * Processes: spawning, pidfds, and what they have open.
 */
#define _GNU_SOURCE
#include <linux/magic.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#include "addon.h"
#include "pin.h"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif
#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x1000
#endif
#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif

/* --- spawn
 *
 * The child shares our memory and stops the calling thread until it executes (vfork semantics), so the size
 * of the daemon's heap does not matter. It runs on a stack of its own, calls nothing that is not
 * async-signal-safe, and reports failure in struct spawn.
 */
#define STACK_SIZE (64 * 1024)
#define FDS_MAX 64
#define CGROUPS_MAX 16
enum { LEADS_NOTHING, LEADS_GROUP, LEADS_SESSION };

struct spawn {
	const char *file, *cwd;
	char **argv, **env;
	int64_t leads;
	const int64_t *fds;
	int fds_count;
	int cgroup_fds[CGROUPS_MAX]; /* cgroup.procs, open for writing */
	int cgroup_count;
	int into_cgroup; /* v2 directory, or -1 */
	char oom[16];    /* '' = leave */
	const char *null;
	int error;
	const char *failed;
};

static int spawn_failed(struct spawn *s, const char *failed)
{
	s->error = errno;
	s->failed = failed;
	return 127;
}

/* Handlers must not run on our memory, and what we ignore (SIGPIPE) the child must not inherit as ignored. */
static void reset_signals(void)
{
	struct sigaction now, plain = { .sa_handler = SIG_DFL };
	for (int sig = 1; sig < NSIG; sig++)
		if (sigaction(sig, NULL, &now) == 0 && now.sa_handler != SIG_DFL)
			(void)sigaction(sig, &plain, NULL);
}

/* First all sources go above the targets, so that no target overwrites a source that is still needed. */
static int place_fds(const struct spawn *s)
{
	int parked[FDS_MAX];
	for (int i = 0; i < s->fds_count; i++) {
		int source = s->fds[i] < 0 ? open(s->null, O_RDWR | O_CLOEXEC) : (int)s->fds[i];
		parked[i] = source < 0 ? -1 : fcntl(source, F_DUPFD_CLOEXEC, s->fds_count);
		if (parked[i] < 0)
			return -1;
	}
	for (int i = 0; i < s->fds_count; i++)
		if (dup2(parked[i], i) < 0)
			return -1;
	return 0;
}

static void close_above(int first)
{
	if (syscall(SYS_close_range, (unsigned)first, ~0U, 0U) == 0)
		return;
	/* Kernels before 5.9: everything of ours is close-on-exec; this is for what we inherited. */
	for (int fd = first; fd < 4096; fd++)
		close(fd);
}

static void set_oom_score(const char *value)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd >= 0) {
		ssize_t ignored = write(fd, value, strlen(value));
		(void)ignored;
		close(fd);
	}
}

static int spawn_child(void *arg)
{
	struct spawn *s = arg;
	sigset_t none;
	reset_signals();
	if (s->leads == LEADS_GROUP && setpgid(0, 0) < 0)
		return spawn_failed(s, "setpgid");
	if (s->leads == LEADS_SESSION && setsid() < 0)
		return spawn_failed(s, "setsid");
	for (int i = 0; i < s->cgroup_count; i++)
		if (write(s->cgroup_fds[i], "0", 1) < 0)
			return spawn_failed(s, "enter cgroup");
	if (place_fds(s) < 0)
		return spawn_failed(s, "dup2");
	if (s->oom[0] != '\0')
		set_oom_score(s->oom);
	if (s->cwd[0] != '\0' && chdir(s->cwd) < 0)
		return spawn_failed(s, "chdir");
	close_above(s->fds_count);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execve(s->file, s->argv, s->env);
	return spawn_failed(s, "execve");
}

/*
 * clone3 with the child on its own stack, which libc does not offer: needed for CLONE_INTO_CGROUP alone. The
 * child runs fn(arg) and exits with what it returns. -1 with errno where there is no such code for this
 * machine.
 */
#if defined __x86_64__
long clone3_call(struct clone_args *args, size_t size, int (*fn)(void *), void *arg);
__asm__(".text\n.global clone3_call\n.hidden clone3_call\n.type clone3_call, @function\n"
	"clone3_call:\n\t"
	"endbr64\n\t"
	"mov %rcx, %r8\n\t" /* the call keeps r8, not rcx */
	"mov $435, %eax\n\t"
	"syscall\n\t"
	"test %rax, %rax\n\t"
	"jz 1f\n\t"
	"ret\n"
	"1:\txor %ebp, %ebp\n\t"
	"mov %r8, %rdi\n\t"
	"call *%rdx\n\t"
	"mov %eax, %edi\n\t"
	"mov $60, %eax\n\t"
	"syscall\n\t"
	"hlt\n\t");
#elif defined __aarch64__
long clone3_call(struct clone_args *args, size_t size, int (*fn)(void *), void *arg);
__asm__(".text\n.global clone3_call\n.hidden clone3_call\n.type clone3_call, %function\n"
	"clone3_call:\n\t"
	"mov x8, #435\n\t"
	"svc #0\n\t"
	"cbz x0, 1f\n\t"
	"ret\n"
	"1:\tmov x29, #0\n\t"
	"mov x0, x3\n\t"
	"blr x2\n\t"
	"mov x8, #93\n\t"
	"svc #0\n\t");
#else
static long clone3_call(struct clone_args *args, size_t size, int (*fn)(void *), void *arg)
{
	(void)args, (void)size, (void)fn, (void)arg;
	return -ENOSYS;
}
#endif

static long clone_child(struct spawn *s, char *stack, int *ret_pidfd)
{
	const unsigned long flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD;
	if (s->into_cgroup >= 0) {
		struct clone_args args = {
			.flags = flags | CLONE_INTO_CGROUP,
			.pidfd = (uint64_t)(uintptr_t)ret_pidfd,
			.exit_signal = SIGCHLD,
			.stack = (uint64_t)(uintptr_t)stack,
			.stack_size = STACK_SIZE,
			.cgroup = (uint64_t)(uint32_t)s->into_cgroup,
		};
		return clone3_call(&args, sizeof args, spawn_child, s);
	}
	int pid = clone(spawn_child, stack + STACK_SIZE, (int)(flags | SIGCHLD), s, ret_pidfd);
	return pid < 0 ? -errno : pid;
}

/* Field 22 of /proc/<pid>/stat. 0 if it cannot be read. */
static int64_t start_ticks(long pid)
{
	char path[40], text[1024];
	snprintf(path, sizeof path, "/proc/%ld/stat", pid);
	CLEAN_FD fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	if (n <= 0)
		return 0;
	text[n] = '\0';
	char *at = strrchr(text, ')');
	for (int field = 2; at != NULL && field < 22; field++)
		at = strchr(at + 1, ' ');
	return at == NULL ? 0 : (int64_t)strtoll(at + 1, NULL, 10);
}

static int open_cgroups(struct spawn *s, const struct arg *dirs)
{
	s->into_cgroup = -1;
	for (size_t i = 0; i < dirs->count; i++) {
		struct statfs fs;
		CLEAN_FD dir = open(dirs->list[i].data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (dir < 0 || fstatfs(dir, &fs) < 0)
			return -errno;
		if (fs.f_type == CGROUP2_SUPER_MAGIC && s->into_cgroup < 0) {
			s->into_cgroup = take_fd(&dir);
			continue;
		}
		if (s->cgroup_count == CGROUPS_MAX)
			return -E2BIG;
		int procs = openat(dir, "cgroup.procs", O_WRONLY | O_CLOEXEC);
		if (procs < 0)
			return -errno;
		s->cgroup_fds[s->cgroup_count++] = procs;
	}
	return 0;
}

static char **words(struct call *c, const struct arg *list)
{
	char **vector = call_alloc(c, (list->count + 1) * sizeof *vector);
	if (vector == NULL)
		return NULL;
	for (size_t i = 0; i < list->count; i++)
		vector[i] = (char *)(uintptr_t)list->list[i].data;
	vector[list->count] = NULL;
	return vector;
}

/* Every signal stays blocked in this thread until the child has executed or failed. */
static int spawn_run(struct call *c, struct spawn *s)
{
	_Alignas(16) char stack[STACK_SIZE];
	sigset_t all, before;
	int pidfd = -1;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	long pid = clone_child(s, stack, &pidfd);
	/* Kernels before 5.7 or filters against clone3: the child moves itself. */
	if (pid == -ENOSYS && s->into_cgroup >= 0 && s->cgroup_count < CGROUPS_MAX) {
		s->cgroup_fds[s->cgroup_count] = openat(s->into_cgroup, "cgroup.procs", O_WRONLY | O_CLOEXEC);
		if (s->cgroup_fds[s->cgroup_count] >= 0)
			s->cgroup_count++;
		s->into_cgroup = -1;
		pid = clone_child(s, stack, &pidfd);
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (pid < 0)
		return call_fail(c, "clone", (int)-pid);
	if (s->error != 0) {
		siginfo_t info;
		while (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED) < 0 && errno == EINTR)
			;
		close(pidfd);
		return call_fail(c, s->failed, s->error);
	}
	return call_numbers(c, (int64_t[]){ pid, pidfd, start_ticks(pid) }, 3);
}

int sys_spawn(struct call *c)
{
	const struct arg *a = c->arg;
	struct spawn s = {
		.file = a[0].text.data,
		.argv = words(c, &a[1]),
		.env = words(c, &a[2]),
		.cwd = a[3].text.data,
		.fds = a[4].numbers,
		.fds_count = (int)a[4].count,
		.leads = a[6].i,
		.null = null_device(),
	};
	if (s.argv == NULL || s.env == NULL)
		return call_fail(c, "malloc", ENOMEM);
	if (a[1].count == 0 || a[4].count > FDS_MAX)
		return call_fail(c, "spawn", EINVAL);
	if (a[7].i >= -1000 && a[7].i <= 1000)
		snprintf(s.oom, sizeof s.oom, "%d", (int)a[7].i);
	int r = open_cgroups(&s, &a[5]);
	int own = s.into_cgroup;
	if (s.into_cgroup < 0)
		s.into_cgroup = launcher_cgroup_fd();
	r = r < 0 ? call_fail(c, "open cgroup", -r) : spawn_run(c, &s);
	for (int i = 0; i < s.cgroup_count; i++)
		close(s.cgroup_fds[i]);
	if (own >= 0)
		close(own);
	return r;
}

/* --- pidfds */

int sys_pidfd_open(struct call *c)
{
	long fd = syscall(SYS_pidfd_open, (pid_t)c->arg[0].i, 0);
	if (fd < 0)
		return call_fail(c, "pidfd_open", errno);
	c->number = fd;
	return 0;
}

int sys_pidfd_signal(struct call *c)
{
	if (syscall(SYS_pidfd_send_signal, (int)c->arg[0].i, (int)c->arg[1].i, NULL, 0) < 0)
		return call_fail(c, "pidfd_send_signal", errno);
	return 0;
}

int sys_pidfd_reap(struct call *c)
{
	siginfo_t info = { .si_pid = 0 };
	if (waitid(P_PIDFD, (id_t)c->arg[0].i, &info, WEXITED | WNOHANG) < 0)
		return call_fail(c, "waitid", errno);
	if (info.si_pid == 0)
		return call_fail(c, "waitid", EAGAIN);
	return call_numbers(c, (int64_t[]){ info.si_code, info.si_status }, 2);
}

/* --- children that have ended */

/* Of one thread's list: a hundred thousand children. */
#define CHILDREN_MAX (1024 * 1024)

static int add_if_ended(int64_t pid, struct buffer *ended)
{
	siginfo_t info = { .si_pid = 0 };
	if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT | __WALL) < 0 || info.si_pid == 0)
		return 0;
	return buffer_add(ended, &pid, sizeof pid);
}

/* Numbers with a space after each. */
static int add_ended_of(const struct buffer *children, struct buffer *ended)
{
	int64_t pid = 0;
	for (size_t i = 0; i < children->len; i++) {
		char digit = children->data[i];
		if (digit >= '0' && digit <= '9') {
			pid = pid * 10 + (digit - '0');
			continue;
		}
		if (pid > 0 && add_if_ended(pid, ended) < 0)
			return -ENOMEM;
		pid = 0;
	}
	return 0;
}

/* Children hang on the thread that made or adopted them. How many threads have told theirs, or -errno. */
static int children_of_threads(struct buffer *children)
{
	char path[64];
	struct dirent *entry;
	int told = 0;
	CLEAN_DIR *threads = opendir("/proc/self/task");
	if (threads == NULL)
		return -errno;
	while ((entry = next_entry(threads)) != NULL) {
		snprintf(path, sizeof path, "/proc/self/task/%.20s/children", entry->d_name);
		int64_t n = append_file(children, path, CHILDREN_MAX);
		if (n >= 0)
			told++;
		/* The thread has ended meanwhile, or the kernel has no such files. */
		else if (n != -ENOENT && n != -ESRCH)
			return (int)n;
	}
	return errno != 0 ? -errno : told;
}

int sys_ended_children(struct call *c)
{
	siginfo_t info = { .si_pid = 0 };
	CLEAN_BUFFER children = { 0 };
	CLEAN_BUFFER ended = { 0 };
	/* Mostly there is none, and the kernel says so in one call. */
	if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT | __WALL) < 0 && errno != ECHILD)
		return call_fail(c, "waitid", errno);
	if (info.si_pid == 0)
		return call_numbers(c, NULL, 0);
	int told = children_of_threads(&children);
	c->absent = told == 0;
	if (told < 0)
		return call_fail(c, "list children", -told);
	if (add_ended_of(&children, &ended) < 0)
		return call_fail(c, "malloc", ENOMEM);
	return call_numbers(c, (const int64_t *)(const void *)ended.data, ended.len / sizeof(int64_t));
}

int sys_set_subreaper(struct call *c)
{
	return prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0 ? call_fail(c, "prctl", errno) : 0;
}

/*
 * The kernel's struct sched_attr in its first version; its header cannot be included beside old versions of
 * <sched.h>.
 */
struct scheduling {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

/*
 * Our children and threads begin at 0 again (SCHED_FLAG_RESET_ON_FORK): a container must not inherit what is
 * the event loop's.
 */
int sys_favour_thread(struct call *c)
{
	struct scheduling attr = {
		.size = sizeof attr,
		.policy = SCHED_OTHER,
		.flags = SCHED_FLAG_RESET_ON_FORK,
		.nice = (int32_t)c->arg[0].i,
	};
	return syscall(SYS_sched_setattr, 0, &attr, 0) < 0 ? call_fail(c, "sched_setattr", errno) : 0;
}

/* --- what processes have open */

/* readlink, not stat: a descriptor may lead to a file system that does not answer. */
static void count_fds(long pid, int64_t ret_count[2])
{
	char path[40], target[16];
	struct dirent *entry;
	snprintf(path, sizeof path, "/proc/%ld/fd", pid);
	DIR *dir = opendir(path);
	while (dir != NULL && (entry = readdir(dir)) != NULL) {
		if (entry->d_name[0] == '.')
			continue;
		ret_count[0]++;
		ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof target);
		if (n > 7 && memcmp(target, "socket:", 7) == 0)
			ret_count[1]++;
	}
	if (dir != NULL)
		closedir(dir);
}

int sys_count_fds(struct call *c)
{
	int64_t total[2] = { 0, 0 };
	for (size_t i = 0; i < c->arg[0].count; i++)
		count_fds((long)c->arg[0].numbers[i], total);
	return call_numbers(c, total, 2);
}
