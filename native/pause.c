/*
 * pause: first process of a pod that shares its PID namespace. Reaps what is left to it, and ends on SIGTERM or SIGINT.
 * It never does anything else, and holds no memory to speak of.
 */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef BERTH_VERSION
#define BERTH_VERSION "unknown"
#endif

static void say(const char *text)
{
	ssize_t ignored = write(STDOUT_FILENO, text, strlen(text));
	(void)ignored;
}

static void reap(void)
{
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
}

/*
 * As PID 1 we get only signals that we ask for, so asking comes first: blocked, they wait for sigwaitinfo and
 * none is lost.
 */
int main(int argc, char *argv[])
{
	sigset_t wanted;
	sigemptyset(&wanted);
	sigaddset(&wanted, SIGCHLD);
	sigaddset(&wanted, SIGTERM);
	sigaddset(&wanted, SIGINT);
	sigprocmask(SIG_BLOCK, &wanted, NULL);
	if (argc > 1 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-v") == 0)) {
		say("pause (berth) version " BERTH_VERSION "\n");
		return 0;
	}
	for (;;) {
		int signal = sigwaitinfo(&wanted, NULL);
		if (signal == SIGTERM || signal == SIGINT)
			return 0;
		if (signal < 0 && errno != EINTR)
			return 1;
		reap();
	}
}
