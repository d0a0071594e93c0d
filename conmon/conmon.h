/*
 * conmon: the monitor of one container. It starts the container through an OCI runtime, owns its
 * stdio and its log for as long as it lives, and writes down how it ended. The whole internal
 * interface is on this page.
 *
 *   main.c    the order of events                     log.c      CRI log lines
 *   cli.c     the command line                        journal.c  journald's native protocol
 *   loop.c    epoll, timers, state × event table      attach.c   attach socket and its clients
 *   child.c   the runtime, the container, reaping     ctl.c      the ctl and winsz FIFOs
 *   stdio.c   its pipes or its terminal               oom.c      the cgroup's OOM counters
 *   exit.c    sync pipe, exit files, exit command     notify.c   sd-notify relay
 *   util.c    messages, paths, files, numbers         logfile.c  the log's file: limits, rotation, reopening
 *
 * Errors: a function returns 0 (or a useful value >= 0), or -errno. Whoever knows what happened
 * says so once with fail(), which keeps the sentence for the sync pipe and hands -errno back.
 * Only main() ends the process; a forked child that cannot go on ends in child_die().
 * After set-up nothing allocates: all that grows is bounded below.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

#define CONMON_VERSION "2.2.1"

enum {
	STDIO_MAX = 8192,    /* One read of stdio; callers size their attach buffers by it. */
	INPUT_MAX = 32768,   /* One packet from an attach client. */
	CLIENTS_MAX = 128,   /* Attach clients at a time; one more is turned away. */
	CTL_LINE_MAX = 200,  /* A ctl line is three numbers; a longer one is skipped to its end. */
	ARGS_TOTAL = 1024,   /* All values of all repeatable options together. */
	LABELS_MAX = 64,     /* --log-label: they all go into every journal entry. */
	REPORT_MAX = 4095,   /* podman reads the sync pipe 4096 bytes at a time and by packet. */
	LOG_OUT_MAX = 32768, /* Formatted log lines gathered for one write. */
	TAIL_MS = 100,       /* How long output without a newline may turn out to be the last line of its stream. */
	STALL_MS = 2000,     /* How long a client that does not read may hold the output. */
	/* How long slow clients all together may hold the exit; well below exitFileMs in pkg/base/limits.ts. */
	FINISH_MS = 10000,
	KILL_MS = 10000,     /* From asking the runtime or the container to die to giving up. */
	READS_PER_TURN = 16, /* Reads of one stream before the others have their turn. */
};

/* What attach packets carry in their first byte. */
enum stream { STREAM_STDOUT = 2, STREAM_STDERR = 3 };

enum level { LEVEL_ERROR, LEVEL_WARN, LEVEL_INFO, LEVEL_DEBUG, LEVEL_TRACE };

struct arg { const char *value; struct arg *next; };
struct arg_list { struct arg *first, *last; size_t count; };

/* The command line as given; strings point into argv. Sizes in bytes, -1 for no limit. */
struct options {
	const char *bundle, *cid, *cuuid, *name, *runtime, *restore, *exec_process_spec;
	const char *conmon_pidfile, *container_pidfile, *exit_dir, *persist_dir, *exit_command;
	const char *log_level, *log_tag, *sdnotify_socket, *socket_dir;
	struct arg_list exit_args, runtime_args, runtime_opts, log_paths, log_labels, log_allow_dirs;
	int64_t log_size_max, log_global_size_max;
	int timeout_s, exit_delay_s, log_max_files;
	bool api_version, exec, exec_attach, full_attach, leave_stdin_open, log_rotate;
	bool no_new_keyring, no_partial_message, no_pivot, no_sync_log, open_stdin;
	bool replace_listen_pid, sync, syslog, systemd_cgroup, terminal, version, help;
	struct arg pool[ARGS_TOTAL];
	size_t pool_used;
};

struct conmon;

/* Something epoll watches. Embed it; `ready` runs with what is ready. */
struct source {
	int fd;
	void (*ready)(struct conmon *conmon, struct source *source, uint32_t events);
};

struct stdio { struct source source; enum stream stream; bool edge; };
struct client { struct source source; bool input_done, owed; };
struct line_reader { char line[CTL_LINE_MAX]; size_t len; bool skip; };

/* What a stream has written since its last newline: held, and whether more went out before as pieces. */
struct tail { size_t len; bool open; char text[STDIO_MAX]; };

/* The log drivers. `drops` counts bytes of output that a sick driver could not take. */
struct log {
	int fd;                 /* k8s-file, or -1 */
	const char *path;       /* of the k8s-file */
	const struct options *opt;
	bool journald, passthrough;
	int64_t file_bytes, total_bytes, dropped;
	int error;              /* why lines are being dropped; 0 while all is well */
	int64_t stamp_second;   /* the second `stamp` was formatted for */
	char stamp[48];
	size_t out_len;
	char out[LOG_OUT_MAX];
	struct tail tails[2];
};

struct journal {
	int fd;
	size_t fixed_len;       /* the fields that are the same in every entry */
	char fixed[8192];
	struct { size_t len; char text[STDIO_MAX]; } partial[2];
	int64_t dropped;
	bool stalled;
};

struct oom {
	int counter_fd, event_fd;   /* memory.events or memory.oom_control; v1's eventfd */
	bool v2;
	int64_t kills;              /* the counter when last looked at; never falls */
	struct source source;
	struct source slice;        /* systemd: memory.events of the slice, which outlives the scope */
	int64_t slice_kills;        /* its counter when both could last be read */
};

enum state { STATE_CREATING, STATE_RUNNING, STATE_ENDED, STATE_COUNT };
enum event {
	EVENT_RUNTIME_EXIT, EVENT_CONTAINER_EXIT, EVENT_STOP_SIGNAL,
	EVENT_TIMEOUT, EVENT_KILL_DUE, EVENT_COUNT
};
enum timer { TIMER_TIMEOUT, TIMER_KILL, TIMER_STALL, TIMER_OOM, TIMER_TAIL, TIMER_COUNT };

struct conmon {
	struct options opt;
	struct log log;
	struct journal journal;
	struct oom oom;
	enum state state;
	int failed;                     /* -errno that ended the loop; the sentence is in `error` */
	char error[1024];

	int start_fd, sync_fd, attach_pipe_fd, bundle_fd, epoll_fd;
	pid_t runtime_pid, container_pid;
	int runtime_status, container_status, stop_signal;
	bool lost, timed_out;           /* lost: the container is gone and nobody knows how */
	struct source signals, container_gone, console, console_conn;
	int64_t timers[TIMER_COUNT];    /* CLOCK_MONOTONIC ms, 0 = off */
	uint64_t saved_sigmask[16];
	int oom_score_adj;
	bool oom_score_lowered;

	struct stdio out, err;          /* read ends; for a terminal `out` is the pty */
	int child_in, child_out, child_err;
	struct source in;               /* write end of the container's stdin */
	bool in_expected, in_eof;       /* may still appear (pty); close once drained */
	char console_path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	unsigned rows, columns;
	char capture[STDIO_MAX];        /* the runtime's stderr until it exits */
	size_t capture_len;
	bool capture_spilled;

	struct source listener, ctl, winsz, notify;
	struct line_reader ctl_reader, winsz_reader;
	struct client clients[CLIENTS_MAX];
	size_t client_count, owed_count;
	bool stdio_paused;
	int64_t finish_by;              /* the end of FINISH_MS, once the container has ended */
	char packet[1 + STDIO_MAX];     /* the stream byte, then one read of stdio */
	size_t packet_len;
	char input[INPUT_MAX];
	size_t input_len, input_off;
	char socket_link[4096];         /* <socket-dir>/<cuuid>, removed at the end */
	struct sockaddr_un notify_host;
	socklen_t notify_host_len;
};

/* cli.c */
int cli_parse(struct options *opt, int argc, char *const argv[], char *error, size_t error_size);
int cli_check(struct conmon *conmon);
const char *cli_help(void);

/* loop.c */
int loop_open(struct conmon *conmon);
int loop_add(struct conmon *conmon, struct source *source, uint32_t events);
int loop_want(struct conmon *conmon, struct source *source, uint32_t events);
void loop_remove(struct conmon *conmon, struct source *source);
void loop_close(struct conmon *conmon, struct source *source);
void loop_timer(struct conmon *conmon, enum timer timer, int64_t ms);
void loop_event(struct conmon *conmon, enum event event);
void loop_run(struct conmon *conmon);

/* child.c */
int child_daemonize(struct conmon *conmon, bool *ret_parent);
int child_spawn_runtime(struct conmon *conmon);
int child_created(struct conmon *conmon);
void child_reap(struct conmon *conmon);
void child_signal(struct conmon *conmon, int signal);
void child_kill(struct conmon *conmon);
bool child_is_known(const struct conmon *conmon);
void child_reset(struct conmon *conmon);
void child_exec(const char *path, char *const argv[]) __attribute__((noreturn));
void child_die(const char *what) __attribute__((noreturn));

/* stdio.c */
int stdio_open(struct conmon *conmon);
int stdio_console(struct conmon *conmon);
void stdio_arm(struct conmon *conmon, bool on);
void stdio_drain(struct conmon *conmon);
void stdio_flush_capture(struct conmon *conmon);
void stdio_take_terminal(struct conmon *conmon);
void stdio_pump_stderr(struct conmon *conmon);

/* log.c */
bool log_append(struct log *log, enum stream stream, const char *buf, size_t len);
void log_release(struct log *log);
void log_end(struct log *log, enum stream stream);
void log_sync(struct log *log);

/* logfile.c */
int log_open(struct log *log, const struct options *opt, char *error, size_t error_size);
int log_next_file(struct log *log);
int log_reopen(struct log *log);

/* journal.c */
int journal_open(struct conmon *conmon);
void journal_append(struct conmon *conmon, enum stream stream, const char *buf, size_t len);
void journal_flush(struct conmon *conmon);

/* attach.c */
int attach_open(struct conmon *conmon);
void attach_broadcast(struct conmon *conmon);
void attach_stalled(struct conmon *conmon);
void attach_finish(struct conmon *conmon);
void attach_close(struct conmon *conmon);
void stdin_pump(struct conmon *conmon);

/* ctl.c */
int ctl_open(struct conmon *conmon);
void ctl_resize(struct conmon *conmon);
int ctl_parse(const char *line, size_t len, unsigned *ret_numbers, size_t count);
void ctl_feed(struct line_reader *reader, const char *buf, size_t len,
	      void (*on_line)(void *context, const char *line, size_t len), void *context);

/* notify.c */
int notify_open(struct conmon *conmon);
size_t notify_filter(char *message, size_t len);

/* oom.c */
void oom_protect(struct conmon *conmon);
void oom_unprotect(struct conmon *conmon);
void oom_watch(struct conmon *conmon);
void oom_check(struct conmon *conmon);
int oom_parse(const char *text, size_t len, int64_t *ret_kills);

/* exit.c */
int exit_reserve(struct conmon *conmon);
void exit_unreserve(const struct conmon *conmon);
int exit_status(const struct conmon *conmon);
int exit_announce(struct conmon *conmon);
int exit_command(struct conmon *conmon);
void sync_report(struct conmon *conmon, int *fd, int value, const char *message, size_t len);

/* util.c */
void note_open(const char *cid, const char *tag, enum level level, bool use_syslog);
int note_fd(void);
void note(enum level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
int fail(struct conmon *conmon, int error, const char *format, ...) __attribute__((format(printf, 3, 4)));
int write_all(int fd, const char *buf, size_t len);
int path_join(char ret_path[static 4096], const char *dir, const char *name);
int replace_file(const char *dir, const char *name, const char *text);
int read_small(const char *path, char *buf, size_t size);
int parse_int(const char *text, int64_t min, int64_t max, int64_t *ret_value);
int64_t now_ms(void);
void close_fd(int *fd);
