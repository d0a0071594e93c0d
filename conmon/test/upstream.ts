/** The cases that Debian's conmon 2.1.6 fails, and why; CONMON_KNOWN=1 runs them to show it. */
export const upstreamFails: Readonly<Record<string, string>> = {};
