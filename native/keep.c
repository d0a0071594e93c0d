/*
 * keep: runs a command that shall not outlive who asked for it.
 *
 *   keep PID group|session|inherit FILE ARGV0 [ARG…]
 *
 * PID is our parent, the daemon. When it dies, or we get SIGTERM, everything that the command has started is
 * killed, whatever it has done to leave its family: as a subreaper we are the parent of all that lost theirs.
 * When the command ends by itself we end as it did, and leave alone what it left.
 *
 * A command that cannot be executed is told on stderr, in a line that pkg/sys/capture.ts knows, with exit code
 * 127. PR_SET_PDEATHSIG would not do: it reaches the command alone, and fires when the thread ends that made it.
 * Each plugin and each call of the runtime has one of us before it, so we do without the C library (bare.h).
 */
#define _GNU_SOURCE
#include "bare.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum { EXIT_USAGE = 125, EXIT_UNEXECUTED = 127, EXIT_KILLED = 128 + SIGKILL };
enum { ARG_PID = 1, ARG_LEADS, ARG_FILE, ARG_ARGV0 };

static const char CHILDREN[] = "/proc/thread-self/children";

/* Kills our children, as /proc tells them; false if it does not tell. */
static bool kill_children(void)
{
	char text[4096];
	long fd = BARE_3(SYS_openat, AT_FDCWD, CHILDREN, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	long pid = 0;
	for (long n; (n = BARE_3(SYS_read, fd, text, sizeof text)) > 0;) {
		for (long i = 0; i < n; i++) {
			if (text[i] >= '0' && text[i] <= '9') {
				pid = pid * 10 + (text[i] - '0');
				continue;
			}
			/* A child of ours that has ended keeps its number until we reap it. */
			if (pid > 0)
				(void)BARE_2(SYS_kill, pid, SIGKILL);
			pid = 0;
		}
	}
	(void)BARE_1(SYS_close, fd);
	return true;
}

static long wait_for(long pid, int *status, int options)
{
	return BARE_4(SYS_wait4, pid, status, options, NULL);
}

/* What dies leaves its children to us, so this goes on until there are none. */
static _Noreturn void end_all(long command)
{
	for (;;) {
		/* Without CONFIG_PROC_CHILDREN: the command and its group, if it leads one. */
		if (!kill_children()) {
			(void)BARE_2(SYS_kill, -command, SIGKILL);
			(void)BARE_2(SYS_kill, command, SIGKILL);
		}
		if (wait_for(-1, NULL, 0) == -ECHILD)
			bare_exit(EXIT_KILLED);
	}
}

static void set_mask(const uint64_t *mask)
{
	(void)BARE_4(SYS_rt_sigprocmask, SIG_SETMASK, mask, NULL, BARE_SIGSET_BYTES);
}

/* As the command did: callers tell a signal from an exit code. */
static _Noreturn void end_as(int status)
{
	if (WIFSIGNALED(status)) {
		const struct rlimit none = { 0, 0 };
		const uint64_t nothing = 0;
		/* A whole kernel_sigaction of zeros: SIG_DFL, no flags, no mask. */
		const long by_default[4] = { 0 };
		(void)BARE_4(SYS_prlimit64, 0, RLIMIT_CORE, &none, NULL);
		(void)BARE_4(SYS_rt_sigaction, WTERMSIG(status), by_default, NULL, BARE_SIGSET_BYTES);
		(void)BARE_2(SYS_kill, BARE_1(SYS_getpid, 0), WTERMSIG(status));
		set_mask(&nothing);
		bare_exit(128 + WTERMSIG(status));
	}
	bare_exit(WEXITSTATUS(status));
}

/* Reaps all that has ended; ends us with the command. */
static void reap(long command)
{
	int status = 0;
	for (long pid; (pid = wait_for(-1, &status, WNOHANG)) > 0;)
		if (pid == command)
			end_as(status);
}

/* Says that the command could not be executed, and ends. */
static _Noreturn void refuse(long error)
{
	char line[] = "berth-keep: execve: 0000\n";
	size_t end = sizeof line - 1;
	/* Without the zeros before it: what is written ends where the number would have begun. */
	size_t at = end - 1, from = at - 4;
	for (long rest = error; rest > 0 && at > from; rest /= 10)
		line[--at] = (char)('0' + rest % 10);
	(void)BARE_3(SYS_write, STDERR_FILENO, line, from);
	(void)BARE_3(SYS_write, STDERR_FILENO, line + at, end - at);
	bare_exit(EXIT_UNEXECUTED);
}

/* Only a few pages are copied, and the child needs nothing of ours but them. */
static long start(char *argv[], char *envp[], const uint64_t *before)
{
	long pid = BARE_5(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	if (pid < 0)
		refuse(-pid);
	if (pid > 0)
		return pid;
	const char *leads = argv[ARG_LEADS];
	if (leads[0] == 'g')
		(void)BARE_2(SYS_setpgid, 0, 0);
	if (leads[0] == 's')
		(void)BARE_1(SYS_setsid, 0);
	set_mask(before);
	refuse(-BARE_3(SYS_execve, argv[ARG_FILE], argv + ARG_ARGV0, envp));
}

static long number_of(const char *text)
{
	long number = 0;
	for (; *text >= '0' && *text <= '9'; text++)
		number = number * 10 + (*text - '0');
	return number;
}

static int bare_main(int argc, char *argv[], char *envp[])
{
	if (argc <= ARG_ARGV0)
		return EXIT_USAGE;
	long daemon = number_of(argv[ARG_PID]);
	long parent = BARE_2(SYS_pidfd_open, daemon, 0);
	/* Asked for after the pidfd: as long as it is our parent, the number is nobody else's. */
	if (BARE_1(SYS_getppid, 0) != daemon)
		return EXIT_KILLED;
	const uint64_t ours = BARE_SIGNAL(SIGCHLD) | BARE_SIGNAL(SIGTERM);
	uint64_t before = 0;
	(void)BARE_4(SYS_rt_sigprocmask, SIG_BLOCK, &ours, &before, BARE_SIGSET_BYTES);
	long signals = BARE_4(SYS_signalfd4, -1, &ours, BARE_SIGSET_BYTES, SFD_CLOEXEC | SFD_NONBLOCK);
	long reaper = BARE_2(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1);
	if (parent < 0 || signals < 0 || reaper < 0)
		refuse(parent < 0 ? -parent : signals < 0 ? -signals : -reaper);
	long command = start(argv, envp, &before);
	/* The command's descriptors are not ours to hold: its peers look for their end. */
	for (long fd = 0; fd < parent; fd++)
		(void)BARE_1(SYS_close, fd);
	struct pollfd wait[] = { { .fd = (int)parent, .events = POLLIN }, { .fd = (int)signals, .events = POLLIN } };
	for (;;) {
		struct signalfd_siginfo got;
		long woken = BARE_5(SYS_ppoll, wait, 2, NULL, NULL, BARE_SIGSET_BYTES);
		if (woken < 0 && woken != -EINTR)
			end_all(command);
		while (BARE_3(SYS_read, signals, &got, sizeof got) == (long)sizeof got)
			if (got.ssi_signo == SIGTERM)
				end_all(command);
		reap(command);
		if (wait[0].revents != 0)
			end_all(command);
	}
}
