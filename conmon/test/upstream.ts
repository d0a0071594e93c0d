/** The cases that Debian's conmon 2.1.6 fails, and why; CONMON_KNOWN=1 runs them to show it. */
export const upstreamFails: Readonly<Record<string, string>> = {
  'refuses what it does not implement by name': 'implements --seccomp-notify-socket, which 2.2 has dropped',
  'tells the sync pipe about a wrong command line': 'says it on stderr only; the caller sees the pipe close',
  'refuses an id that is no file name': 'joins the id into paths unchecked',
  'says how a runtime died that said nothing': 'sends nothing at all',
  'refuses a runtime that succeeds without a pid': 'exits without a word on the sync pipe, or takes garbage for pid 0',
  'is not taken in by the pid file of an earlier run': 'monitors whatever process has that pid now',
  'takes 10 MB of error from a runtime without blocking': 'waits for the runtime before it reads: both block for ever',
  'loses nothing of what a talkative runtime writes before it succeeds': 'the same',
  'ends a runtime that hangs when told to end': 'the runtime ends, the caller is told nothing',
  'gives a container without -i an empty stdin, and none of its descriptors':
    'passes what it inherited on to the runtime',
  'gives the container no ignored or blocked signals': 'SIGPIPE stays ignored',
  'is not held back by a grandchild that writes for ever':
    'reads until the pipe is empty, which on a busy machine it never is',
  'ends the last line of each stream, though it has no newline, as one': 'leaves it a piece',
  'shows a prompt while it waits, and ends the line when the stream ends': 'leaves it a piece',
  'makes a log that its group may read, and nobody else': 'makes it 0600; 2.2 has 0640',
  'replaces a link at the end of the path, dangling or not': 'follows it',
  'refuses a log that cannot be one, with a message': 'the message is on stderr only; a FIFO blocks it for ever',
  'loses nothing when told to reopen a log that was not renamed': 'truncates it',
  'lets who watches the directory see that it has reopened, as CRI-O wants to':
    'makes a new file each time, and loses the old one',
  'goes on in the old file when there can be no new one': 'exits, and the container has no monitor',
  'drops lines on a full disk, goes on, and writes again when there is room':
    'leaves half a line, and the rest of the next joins it',
  'survives the limit on file sizes': 'dies of SIGXFSZ',
  'keeps full logs with --log-rotate, every line once and in order': '--log-rotate came later',
  'lets the oldest log fall off with --log-max-files': '--log-max-files came later',
  'refuses nonsensical rotation': '--log-rotate and --log-max-files came later',
  'writes only below the directories it may': '--log-allowlist-dir came later',
  'journald gets labels and priorities': '--log-label and priority prefixes came later',
  'journald entries are whole lines, without a newline at the end': 'MESSAGE ends in a newline',
  'refuses labels that are none': '--log-label came later',
  'says what has no effect without the journal': '--no-container-partial-message came later',
  'says why the runtime failed though a client has come and gone': 'sends nothing at all',
  'is not blocked by a client that never reads': 'writes to it until it does',
  'leaks nothing over 10 000 rapid attaches': 'keeps the descriptor of a client that left until the next output',
  'turns away more clients than it can hold, and keeps those it has': 'has no limit',
  'links the bundle into the socket directory, however long the path, and cleans up': 'leaves the link',
  'survives garbage and obeys the next line': 'its line buffer never recovers, and it spins',
  'runs the exit command with its arguments after the exit file, and waits for it':
    'ends with the status of the container (2.2: of the command)',
  'does not wait for what the container left behind': 'waits for every process the container orphaned',
  'reports a container it lost as 255 or as it was, never as success': 'says -1 (and 2.2 says 0)',
  'reports a container that was gone before it could look as 255, never as success': 'says -1 (and 2.2 says 0)',
  'loses no exit code on a file system that has become full': 'writes the exit file when there is no room for it',
  'refuses to begin where its exit could not be told: the file system is full already': 'begins',
  'keeps no place for an exit file when there was nothing to end': 'says nothing of a runtime that fails silently',
  'still writes the other exit file when one cannot be written': 'exits without the other',
  'tells syslog when an exit file cannot be written: nobody else listens by then':
    'gives up at the first file that cannot be written',
  'relays what a service may say, and no more': 'relays READY=1 only',
};

/** Those of them that it passes when the machine is idle, so that passing proves nothing. */
export const upstreamUnsteady: ReadonlySet<string> = new Set(['is not held back by a grandchild that writes for ever']);
