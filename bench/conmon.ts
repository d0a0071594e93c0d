/**
 * Measures the monitor beside the distribution's, in one run on one machine:
 *
 *   PSS of one idle monitor while 50 run            (ours must stay under 0.15 MB)
 *   CPU for 100 MB of log                           (ours must not exceed upstream's)
 *   SIGKILL of a container to its exit file, median (ours must stay under 5 ms)
 *
 * `node bench/conmon.ts` prints a table and fails when ours misses a bound. Needs `make -C conmon
 * static tool`. The container is a shell behind the suite's stand-in runtime, so that the numbers
 * are the monitor's alone.
 */
import { readFileSync, rmSync, watch } from 'node:fs';
import { Case, type Subject, isAlive, subjects, tool, until } from '../conmon/test/harness.ts';

const monitorCount = 50;
const logMb = 100;
const killCount = 51;

interface Result {
  readonly pssKb: number;
  readonly anonymousKb: number;
  readonly cpuMs: number;
  readonly exitMs: number;
}

function rollup(pid: number, field: string): number {
  return Number(
    new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1],
  );
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1]!;
}

/** The median monitor of `monitorCount` that idle beside each other. */
async function memory(subject: Subject): Promise<Pick<Result, 'pssKb' | 'anonymousKb'>> {
  const cases = Array.from({ length: monitorCount }, () => new Case(subject));
  try {
    const pids: number[] = [];
    for (const c of cases) {
      await c.start({ program: 'exec sleep 1000', args: ['-i'] }).created();
      pids.push(await c.pidIn('conmon.pid'));
    }
    return {
      pssKb: median(pids.map((pid) => rollup(pid, 'Pss'))),
      anonymousKb: median(pids.map((pid) => rollup(pid, 'Anonymous'))),
    };
  } finally {
    for (const c of cases) await c.close();
  }
}

/** User and system time the monitor takes to log `logMb` of 100-byte lines into tmpfs. */
async function cpu(subject: Subject): Promise<number> {
  const c = new Case(subject);
  const log = `/dev/shm/${c.id}.log`;
  try {
    const program = `${tool} lines 2000 60 | head -c ${logMb}000000; touch ${c.path('done')}; exec sleep 1000`;
    await c.start({ program, logs: [`k8s-file:${log}`] }).created();
    const pid = await c.pidIn('conmon.pid');
    const written = (): number => Number(/^wchar: (\d+)/m.exec(readFileSync(`/proc/${pid}/io`, 'utf8'))?.[1]);
    await until('the log is written', () => written() > logMb * 1.4e6, 120_000);
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ');
    return (Number(fields[11]) + Number(fields[12])) * 10; // utime and stime in ticks of 10 ms
  } finally {
    await c.close();
    rmSync(log, { force: true });
  }
}

/** From the signal to the notification of the exit file. */
async function exitLatency(subject: Subject): Promise<number> {
  const times: number[] = [];
  for (let i = 0; i < killCount; i++) {
    const c = new Case(subject);
    try {
      const pid = await c.start({ program: 'exec sleep 1000' }).created();
      const seen = new Promise<number>((done) => {
        const watcher = watch(c.path('exits'), (_, name) => {
          if (name !== c.id) return;
          done(performance.now());
          watcher.close();
        });
      });
      const start = performance.now();
      process.kill(pid, 'SIGKILL');
      times.push((await seen) - start);
      await until('the container ends', () => !isAlive(pid));
    } finally {
      await c.close();
    }
  }
  return median(times);
}

const results = new Map<string, Result>();
for (const subject of subjects)
  results.set(subject.name, {
    ...(await memory(subject)),
    cpuMs: median([await cpu(subject), await cpu(subject), await cpu(subject)]),
    exitMs: await exitLatency(subject),
  });

const ours = results.get('ours')!;
const upstream = results.get('upstream')!;
const rows: readonly (readonly [string, number, number, string])[] = [
  [`PSS of an idle monitor, ${monitorCount} running (kB)`, ours.pssKb, upstream.pssKb, '≤ 150'],
  ['  of it anonymous memory (kB)', ours.anonymousKb, upstream.anonymousKb, ''],
  [`CPU for ${logMb} MB of log (ms)`, ours.cpuMs, upstream.cpuMs, '≤ upstream'],
  [`SIGKILL to exit file, median of ${killCount} (ms)`, ours.exitMs, upstream.exitMs, '< 5'],
];
console.log(`${''.padEnd(48)}${'ours'.padStart(10)}${'upstream'.padStart(10)}  bound`);
for (const [what, a, b, bound] of rows)
  console.log(`${what.padEnd(48)}${a.toFixed(1).padStart(10)}${b.toFixed(1).padStart(10)}  ${bound}`);
if (ours.pssKb > 150 || ours.cpuMs > upstream.cpuMs || ours.exitMs >= 5) process.exitCode = 1;
