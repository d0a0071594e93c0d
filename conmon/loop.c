/*
 * The loop: one epoll, a few timers, and the table of what happens when. Descriptors never decide
 * anything themselves: what they learn about the life of the container arrives here as an event.
 */
#include "conmon.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

static void on_signals(struct conmon *c, struct source *source, uint32_t events)
{
	struct signalfd_siginfo info;

	(void)events;
	while (read(source->fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		if (info.ssi_signo == SIGCHLD) {
			child_reap(c);
			continue;
		}
		c->stop_signal = (int)info.ssi_signo;
		loop_event(c, EVENT_STOP_SIGNAL);
	}
}

/*
 * Opens the epoll and turns the signals we care for into one of its descriptors. A write to a
 * vanished client or beyond a file size limit must be an error, not our death.
 */
int loop_open(struct conmon *c)
{
	sigset_t set;

	(void)signal(SIGPIPE, SIG_IGN);
	(void)signal(SIGXFSZ, SIG_IGN);
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGCHLD);
	(void)sigaddset(&set, SIGTERM);
	(void)sigaddset(&set, SIGINT);
	(void)sigaddset(&set, SIGQUIT);
	_Static_assert(sizeof(sigset_t) <= sizeof(c->saved_sigmask), "room for a signal mask");
	if (sigprocmask(SIG_BLOCK, &set, (sigset_t *)(void *)c->saved_sigmask) < 0)
		return fail(c, errno, "cannot block signals");
	c->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	c->signals.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (c->epoll_fd < 0 || c->signals.fd < 0)
		return fail(c, errno, "cannot open the event loop");
	c->signals.ready = on_signals;
	return loop_add(c, &c->signals, EPOLLIN);
}

static int control(struct conmon *c, int operation, struct source *source, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = source };

	if (epoll_ctl(c->epoll_fd, operation, source->fd, &event) < 0)
		return -errno;
	return 0;
}

/* Starts watching source->fd. For set-up: failing is the end of it. */
int loop_add(struct conmon *c, struct source *source, uint32_t events)
{
	int r = control(c, EPOLL_CTL_ADD, source, events);

	return r < 0 ? fail(c, -r, "cannot watch descriptor %d", source->fd) : 0;
}

/*
 * Watches for this from now on, whether it was watched before or not, and looks at once whether it
 * is there already. For while the container lives: failing is no reason to end.
 */
int loop_want(struct conmon *c, struct source *source, uint32_t events)
{
	int r = control(c, EPOLL_CTL_MOD, source, events);

	return r == -ENOENT ? control(c, EPOLL_CTL_ADD, source, events) : r;
}

/* Stops watching; content when it was not watched. */
void loop_remove(struct conmon *c, struct source *source)
{
	if (source->fd >= 0)
		(void)control(c, EPOLL_CTL_DEL, source, 0);
}

/* Stops watching and closes. */
void loop_close(struct conmon *c, struct source *source)
{
	loop_remove(c, source);
	close_fd(&source->fd);
}

/* Sets a timer to ms from now, or off with -1. */
void loop_timer(struct conmon *c, enum timer timer, int64_t ms)
{
	c->timers[timer] = ms < 0 ? 0 : now_ms() + ms;
}

/* --- what happens when ------------------------------------------------------------------------ */

static void runtime_exited(struct conmon *c)
{
	loop_timer(c, TIMER_KILL, -1);
	c->failed = child_created(c);
	c->state = c->failed < 0 ? STATE_ENDED : STATE_RUNNING;
	if (c->failed < 0)
		return;
	oom_watch(c);
	if (c->opt.timeout_s > 0)
		loop_timer(c, TIMER_TIMEOUT, (int64_t)c->opt.timeout_s * 1000);
	/* The container may have come and gone already. */
	child_reap(c);
}

static void container_exited(struct conmon *c)
{
	c->state = STATE_ENDED;
}

static void stop_runtime(struct conmon *c)
{
	note(LEVEL_INFO, "signal %d: passing it to the runtime", c->stop_signal);
	child_signal(c, c->stop_signal);
	loop_timer(c, TIMER_KILL, KILL_MS);
}

static void kill_runtime(struct conmon *c)
{
	child_signal(c, SIGKILL);
}

static void stop_container(struct conmon *c)
{
	note(LEVEL_INFO, "signal %d: passing it to the container", c->stop_signal);
	child_signal(c, c->stop_signal);
}

static void container_timed_out(struct conmon *c)
{
	note(LEVEL_INFO, "timed out after %d seconds, killing the container", c->opt.timeout_s);
	c->timed_out = true;
	child_kill(c);
	loop_timer(c, TIMER_KILL, KILL_MS);
}

static void container_unkillable(struct conmon *c)
{
	note(LEVEL_WARN, "container %d survives SIGKILL, giving it up", c->container_pid);
	c->lost = true;
	c->state = STATE_ENDED;
}

/* NULL: nothing to do. */
static void (*const table[STATE_COUNT][EVENT_COUNT])(struct conmon *) = {
	/*                   RUNTIME_EXIT    CONTAINER_EXIT    STOP_SIGNAL     TIMEOUT              KILL_DUE */
	[STATE_CREATING] = { runtime_exited, NULL,             stop_runtime,   NULL,                kill_runtime },
	[STATE_RUNNING]  = { NULL,           container_exited, stop_container, container_timed_out, container_unkillable },
	[STATE_ENDED]    = { NULL,           NULL,             NULL,           NULL,                NULL },
};

/* Something happened to the runtime, the container or us. */
void loop_event(struct conmon *c, enum event event)
{
	if (table[c->state][event])
		table[c->state][event](c);
}

static void timer_fired(struct conmon *c, enum timer timer)
{
	switch (timer) {
	case TIMER_TIMEOUT:
		loop_event(c, EVENT_TIMEOUT);
		break;
	case TIMER_KILL:
		loop_event(c, EVENT_KILL_DUE);
		break;
	case TIMER_STALL:
		attach_stalled(c);
		break;
	case TIMER_OOM:
		oom_check(c);
		break;
	case TIMER_TAIL:
		log_release(&c->log);
		break;
	case TIMER_COUNT:
		break;
	}
}

static int next_timeout(const struct conmon *c)
{
	int64_t now = 0, wait = -1;

	for (size_t i = 0; i < TIMER_COUNT; i++) {
		if (c->timers[i] == 0)
			continue;
		now = now ? now : now_ms();
		int64_t left = c->timers[i] > now ? c->timers[i] - now : 0;
		wait = wait < 0 || left < wait ? left : wait;
	}
	return wait > INT_MAX ? INT_MAX : (int)wait;
}

static void run_timers(struct conmon *c)
{
	for (enum timer i = 0; i < TIMER_COUNT; i++) {
		if (c->timers[i] == 0 || c->timers[i] > now_ms())
			continue;
		c->timers[i] = 0;
		timer_fired(c, i);
	}
}

/*
 * Runs until the container has ended or could not be created. One event at a time: a handler may
 * close any descriptor, and no stale event for it can then be waiting behind.
 */
void loop_run(struct conmon *c)
{
	while (c->state != STATE_ENDED) {
		struct epoll_event event;
		int n = epoll_wait(c->epoll_fd, &event, 1, next_timeout(c));

		if (n < 0 && errno != EINTR) {
			c->failed = fail(c, errno, "cannot wait for events");
			return;
		}
		if (n > 0) {
			struct source *source = event.data.ptr;
			source->ready(c, source, event.events);
		}
		run_timers(c);
	}
}
