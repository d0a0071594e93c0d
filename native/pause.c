/*
 * pause: first process of a pod that shares its PID namespace. Reaps what is left to it, and ends on SIGTERM or SIGINT.
 * It never does anything else, and holds no memory to speak of: four pages, without the C library (bare.h).
 */
#include "bare.h"
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef BERTH_VERSION
#define BERTH_VERSION "unknown"
#endif

static const char VERSION[] = "pause (berth) version " BERTH_VERSION "\n";

static bool same(const char *a, const char *b)
{
	while (*a != '\0' && *a == *b)
		a++, b++;
	return *a == *b;
}

static void reap(void)
{
	while (BARE_4(SYS_wait4, -1, NULL, WNOHANG, NULL) > 0)
		;
}

/*
 * As PID 1 we get only signals that we ask for, so asking comes first: blocked, they wait for rt_sigtimedwait and
 * none is lost.
 */
static int bare_main(int argc, char *argv[], char *envp[])
{
	(void)envp;
	const uint64_t wanted = BARE_SIGNAL(SIGCHLD) | BARE_SIGNAL(SIGTERM) | BARE_SIGNAL(SIGINT);
	(void)BARE_4(SYS_rt_sigprocmask, SIG_BLOCK, &wanted, NULL, BARE_SIGSET_BYTES);
	if (argc > 1 && (same(argv[1], "--version") || same(argv[1], "-v"))) {
		(void)BARE_3(SYS_write, STDOUT_FILENO, VERSION, sizeof VERSION - 1);
		return 0;
	}
	for (;;) {
		long signal = BARE_4(SYS_rt_sigtimedwait, &wanted, NULL, NULL, BARE_SIGSET_BYTES);
		if (signal == SIGTERM || signal == SIGINT)
			return 0;
		if (signal < 0 && signal != -EINTR)
			return 1;
		reap();
	}
}
