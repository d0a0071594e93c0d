/** One run of critest against a socket, and what came of each spec. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { EXPECTED_SKIPS } from './expected-skips.ts';
import type { GoPrograms } from './programs.ts';

export interface CritestOptions {
  readonly programs: GoPrograms;
  /** Path of the socket. */
  readonly socket: string;
  /** How exec, attach and port-forward are spoken. */
  readonly transport: 'spdy' | 'websocket';
  /** Specs at a time. */
  readonly parallel: number;
  /** Regular expression (Go's) of the specs to run; '' = all. */
  readonly focus: string;
  /** Called before each spec, which then has a process of critest to itself. */
  readonly between?: () => Promise<void>;
  /** What critest prints. */
  readonly logFile: string;
}

export interface SpecResult {
  /** The texts of the containers and of the spec. */
  readonly name: string;
  readonly state: 'passed' | 'failed' | 'skipped';
  /** Why it failed, or what the spec said when it skipped itself; '' if it was not chosen. */
  readonly message: string;
  readonly seconds: number;
}

/** Longer than any run: sequentially with a slow machine. */
const SUITE_TIMEOUT = '40m';

/** Runs critest to its end. @throws when it ends without a report. */
export async function runCritest(options: CritestOptions): Promise<SpecResult[]> {
  mkdirSync(dirname(options.logFile), { recursive: true });
  const log = openSync(options.logFile, 'w');
  try {
    if (options.between === undefined) return await runOnce(options, log);
    return await runEach(options, options.between, log);
  } finally {
    closeSync(log);
  }
}

/** Every spec in a run of its own: critest has no hook between specs. */
async function runEach(options: CritestOptions, between: () => Promise<void>, log: number): Promise<SpecResult[]> {
  const planned = await runOnce(options, log, ['dry-run']);
  const results: SpecResult[] = [];
  for (const spec of planned) {
    if (spec.state === 'skipped') results.push(spec);
    else {
      await between();
      // ginkgo matches the suite's name, a space, and the spec's.
      const focus = ` \\Q${spec.name}\\E$`;
      const found = (await runOnce({ ...options, focus }, log)).filter(
        (each) => each.name === spec.name || each.state === 'failed',
      );
      results.push(
        ...(found.length > 0
          ? found
          : [{ ...spec, state: 'failed', message: 'it was planned, but critest did not find it again' } as const]),
      );
    }
  }
  return results;
}

async function runOnce(options: CritestOptions, log: number, flags: readonly string[] = []): Promise<SpecResult[]> {
  const scratch = mkdtempSync(join(tmpdir(), 'berth-critest-'));
  try {
    const child =
      options.parallel > 1
        ? startParallel(options, scratch, flags, log)
        : startSequential(options, scratch, flags, log);
    const [code] = (await once(child, 'exit')) as [number | null];
    const report = readdirSync(scratch).find((name) => name.endsWith('report.json'));
    if (report === undefined)
      throw new Error(`critest ended with ${code} and without a report; see ${options.logFile}`);
    return resultsOf(JSON.parse(readFileSync(join(scratch, report), 'utf8')) as GinkgoReport[]);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

function startSequential(
  options: CritestOptions,
  scratch: string,
  flags: readonly string[],
  log: number,
): ChildProcess {
  const ginkgo = [
    `json-report=${join(scratch, 'report.json')}`,
    'no-color',
    `timeout=${SUITE_TIMEOUT}`,
    ...selection(options),
    ...flags,
  ].map((each) => `-ginkgo.${each}`);
  return spawn(options.programs.critest, [...ginkgo, '-test.timeout=0', ...targets(options)], {
    stdio: ['ignore', log, log],
  });
}

/**
 * What `critest -parallel` does, with a place for the report: it hands itself, under a name that ends in .test, to
 * ginkgo.
 */
function startParallel(options: CritestOptions, scratch: string, flags: readonly string[], log: number): ChildProcess {
  const suite = join(scratch, 'critest.test');
  symlinkSync(options.programs.critest, suite);
  const ginkgo = [
    `nodes=${options.parallel}`,
    'json-report=report.json',
    `output-dir=${scratch}`,
    'no-color',
    `timeout=${SUITE_TIMEOUT}`,
    'skip=benchmark',
    ...selection(options),
    ...flags,
  ].map((each) => `--${each}`);
  return spawn(options.programs.ginkgo, [...ginkgo, suite, '--', ...targets(options)], {
    stdio: ['ignore', log, log],
    cwd: scratch,
  });
}

/** ginkgo's flags for the specs that are run, without `-ginkgo.`. */
export function selection({ focus }: Pick<CritestOptions, 'focus'>): string[] {
  const skips = EXPECTED_SKIPS.filter(({ asked }) => asked === true).map(({ spec }) => `skip=${spec.source}`);
  return focus === '' ? skips : [...skips, `focus=${focus}`];
}

function targets({ socket, transport }: CritestOptions): string[] {
  const endpoint = `unix://${socket}`;
  const websocket = transport === 'websocket' ? ['-websocket-exec', '-websocket-attach', '-websocket-portforward'] : [];
  return ['-runtime-endpoint', endpoint, '-image-endpoint', endpoint, ...websocket];
}

export interface GinkgoReport {
  /** Why a suite ended that did not come to its end. */
  readonly SpecialSuiteFailureReasons?: readonly string[] | null;
  readonly SpecReports:
    | readonly {
        readonly ContainerHierarchyTexts: readonly string[] | null;
        readonly LeafNodeType: string;
        readonly LeafNodeText: string;
        readonly State: string;
        readonly RunTime: number;
        readonly Failure?: {
          readonly Message?: string;
          readonly Location?: { readonly FileName?: string; readonly LineNumber?: number };
        };
      }[]
    | null;
}

/** What a report of ginkgo's says of each spec. */
export function resultsOf(reports: readonly GinkgoReport[]): SpecResult[] {
  return (
    reports
      .flatMap((report) => report.SpecReports ?? [])
      .map((spec): SpecResult => {
        const name =
          spec.LeafNodeType === 'It'
            ? [...(spec.ContainerHierarchyTexts ?? []), spec.LeafNodeText].join(' ')
            : `(${spec.LeafNodeType})`;
        const state =
          spec.State === 'passed'
            ? 'passed'
            : spec.State === 'skipped' || spec.State === 'pending'
              ? 'skipped'
              : 'failed';
        const { Message = '', Location } = spec.Failure ?? {};
        const at =
          state === 'failed' && Location?.FileName !== undefined
            ? ` (${Location.FileName.split('/').at(-1)}:${Location.LineNumber})`
            : '';
        return { name, state, message: `${Message}${at}`, seconds: spec.RunTime / 1e9 };
      })
      // The suite's own nodes count only when they fail.
      .filter((result) => !(result.name.startsWith('(') && result.state !== 'failed'))
  );
}
